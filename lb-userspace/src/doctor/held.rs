//! What the data plane holds, as far as it can be probed: ways from a VIP to a backend. PURE.
//!
//! Out of the pinned maps, so it is what packets meet, whatever a file or an agent says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    dest, endpoint,
    host::{LOCAL, Path, Route},
    link,
    vlan::Tags,
};

use crate::{
    model::Protocol,
    plan::{Snapshot, dest_address, name_of},
};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub vips: BTreeSet<IpAddr>,
    pub links: Vec<HeldLink>,
    pub ways: Vec<Way>,
    /// The devices (by index), with tags, that clients' or backends' frames go by.
    pub segments: BTreeSet<(u32, TagPair)>,
    /// Those of them that clients' frames come in by.
    pub ingress: BTreeSet<(u32, TagPair)>,
}

/// An interface that the program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLink {
    pub ifindex: u32,
    pub name: String,
    /// Clients' packets come in here; else packets only leave.
    pub ingress: bool,
}

/// How the packets of one VIP get to one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub service: String,
    /// An endpoint of the service; port 0 where it has all of them, or ranges only.
    pub vip: SocketAddr,
    pub protocol: Protocol,
    /// As the service knows the backend.
    pub backend: SocketAddr,
    pub next: Next,
    /// Its health keeps new connections away.
    pub out: bool,
}

/// Where a frame for a backend goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Its MAC address is not known.
    Unresolved,
    /// The director itself.
    Local,
    /// By this device.
    Host { ifindex: u32, mac: Mac, tags: TagPair, mtu: u16 },
}

/// Of Ethernet, as it stands in a frame.
pub type Mac = [u8; 6];

/// Outer and inner VLAN tag as [`lb_common::vlan::tag`] makes them, 0 for none.
pub type TagPair = (u16, u16);

impl Way {
    /// Something has to listen on its port, and can be asked to take a connection.
    pub fn has_listener(&self) -> bool {
        self.protocol == Protocol::Tcp && self.vip.port() != 0
    }

    /// Datagrams can be sent to its port.
    pub fn takes_datagrams(&self) -> bool {
        self.protocol == Protocol::Udp && self.vip.port() != 0
    }
}

impl Held {
    pub fn new(snapshot: &Snapshot) -> Self {
        let endpoints = endpoints(snapshot);
        let tags = snapshot.tags.iter().map(|key| ((key >> 32) as u16, pair(Tags(*key as u32))));
        let untagged = snapshot.links.iter().filter(|(_, link)| link.mac & link::flag::UNTAGGED != 0);
        let ingress: BTreeSet<(u16, TagPair)> =
            untagged.map(|(index, _)| (*index, (0, 0))).chain(tags).collect();
        let links = snapshot.links.iter().map(|(index, link)| HeldLink {
            ifindex: link.ifindex,
            name: name_of(&link.name),
            ingress: ingress.iter().any(|(at, _)| at == index),
        });
        let mut ways = Vec::new();
        for dest in snapshot.dests.values() {
            let gone = dest.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
            let (false, Some(service)) = (gone, snapshot.services.get(&dest.service)) else { continue };
            let backend = SocketAddr::new(dest_address(dest), u16::from_be_bytes(dest.port));
            for (vip, protocol) in endpoints.get(&dest.service).into_iter().flatten() {
                ways.push(Way {
                    service: name_of(&service.name),
                    vip: *vip,
                    protocol: *protocol,
                    backend,
                    next: next(snapshot, dest.host),
                    out: dest.flags & dest::flag::OUT != 0,
                });
            }
        }
        let vips = endpoints.values().flatten().map(|(vip, _)| vip.ip()).collect();
        let device = |(index, tags): &(u16, TagPair)| Some((snapshot.links.get(index)?.ifindex, *tags));
        let egress = ways.iter().filter_map(|way| match way.next {
            Next::Host { ifindex, tags, .. } => Some((ifindex, tags)),
            _ => None,
        });
        let ingress: BTreeSet<(u32, TagPair)> = ingress.iter().filter_map(device).collect();
        let segments = ingress.iter().copied().chain(egress).collect();
        Self { vips, links: links.collect(), ways, segments, ingress }
    }

    /// Addresses of the backends.
    pub fn backends(&self) -> BTreeSet<IpAddr> {
        self.ways.iter().map(|way| way.backend.ip()).collect()
    }

    /// MAC addresses of the backends, with theirs.
    pub fn macs(&self) -> BTreeMap<Mac, IpAddr> {
        let known = self.ways.iter().filter_map(|way| match way.next {
            Next::Host { mac, .. } => Some((mac, way.backend.ip())),
            _ => None,
        });
        known.collect()
    }
}

fn pair(tags: Tags) -> TagPair {
    (tags.outer(), tags.inner())
}

/// One endpoint for each service, address and protocol: the lowest port, 0 if it has no other.
fn endpoints(snapshot: &Snapshot) -> BTreeMap<u16, BTreeSet<(SocketAddr, Protocol)>> {
    let mut lowest: BTreeMap<(u16, IpAddr, Protocol), u16> = BTreeMap::new();
    for (key, endpoint) in &snapshot.endpoints {
        let Some(protocol) = key.protocol.filter(|_| endpoint.has(endpoint::flag::OPEN)) else { continue };
        let port = lowest.entry((endpoint.service(), key.address, protocol)).or_insert(key.port);
        if *port == 0 || key.port != 0 && key.port < *port {
            *port = key.port;
        }
    }
    for (key, endpoint) in snapshot.ranges.iter().filter(|(_, it)| it.has(endpoint::flag::OPEN)) {
        // Nobody need listen on any particular port of a range.
        lowest.entry((endpoint.service(), key.address, key.protocol)).or_insert(0);
    }
    let mut by_service: BTreeMap<u16, BTreeSet<(SocketAddr, Protocol)>> = BTreeMap::new();
    for ((service, address, protocol), port) in lowest {
        by_service.entry(service).or_default().insert((SocketAddr::new(address, port), protocol));
    }
    by_service
}

fn next(snapshot: &Snapshot, host: u32) -> Next {
    let Some(host) = snapshot.hosts.get(&host) else { return Next::Unresolved };
    let (route, path) = (Route(host.route), Path(host.path));
    match (route.link(), snapshot.links.get(&route.link())) {
        (LOCAL, _) => Next::Local,
        (_, Some(link)) => {
            Next::Host { ifindex: link.ifindex, mac: route.mac(), tags: pair(path.tags()), mtu: path.mtu() }
        }
        _ => Next::Unresolved,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        dest::Dest,
        endpoint::{Endpoint, flag},
        host::{self, Host},
        link::Link,
        service::{self, Service},
    };

    use super::*;
    use crate::plan::{EndpointKey, RangeKey};

    fn key(address: &str, port: u16, protocol: Option<Protocol>) -> EndpointKey {
        EndpointKey { address: address.parse().expect("an address"), port, protocol }
    }

    fn service(name: &str) -> Service {
        let mut record = Service {
            generation: 0,
            flags: service::flag::USED,
            persistence: 0,
            timeouts: [0; lb_common::tcp::State::COUNT],
            mask: [0; 2],
            rearm: 0,
            guard: 0,
            name: [0; 64],
        };
        record.name[..name.len()].copy_from_slice(name.as_bytes());
        record
    }

    fn dest(host: u32, service: u16, last: u8, flags: u16) -> Dest {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, last]);
        let (flags, port) = (dest::flag::USED | flags, 80u16.to_be_bytes());
        Dest { host, service, flags, address, port, ..Dest::default() }
    }

    fn snapshot() -> Snapshot {
        let tags = Tags::new(100, 0);
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"eth0");
        let host = |route: Route| Host {
            route: route.0,
            path: Path::new(tags, 1500).0,
            flags: host::flag::USED,
            ..Host::default()
        };
        Snapshot {
            endpoints: [
                (key("10.0.0.100", 443, Some(Protocol::Tcp)), Endpoint::new(1, 1, flag::OPEN)),
                (key("10.0.0.100", 80, Some(Protocol::Tcp)), Endpoint::new(2, 1, flag::OPEN)),
                (key("10.0.0.100", 0, None), Endpoint::new(0, 0, flag::HAS_TCP)),
                (key("10.0.0.101", 0, Some(Protocol::Udp)), Endpoint::new(3, 2, flag::OPEN)),
                (key("10.0.0.102", 53, Some(Protocol::Udp)), Endpoint::new(4, 3, 0)),
            ]
            .into(),
            ranges: [(
                RangeKey {
                    address: "10.0.0.103".parse().expect("an address"),
                    protocol: Protocol::Tcp,
                    port: 5000,
                    length: 10,
                },
                Endpoint::new(5, 2, flag::OPEN),
            )]
            .into(),
            services: [(1, service("web")), (2, service("wide")), (3, service("deleted"))].into(),
            dests: [
                (1, dest(1, 1, 11, 0)),
                (2, dest(2, 1, 12, dest::flag::OUT)),
                (3, dest(3, 2, 13, 0)),
                (4, dest(1, 1, 14, dest::flag::RETIRED)),
            ]
            .into(),
            hosts: [
                (1, host(Route::new([2, 0, 0, 0, 0, 1], 1))),
                (2, host(Route::UNRESOLVED)),
                (3, host(Route::new([0; 6], LOCAL))),
            ]
            .into(),
            links: [(1, Link { ifindex: 7, name, ..Link::default() })].into(),
            tags: [link::tag_key(1, tags)].into(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn ways_are_of_open_endpoints_and_living_destinations() {
        let held = Held::new(&snapshot());
        let text: Vec<_> = held
            .ways
            .iter()
            .map(|way| format!("{} {} {} {}", way.service, way.vip, way.backend, way.out))
            .collect();
        assert_eq!(
            text,
            [
                "web 10.0.0.100:80 10.0.0.11:80 false",
                "web 10.0.0.100:80 10.0.0.12:80 true",
                "wide 10.0.0.101:0 10.0.0.13:80 false",
                "wide 10.0.0.103:0 10.0.0.13:80 false",
            ]
        );
        let at = Next::Host { ifindex: 7, mac: [2, 0, 0, 0, 0, 1], tags: (100, 0), mtu: 1500 };
        assert_eq!(
            [held.ways[0].next, held.ways[1].next, held.ways[2].next],
            [at, Next::Unresolved, Next::Local]
        );
        assert_eq!(held.vips.len(), 3, "the tombstone's is none: {:?}", held.vips);
    }

    #[test]
    fn frames_come_in_where_tags_are_ours() {
        let held = Held::new(&snapshot());
        let link = HeldLink { ifindex: 7, name: "eth0".into(), ingress: true };
        assert_eq!(held.links, [link]);
        assert_eq!(held.segments, [(7, (100, 0))].into());
    }
}
