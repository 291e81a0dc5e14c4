//! Whether packets that the director receives fit on the way to a backend.

use std::net::IpAddr;

use super::reply::Reply;
use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug)]
pub struct Facts {
    pub backend: IpAddr,
    /// The way out: interface, bytes of an IP packet.
    pub device: String,
    pub mtu: u32,
    /// The largest of the interfaces that clients' packets come in by.
    pub ingress: String,
    pub ingress_mtu: u32,
    /// To an echo request of the least length, and to one of `length` bytes.
    pub short: Reply,
    pub long: Reply,
    pub length: u32,
    /// What its SYN-ACKs announce.
    pub mss: Option<u16>,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    egress(facts).into_iter().chain(path(facts)).chain(mss(facts)).collect()
}

fn egress(facts: &Facts) -> Option<Finding> {
    let Facts { backend, device, mtu, ingress, ingress_mtu, .. } = facts;
    (mtu < ingress_mtu).then(|| {
        Finding::new(
            Id::EgressMtu,
            format!("backend {backend}"),
            format!("{ingress} has MTU {ingress_mtu}, and {device}, by which its packets leave, has {mtu}"),
            "longer packets are answered with ICMP (fragmentation needed): clients whose firewall drops that hang",
            format!("ip link set {device} mtu {ingress_mtu} (and on the switch and the backend), or the smaller one on {ingress}"),
        )
    })
}

fn path(facts: &Facts) -> Option<Finding> {
    let Facts { backend, device, short, long, length, .. } = facts;
    // A host that answers no ping tells nothing.
    let is_lost =
        matches!(short, Reply::Echoed { .. }) && matches!(long, Reply::Silent | Reply::TooBig { .. });
    is_lost.then(|| {
        Finding::new(
            Id::PathMtu,
            format!("backend {backend}"),
            format!("it answers a ping of 84 bytes, and to one of {length}, which {device} can send: {}", long.words()),
            "long packets of clients are lost on the way: uploads and large queries hang, while connecting works",
            format!("make the MTU {length} on the backend's interface and on the switch between, or smaller on the director's"),
        )
    })
}

/// Bytes of the headers around a segment without options: IP and TCP.
fn headers(address: IpAddr) -> u32 {
    if address.is_ipv4() { 40 } else { 60 }
}

fn mss(facts: &Facts) -> Option<Finding> {
    let Facts { backend, ingress, ingress_mtu, mss, .. } = facts;
    let needed = u32::from((*mss)?) + headers(*backend);
    (needed > *ingress_mtu).then(|| {
        Finding::new(
            Id::MssTooLarge,
            format!("backend {backend}"),
            format!("its SYN-ACK announces MSS {}, which are packets of {needed} bytes; {ingress} has MTU {ingress_mtu}", needed - headers(*backend)),
            "clients with jumbo frames send it packets that the director's interface does not take",
            format!("ip link set {ingress} mtu {needed}, or on {backend}: ip route change default via GATEWAY advmss {}", ingress_mtu.saturating_sub(headers(*backend))),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let backend: IpAddr = "10.0.0.11".parse().expect("an address");
        let answer = Reply::Echoed { from: backend };
        Facts {
            backend,
            device: "eth1".into(),
            mtu: 1500,
            ingress: "eth0".into(),
            ingress_mtu: 1500,
            short: answer,
            long: answer,
            length: 1500,
            mss: Some(1460),
        }
    }

    #[track_caller]
    fn finds(facts: Facts, ids: &[Id]) {
        let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{facts:?}");
    }

    #[test]
    fn what_does_not_fit() {
        finds(facts(), &[]);
        finds(Facts { long: Reply::Silent, ..facts() }, &[Id::PathMtu]);
        finds(Facts { long: Reply::TooBig { by: facts().backend, mtu: 1400 }, ..facts() }, &[Id::PathMtu]);
        finds(Facts { short: Reply::Silent, long: Reply::Silent, ..facts() }, &[]);
        finds(Facts { mtu: 1400, ..facts() }, &[Id::EgressMtu]);
        finds(Facts { mtu: 9000, ..facts() }, &[]);
        finds(Facts { mss: Some(8960), ..facts() }, &[Id::MssTooLarge]);
        finds(Facts { mss: Some(1440), backend: "fd00::1".parse().expect("an address"), ..facts() }, &[]);
        finds(Facts { mss: None, ..facts() }, &[]);
    }
}
