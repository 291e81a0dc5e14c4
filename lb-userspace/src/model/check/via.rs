//! The ways that a check takes: to the backend's own address (RIP), and as a client's packets come (VIP).

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Check, CheckKind};
use crate::model::{Backend, Protocol, Service, rules::same_family};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// To the backend's own address.
    Rip,
    /// To the VIP, delivered to the backend's MAC, and answered by the VIP.
    Vip,
    /// One after the other as two checks: both must pass.
    Both,
}

/// The ports of the director that checks through the VIP come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePorts {
    pub first: u16,
    pub last: u16,
}

impl Default for ProbePorts {
    /// Behind the kernel's own choice for connections, 32768 to 60999 (`inet_init_net` in `net/ipv4/af_inet.c`).
    fn default() -> Self {
        Self { first: 61000, last: 64999 }
    }
}

impl ProbePorts {
    /// They come in turn, and then the first one again.
    pub fn by_turn(self, turn: u32) -> u16 {
        let count = u32::from(self.last.saturating_sub(self.first)) + 1;
        // Below `count`, which fits.
        self.first.saturating_add((turn % count) as u16)
    }
}

/// As the configuration file takes it.
impl fmt::Display for ProbePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Service {
    /// What is tried of `backend`, which is one of its own: each check, and the VIP that it goes to, if it goes
    /// through one.
    pub fn attempts<'a>(&'a self, backend: &'a Backend) -> Vec<(&'a Check, Option<IpAddr>)> {
        self.checks(backend).iter().flat_map(|check| self.ways(check, backend)).collect()
    }

    fn ways<'a>(&self, check: &'a Check, backend: &Backend) -> Vec<(&'a Check, Option<IpAddr>)> {
        let via = match check.via {
            None if self.serving(check, backend).is_empty() => Via::Rip,
            None => Via::Both,
            Some(via) => via,
        };
        let own = (via != Via::Vip).then_some((check, None));
        let vips = if via == Via::Rip { Vec::new() } else { self.vips_for(check, backend) };
        own.into_iter().chain(vips.into_iter().map(|vip| (check, Some(vip)))).collect()
    }

    /// The VIPs whose clients this backend serves at the very port that the check goes to; of a check of no port, all.
    fn serving(&self, check: &Check, backend: &Backend) -> Vec<IpAddr> {
        if !check.kind.can_take_the_vip() || check.address.is_some() {
            return Vec::new();
        }
        let port = check.target(backend).port();
        let Some(protocol) = check.kind.protocol() else {
            // A ping is for no port.
            return self.vips(backend, |_| true);
        };
        self.vips(backend, |endpoint| {
            let is_there = match (endpoint.port, endpoint.last_port) {
                (0, _) => true,
                (first, last) => (first..=last.unwrap_or(first)).contains(&port),
            };
            endpoint.protocol == protocol && is_there
        })
    }

    /// All of them, where none serves that port.
    fn vips_for(&self, check: &Check, backend: &Backend) -> Vec<IpAddr> {
        let serving = self.serving(check, backend);
        if serving.is_empty() { self.vips(backend, |_| true) } else { serving }
    }

    fn vips(&self, backend: &Backend, wanted: impl Fn(&crate::model::Endpoint) -> bool) -> Vec<IpAddr> {
        let mut vips: Vec<IpAddr> = Vec::new();
        for endpoint in self.endpoints().filter(|endpoint| wanted(endpoint)) {
            let fits = same_family(endpoint.address, backend.key.address);
            if fits && !vips.contains(&endpoint.address) {
                vips.push(endpoint.address);
            }
        }
        vips
    }
}

impl CheckKind {
    /// What it speaks over, if it speaks to a port of the service's.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Tcp | Self::HalfOpen | Self::Http(_) | Self::Mysql(_) => Some(Protocol::Tcp),
            Self::Redis(_) | Self::Postgres(_) | Self::Smtp(_) => Some(Protocol::Tcp),
            Self::Udp(_) | Self::Dns(_) => Some(Protocol::Udp),
            Self::Ping | Self::File(_) | Self::Exec(_) => None,
        }
    }

    /// Whether it can be made through the VIP: its socket is ours to mark.
    pub fn can_take_the_vip(&self) -> bool {
        self.protocol().is_some() || matches!(self, Self::Ping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendKey, Endpoint, Scheduler, check::DnsCheck};

    fn service(endpoints: &[Endpoint], checks: Vec<Check>) -> Service {
        let (first, group) = endpoints.split_first().expect("one");
        let key = BackendKey { address: [10, 0, 0, 1].into(), port: first.port };
        let backend = Backend {
            key,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            drained: false,
            maintenance: None,
            health: Default::default(),
        };
        Service {
            name: "web".parse().expect("a name"),
            endpoint: *first,
            group: group.iter().copied().collect(),
            scheduler: Scheduler::Rr,
            backends: vec![backend],
            options: Default::default(),
            sources: Default::default(),
            health: super::super::ServiceHealth { checks, ..Default::default() },
        }
    }

    fn tried(endpoints: &[Endpoint], check: Check) -> Vec<Option<IpAddr>> {
        let service = service(endpoints, vec![check]);
        service.attempts(&service.backends[0]).into_iter().map(|(_, vip)| vip).collect()
    }

    #[test]
    fn the_vip_is_tried_where_clients_are_served() {
        let vip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let tcp = |n: u8, port| Endpoint::new(vip(n), port, Protocol::Tcp);
        let check = |port| Check { port, ..Check::new(CheckKind::Tcp) };
        let both =
            |vips: &[u8]| [None].into_iter().chain(vips.iter().map(|n| Some(vip(*n)))).collect::<Vec<_>>();
        // At the service's port, at every one of its addresses, once each.
        assert_eq!(tried(&[tcp(1, 80)], check(None)), both(&[1]));
        assert_eq!(tried(&[tcp(1, 80), tcp(1, 443), tcp(2, 80)], check(None)), both(&[1, 2]));
        assert_eq!(tried(&[tcp(1, 80), tcp(1, 443), tcp(2, 80)], check(Some(443))), both(&[1]));
        assert_eq!(tried(&[tcp(1, 0)], check(Some(7))), both(&[1]));
        let range = Endpoint { last_port: Some(90), ..tcp(1, 80) };
        assert_eq!(tried(&[range], check(Some(90))), both(&[1]));
        // Not where they are not.
        assert_eq!(tried(&[range], check(Some(91))), both(&[]));
        assert_eq!(tried(&[tcp(1, 80)], check(Some(81))), both(&[]));
        assert_eq!(tried(&[Endpoint::new(vip(1), 53, Protocol::Udp)], check(None)), both(&[]));
        let elsewhere = Check { address: Some(vip(9)), ..check(None) };
        assert_eq!(tried(&[tcp(1, 80)], elsewhere), both(&[]));
        // Datagrams where datagrams are served, and pings wherever clients are.
        let dns = || {
            let (name, kind) = (".".to_owned(), "SOA".to_owned());
            Check::new(CheckKind::Dns(DnsCheck { name, kind, rcode: vec![0], answer: None }))
        };
        let udp = |n: u8, port| Endpoint::new(vip(n), port, Protocol::Udp);
        assert_eq!(tried(&[udp(1, 53), tcp(2, 53)], dns()), both(&[1]));
        assert_eq!(tried(&[tcp(1, 53)], dns()), both(&[]));
        assert_eq!(tried(&[udp(1, 53), tcp(1, 53), tcp(2, 80)], Check::new(CheckKind::Ping)), both(&[1, 2]));
        // Unless it was told so, one way or the other.
        let told = |via| Check { via: Some(via), ..check(Some(81)) };
        assert_eq!(tried(&[tcp(1, 80), tcp(2, 80)], told(Via::Both)), both(&[1, 2]));
        assert_eq!(tried(&[tcp(1, 80)], told(Via::Vip)), [Some(vip(1))]);
        assert_eq!(tried(&[tcp(1, 80)], Check { via: Some(Via::Rip), ..check(None) }), both(&[]));
    }

    #[test]
    fn ports_come_in_turn() {
        let ports = ProbePorts { first: 65533, last: 65535 };
        let turns: Vec<u16> = (0..5).map(|turn| ports.by_turn(turn)).collect();
        assert_eq!(turns, [65533, 65534, 65535, 65533, 65534]);
        assert_eq!(
            ProbePorts { first: 1024, last: 65535 }.by_turn(u32::MAX),
            1024 + (u32::MAX % 64512) as u16
        );
    }
}
