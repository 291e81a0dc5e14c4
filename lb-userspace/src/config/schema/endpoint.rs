//! One element of a service's `endpoints`.

use super::*;
pub static SECTION: Section = Section {
    path: "services[].endpoints[]",
    doc: "One more place where clients of the service connect.",
    keys: &[&ADDRESS, &PORT, &PROTOCOL],
};
pub static ADDRESS: Key = key(
    "address",
    "IPv4 or IPv6 address",
    Words("the service's `address`"),
    "A VIP, of the family of the service's first.",
)
.also(&["vip", "ip", "virtual_address"]);
pub static PORT: Key = key(
    "port",
    "0 to 65535, or a range such as 5000-5100",
    Required,
    "0 is every port of the address. Backends get packets with the port that they came to.",
)
.also(&["ports"]);
pub static PROTOCOL: Key =
    key("protocol", "`tcp`, `udp` or `sctp`", Words("the service's `protocol`"), "The transport protocol.");
