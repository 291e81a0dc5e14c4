//! Whether frames can get to a backend: in a segment of the director's, its MAC known.

use std::{collections::BTreeSet, net::IpAddr};

use super::mac_text;
use crate::doctor::{
    finding::{Finding, Id},
    held::{Mac, Next},
};

#[derive(Clone, Debug)]
pub struct Facts {
    pub backend: IpAddr,
    pub next: Next,
    /// None: there is no route.
    pub route: Option<Route>,
    /// Who answers ARP or ND for it; asked where its MAC is not known.
    pub owners: BTreeSet<Mac>,
}

/// The kernel's way to it.
#[derive(Clone, Debug)]
pub struct Route {
    pub device: String,
    pub gateway: Option<IpAddr>,
}

pub fn judge(facts: &Facts) -> Option<Finding> {
    let Facts { backend, next, route, owners } = facts;
    if *next == Next::Local {
        return None;
    }
    let subject = format!("backend {backend}");
    let Some(Route { device, gateway }) = route else {
        return Some(Finding::new(
            Id::NoRoute,
            subject,
            "the routing table has no way to it",
            "it gets no new connections",
            format!(
                "give the director an address in the segment of {backend}: ip addr add ADDRESS/PREFIX dev INTERFACE"
            ),
        ));
    };
    if let Some(gateway) = gateway {
        return Some(Finding::new(
            Id::BehindGateway,
            subject,
            format!("the way to it leads by {device} to the router {gateway}"),
            "Direct Routing rewrites MAC addresses, which end at a router: it gets no connections",
            format!(
                "give the director an address in the segment of {backend}, or use the backend's address in one of its segments"
            ),
        ));
    }
    if *next != Next::Unresolved {
        return None;
    }
    let protocol = if backend.is_ipv4() { "ARP" } else { "ND" };
    let (found, fix) = match owners.first() {
        Some(mac) => (
            format!(
                "it answers {protocol} on {device} with {}, and the data plane does not know it",
                mac_text(mac)
            ),
            "systemctl restart lb: no agent follows its neighbours".to_owned(),
        ),
        None => (
            format!("it does not answer {protocol} on {device}"),
            format!("look at the host {backend}: is it up, in this segment (VLAN), and is this its address?"),
        ),
    };
    Some(Finding::new(Id::Unresolved, subject, found, "it gets no new connections", fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let route = |gateway| Some(Route { device: "eth0".into(), gateway });
        let host = Next::Host { ifindex: 1, mac: [2; 6], tags: (0, 0), mtu: 1500 };
        let id = |next, route| {
            let facts = Facts { backend: ip("10.0.0.11"), next, route, owners: BTreeSet::new() };
            judge(&facts).map(|finding| finding.id)
        };
        assert_eq!(id(host, route(None)), None);
        assert_eq!(id(Next::Local, None), None);
        assert_eq!(id(Next::Unresolved, route(None)), Some(Id::Unresolved));
        assert_eq!(id(Next::Unresolved, route(Some(ip("10.0.0.254")))), Some(Id::BehindGateway));
        assert_eq!(id(host, route(Some(ip("10.0.0.254")))), Some(Id::BehindGateway));
        assert_eq!(id(Next::Unresolved, None), Some(Id::NoRoute));
        let facts = Facts {
            backend: ip("10.0.0.11"),
            next: Next::Unresolved,
            route: route(None),
            owners: [[7; 6]].into(),
        };
        assert!(judge(&facts).expect("a finding").found.contains("07:07:07:07:07:07"));
    }
}
