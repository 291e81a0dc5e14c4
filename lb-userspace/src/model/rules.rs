//! Rules that a configuration file and a CLI change must both keep.

use std::net::{IpAddr, Ipv4Addr};

use super::{Protocol, ServiceOptions, check::Check};

/// Why `address` cannot be a VIP, as the end of a sentence "a VIP cannot be ..."; `None`: it can.
pub fn vip_fault(address: IpAddr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("a loopback address, which no client reaches");
    }
    unicast_fault(address)
}

/// Why `address` cannot be a backend's, as the end of a sentence "a backend cannot have ...".
///
/// Loopback is allowed: like any other address of the director it means "the director itself".
pub fn backend_fault(address: IpAddr) -> Option<&'static str> {
    unicast_fault(address)
}

fn unicast_fault(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4-mapped IPv6 address, which never stands in a packet (write the IPv4 address)")
        }
        _ => None,
    }
}

/// Whether a pair of connection thresholds is one: IPVS refuses lower > upper with ERANGE
/// (`net/netfilter/ipvs/ip_vs_ctl.c` ip_vs_add_dest), also when upper is 0, "no limit".
pub fn thresholds_ok(upper: u32, lower: u32) -> bool {
    lower <= upper
}

/// The option that a service without an endpoint of its protocol cannot have, and that protocol.
pub fn option_fault(
    has: impl Fn(Protocol) -> bool,
    options: &ServiceOptions,
) -> Option<(&'static str, Protocol)> {
    let given = [
        ("sloppy_tcp", options.sloppy_tcp, Protocol::Tcp),
        ("sloppy_sctp", options.sloppy_sctp, Protocol::Sctp),
        ("ops", options.ops, Protocol::Udp),
    ];
    let wrong = given.into_iter().find(|(_, is_given, its)| *is_given && !has(*its));
    wrong.map(|(name, _, its)| (name, its))
}

/// Whether a check cannot say anything of a service: it speaks TCP to the service's own port, where nobody does.
/// A UDP service may well be served over TCP beside it, as DNS is.
pub fn check_fault(has: impl Fn(Protocol) -> bool, check: &Check) -> bool {
    let is_sctp = has(Protocol::Sctp) && !has(Protocol::Tcp) && !has(Protocol::Udp);
    is_sctp && check.port.is_none() && check.kind.protocol() == Some(Protocol::Tcp)
}

/// "IPv4" or "IPv6".
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether two addresses are of one family.
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
