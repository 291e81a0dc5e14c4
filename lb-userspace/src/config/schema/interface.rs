//! The keys of an interface.

use super::*;
pub static SECTION: Section =
    Section { path: "interfaces[]", doc: "One interface to attach to.", keys: &[&NAME, &MODE, &OFFLOADS] };
pub static NAME: Key = key(
    "name",
    "interface name",
    Required,
    "`eth0`, `bond0`, or a VLAN device such as `eth0.100`, which means its parent plus the tag.",
)
.also(&["interface", "device"]);
pub static MODE: Key = key(
    "mode",
    "`auto`, `native` or `generic`",
    Is("auto"),
    "`native` runs in the driver or not at all; `generic` runs in the stack (any device, several times \
     slower); `auto` takes native where it can, else generic with a warning.",
);
pub static OFFLOADS: Key = key(
    "offloads",
    "`check` or `set`",
    Is("check"),
    "What to do about rx VLAN offload, LRO and hardware GRO that are in the way: `check` warns, `set` \
     switches them off and `lb detach` restores them.",
);
