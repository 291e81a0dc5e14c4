//! One element of a service's `sources`.

use super::*;

pub static SECTION: Section = Section {
    path: "services[].sources[]",
    doc: "What clients of a prefix may do, either `action` or `limit`. `- 10.0.0.0/8 deny` is short for `{prefix: \
          10.0.0.0/8, action: deny}`, `- 0.0.0.0/0 limit 100/s burst 200 per 24` for the four keys.",
    keys: &[&PREFIX, &ACTION, &LIMIT, &BURST, &PER],
};
pub static PREFIX: Key = key(
    "prefix",
    "address or prefix, of the service's family",
    Required,
    "Whose connections it is about. Write an IPv6 prefix that begins or ends with a colon in quotes.",
)
.also(&["source", "address"]);
pub static ACTION: Key = key(
    "action",
    "`allow` or `deny`",
    Words("required, or `limit`"),
    "`allow`: they open connections, as many as they like; `deny`: they open none.",
);
pub static LIMIT: Key = key(
    "limit",
    "rate, 1/m to 100000/s",
    Words("required, or `action`"),
    "New connections that each source may open, a second (`100/s`) or a minute (`30/m`). What goes over it is \
     dropped, so that the client's TCP tries again.",
)
.also(&["rate"]);
pub static BURST: Key = key(
    "burst",
    "1 to 1000000 connections",
    Words("two seconds' worth, at least 10"),
    "With `limit`: so many may be opened at once, after a time without any.",
);
pub static PER: Key = key(
    "per",
    "prefix length, from that of `prefix` to 32 or 128",
    Words("32; IPv6: 64, or that of `prefix`"),
    "With `limit`: clients that share so many bits of their address are one source. The length of `prefix` itself: all \
     of them have one limit together.",
);
