//! The keys of `limits`.

use super::*;

pub static SECTION: Section = Section {
    path: "limits",
    doc: "How many of each there may be. Sizes of BPF arrays, fixed when the program is loaded.",
    keys: &[&SERVICES, &DESTINATIONS, &ENDPOINTS],
};
pub static SERVICES: Key = key(
    "services",
    "count, 1 to 65534",
    Is("4096"),
    "Services. What their schedulers choose from has 16 MB, or 192 bytes for each of `destinations` if that is more, or \
     twice what the services need that there are at the first start: what a reload replaces stands there twice for a \
     moment. A service of 16 backends takes below 1.5 KB, with `mh` 16 KB (4,096 of them: 140 MB are reserved), with \
     `wrr` and weights that have no common divisor up to 256 KB. A change that does not fit is refused; `lb detach` and \
     a new start make room for it.",
);
pub static DESTINATIONS: Key =
    key("destinations", "count, 1 to 262144", Is("16384"), "Backends, all services together.")
        .also(&["backends"]);
pub static ENDPOINTS: Key = key(
    "endpoints",
    "count, 1 to 65534",
    Words("16384, or `limits.services` if that is more"),
    "Endpoints, all services together. The port ranges of one address and protocol count as one.",
);
