//! Who has a VIP: the director, and nobody else in its segments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::mac_text;
use crate::doctor::{
    finding::{Finding, Id},
    held::Mac,
};

#[derive(Clone, Debug)]
pub struct Facts {
    pub vip: IpAddr,
    /// The director's interfaces that have it.
    pub here: Vec<String>,
    /// The kernel routes what comes in by an interface of clients' for addresses that are not its own: `ip_forward`.
    pub routes: Option<String>,
    /// Who answered the question who has it, by the interface that it was asked on.
    pub answered: BTreeMap<String, BTreeSet<Mac>>,
    /// MAC addresses of the director.
    pub own: BTreeSet<Mac>,
    /// Of the backends.
    pub backends: BTreeMap<Mac, IpAddr>,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let Facts { vip, here, routes, answered, own, backends } = facts;
    let others =
        answered.iter().flat_map(|(device, macs)| macs.difference(own).map(move |mac| (device, mac)));
    let mut findings: Vec<Finding> = others
        .map(|(device, mac)| match backends.get(mac) {
            Some(backend) => answers(*vip, device, mac, *backend),
            None => taken(*vip, device, mac, !here.is_empty()),
        })
        .collect();
    if here.is_empty() {
        findings.push(Finding::new(
            Id::VipNotHere,
            vip,
            "no interface of this director has it",
            "nobody answers ARP or ND for it: only a router that has a route to this director reaches it",
            format!("`vips: {{add_to: INTERFACE}}` in the configuration, or ip addr add {vip} dev INTERFACE"),
        ));
        findings.extend(routes.as_ref().map(|setting| routed_on(*vip, setting)));
    }
    findings
}

fn answers(vip: IpAddr, device: &str, mac: &Mac, backend: IpAddr) -> Finding {
    let question = if vip.is_ipv4() { "ARP" } else { "ND" };
    let fix = if vip.is_ipv4() {
        format!(
            "on {backend}: lb realserver start {vip} (arp_ignore=1, arp_announce=2); then on routers and clients: ip neigh flush to {vip}"
        )
    } else {
        format!("on {backend}: take {vip} off its interface and put it on lo: lb realserver start {vip}")
    };
    Finding::new(
        Id::AnswersArp,
        format!("VIP {vip} at backend {backend}"),
        format!("it answers {question} for the VIP on {device}, with {}", mac_text(mac)),
        "clients and routers that believe it come past the director, all to this one backend",
        fix,
    )
}

/// An address of the director's own is never routed; this one is, if a packet of it is passed up.
fn routed_on(vip: IpAddr, setting: &str) -> Finding {
    Finding::new(
        Id::IpForward,
        vip,
        format!("{setting} is 1, and no interface of this director has the VIP"),
        "what comes for it and no service takes (another port, a ping) is routed on by the kernel: back to the router that \
         sent it, in a loop until its TTL ends",
        format!(
            "sysctl -w {setting}=0: balancing needs no forwarding by the kernel; if this host routes for others: ip addr \
             add {vip} dev lo"
        ),
    )
}

/// The place of VRRP, once there is some: a backup whose master is who answered is as it should be, and neither this nor
/// [`Id::VipNotHere`] is to be found; a master that sees another host answer has a peer that believes to be master, too.
/// Until then `Facts` cannot tell a peer from a stranger.
fn taken(vip: IpAddr, device: &str, mac: &Mac, is_here: bool) -> Finding {
    let (effect, peer) = if is_here {
        ("clients and routers go to either of the two, as chance will have it", "")
    } else {
        (
            "clients and routers go to that host, not to this director",
            "nothing, if it is the director that this one is the backup of; else ",
        )
    };
    Finding::new(
        Id::VipTaken,
        vip,
        format!(
            "{} answers for it on {device}, which is neither this director nor one of its backends",
            mac_text(mac)
        ),
        effect,
        format!(
            "{peer}find the host (its switch port, by the MAC) and take the address off it: ip addr del {vip} dev INTERFACE"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stranger_is_named() {
        let (own, backend, stranger) = ([1; 6], [2; 6], [3; 6]);
        let address: IpAddr = "10.0.0.11".parse().expect("an address");
        let facts = |answered: &[Mac]| Facts {
            vip: "10.0.0.100".parse().expect("an address"),
            here: vec!["eth0".into()],
            routes: Some("net.ipv4.conf.eth0.forwarding".into()),
            answered: [("eth0".to_owned(), answered.iter().copied().collect())].into(),
            own: [own].into(),
            backends: [(backend, address)].into(),
        };
        let ids = |facts: &Facts| judge(facts).iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids(&facts(&[])), []);
        assert_eq!(ids(&facts(&[own])), []);
        assert_eq!(ids(&facts(&[own, backend, stranger])), [Id::AnswersArp, Id::VipTaken]);
        assert_eq!(ids(&Facts { here: Vec::new(), ..facts(&[]) }), [Id::VipNotHere, Id::IpForward]);
        assert_eq!(ids(&Facts { here: Vec::new(), routes: None, ..facts(&[]) }), [Id::VipNotHere]);
        // A backup sees its master so.
        let backup = judge(&Facts { here: Vec::new(), routes: None, ..facts(&[stranger]) });
        assert_eq!(
            backup.iter().map(|finding| finding.id).collect::<Vec<_>>(),
            [Id::VipTaken, Id::VipNotHere]
        );
        assert!(backup[0].fix.contains("the backup of") && backup[0].effect.contains("not to this director"));
        assert!(!judge(&facts(&[stranger]))[0].fix.contains("backup"));
        let found = judge(&facts(&[backend]));
        assert!(
            found[0].subject.contains("10.0.0.11") && found[0].found.contains("02:02:02:02:02:02"),
            "{found:?}"
        );
    }
}
