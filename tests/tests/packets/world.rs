//! Who is who: a client (or the router before it), a director with two interfaces, nine backends, four kinds of
//! service on one VIP of each family.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    path::PathBuf,
};

use aya::maps::{Array, Map, MapData};
use lb::{
    clock::kernel_hz,
    model::{
        Backend, BackendKey, Endpoint, FlowSizes, Guard, Protocol, Reject, Scheduler, Service,
        ServiceOptions, Timeouts,
    },
    plan::{Desired, HostRoute, LinkSpec},
};
use lb_common::{
    sctp::chunk,
    tcp::flag::{ACK, FIN, RST, SYN},
    value::Value,
    verdict::Verdict,
    vlan::Tags,
};
use lb_tests::{
    packet::{Mac, Packet},
    xdp::{Director, Ran, SMALL},
};
use proptest::{prelude::ProptestConfig, test_runner::FileFailurePersistence};

/// The interface that frames come in by, and a second one.
pub const ETH0: &str = "eth0";
pub const ETH1: &str = "eth1";
pub const ETH0_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const ETH1_MAC: Mac = [2, 0, 0, 0, 0, 2];
/// Another MAC that is ours.
pub const VIRTUAL_MAC: Mac = [0, 0, 0x5e, 0, 1, 51];
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0xc, 1];
/// Every device map entry must name a device that exists; TEST_RUN sends nothing through it.
pub const LO: u32 = 1;

pub const VIP4: Ipv4Addr = Ipv4Addr::new(172, 18, 14, 100);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0x100);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0xffff, 0xfeed, 7);
/// Where the director's ICMP errors come from.
pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(172, 18, 14, 1);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 1);

/// The port that services have unless a test wants others.
pub const PORT: u16 = 3306;
/// A client's port.
pub const CLIENT_PORT: u16 = 40000;

/// IPv4 or IPv6, TCP, UDP or SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub is_ipv6: bool,
    pub is_udp: bool,
    pub is_sctp: bool,
}

pub const TCP4: Kind = Kind { name: "tcp4", is_ipv6: false, is_udp: false, is_sctp: false };
pub const UDP4: Kind = Kind { name: "udp4", is_ipv6: false, is_udp: true, is_sctp: false };
pub const TCP6: Kind = Kind { name: "tcp6", is_ipv6: true, is_udp: false, is_sctp: false };
pub const UDP6: Kind = Kind { name: "udp6", is_ipv6: true, is_udp: true, is_sctp: false };
pub const SCTP4: Kind = Kind { name: "sctp4", is_ipv6: false, is_udp: false, is_sctp: true };
pub const SCTP6: Kind = Kind { name: "sctp6", is_ipv6: true, is_udp: false, is_sctp: true };
/// Those that need no telling of what is SCTP's: that has a table of its own.
pub const KINDS: [Kind; 4] = [TCP4, UDP4, TCP6, UDP6];
pub const ALL_KINDS: [Kind; 6] = [TCP4, UDP4, TCP6, UDP6, SCTP4, SCTP6];

impl Kind {
    pub fn vip(self) -> IpAddr {
        if self.is_ipv6 { VIP6.into() } else { VIP4.into() }
    }

    pub fn client(self) -> IpAddr {
        if self.is_ipv6 { CLIENT6.into() } else { CLIENT4.into() }
    }

    pub fn router(self) -> IpAddr {
        if self.is_ipv6 { ROUTER6.into() } else { ROUTER4.into() }
    }

    pub fn backend(self, number: u8) -> IpAddr {
        if self.is_ipv6 {
            Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 1, u16::from(number)).into()
        } else {
            Ipv4Addr::new(172, 18, 14, 10 + number).into()
        }
    }

    /// A packet that opens a connection to the VIP: a SYN, a datagram or an INIT.
    pub fn open(self) -> Packet {
        let (source, dest) = (SocketAddr::new(self.client(), CLIENT_PORT), SocketAddr::new(self.vip(), PORT));
        let packet = match self.protocol() {
            Protocol::Tcp => Packet::tcp(source, dest, SYN),
            Protocol::Udp => Packet::udp(source, dest),
            Protocol::Sctp => Packet::sctp(source, dest, chunk::INIT),
        };
        packet.with(|p| (p.to, p.from) = (ETH0_MAC, CLIENT_MAC))
    }

    /// A packet in the middle of the connection that [`Kind::open`] opens.
    pub fn later(self) -> Packet {
        match self.protocol() {
            Protocol::Tcp => self.open().flags(ACK),
            Protocol::Udp => self.open(),
            Protocol::Sctp => self.open().flags(chunk::COOKIE_ECHO),
        }
    }

    /// What a client ends its connection with, as flags of a packet: in order, and at once.
    pub fn ending(self) -> Option<[u8; 2]> {
        match self.protocol() {
            Protocol::Tcp => Some([FIN | ACK, RST]),
            Protocol::Udp => None,
            Protocol::Sctp => Some([chunk::SHUTDOWN, chunk::ABORT]),
        }
    }

    pub fn protocol(self) -> Protocol {
        match (self.is_udp, self.is_sctp) {
            (true, _) => Protocol::Udp,
            (_, true) => Protocol::Sctp,
            (..) => Protocol::Tcp,
        }
    }

    /// A service on the VIP, rr over backends of weight 1.
    pub fn service(self, port: u16, backends: &[u8]) -> Service {
        let weights: Vec<(u8, u16)> = backends.iter().map(|number| (*number, 1)).collect();
        self.weighted(port, Scheduler::Rr, &weights)
    }

    /// A service on the VIP with backends and their weights.
    pub fn weighted(self, port: u16, scheduler: Scheduler, weights: &[(u8, u16)]) -> Service {
        let endpoint = Endpoint::new(self.vip(), port, self.protocol());
        let backend = |(number, weight): &(u8, u16)| Backend {
            key: BackendKey { address: self.backend(*number), port },
            weight: *weight,
            upper_threshold: 0,
            lower_threshold: 0,
            drained: false,
            maintenance: None,
            health: Default::default(),
        };
        let backends = weights.iter().map(backend).collect();
        let (options, group) = (silent(), BTreeSet::new());
        let (name, health) = (endpoint.default_name(), Default::default());
        let sources = Default::default();
        Service { name, endpoint, group, scheduler, backends, options, sources, health }
    }
}

/// Options of a service that drops what it cannot serve and has no guard: answers and new flows would be limited, and
/// what becomes of them depend on the time.
pub fn silent() -> ServiceOptions {
    ServiceOptions { reject: Reject::Drop, guard: Guard::Off, ..ServiceOptions::default() }
}

/// Backend `number`'s MAC.
pub fn backend_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0xb, number]
}

/// The packet as it leaves by `eth0` for backend `number`.
pub fn forwarded(packet: &Packet, number: u8) -> Packet {
    packet.with(|p| {
        (p.to, p.from) = (backend_mac(number), ETH0_MAC);
        p.ttl -= 1;
    })
}

/// Two interfaces, backends 1 to 9 of both families behind the first; no tags, no services.
pub fn lab() -> Desired {
    let link = |name: &str, mac| LinkSpec {
        name: name.to_owned(),
        ifindex: LO,
        mac,
        ipv4: Some(ROUTER4),
        ipv6: Some(ROUTER6),
        merges: false,
        untagged: true,
        tags: Vec::new(),
        macs: Vec::new(),
    };
    let addresses = (1..=9).flat_map(|number| [TCP4, TCP6].map(|kind| (kind.backend(number), number)));
    Desired {
        services: Vec::new(),
        timeouts: Timeouts::default(),
        hz: kernel_hz(),
        flows: FlowSizes::default(),
        links: vec![link(ETH0, ETH0_MAC), link(ETH1, ETH1_MAC)],
        hosts: addresses.map(|(address, number)| (address, neighbour(number, ETH0, Tags::NONE))).collect(),
        ..Desired::default()
    }
}

/// [`lab`] with a service of every kind on [`PORT`], each with backend 1 alone.
pub fn every_kind() -> Desired {
    Desired { services: ALL_KINDS.map(|kind| kind.service(PORT, &[1])).to_vec(), ..lab() }
}

pub fn neighbour(number: u8, link: &str, tags: Tags) -> HostRoute {
    HostRoute::Neighbour { mac: backend_mac(number), answers: true, link: link.to_owned(), tags, mtu: 1500 }
}

/// Behind `eth0`, whose MTU is not 1,500 bytes.
pub fn neighbour_with_mtu(number: u8, mtu: u16) -> HostRoute {
    let (mac, link) = (backend_mac(number), ETH0.to_owned());
    HostRoute::Neighbour { mac, answers: true, link, tags: Tags::NONE, mtu }
}

/// A director with small tables.
pub fn director(want: &Desired) -> Director {
    Director::new(SMALL, want).unwrap_or_else(|error| panic!("cannot set the director up: {error:#}"))
}

/// Sends a packet: the backend that it was forwarded to, or what else became of it.
pub fn send(director: &mut Director, packet: &Packet) -> Result<u8, Verdict> {
    let ran = director.run(&packet.bytes()).unwrap_or_else(|error| panic!("{packet:?}: {error:#}"));
    outcome(packet, &ran)
}

/// The backend that a packet was forwarded to, or what else became of it.
pub fn outcome(packet: &Packet, ran: &Ran) -> Result<u8, Verdict> {
    match ran.verdict().unwrap_or_else(|error| panic!("{packet:?}: {error:#}")) {
        Verdict::ForwardedTx | Verdict::ForwardedRedirect => {
            let number = ran.frame[5];
            assert_eq!(ran.frame[..6], backend_mac(number), "sent to nobody's MAC");
            Ok(number)
        }
        verdict => Err(verdict),
    }
}

/// Opens a connection from each of the client's ports: the backends in the order of their turn.
pub fn open(director: &mut Director, kind: Kind, ports: Range<u16>) -> Vec<u8> {
    let open = kind.open();
    ports.map(|port| send(director, &open.from_port(port)).expect("forwarded")).collect()
}

/// The id of a director's only service.
pub fn only_service(director: &Director) -> u16 {
    *director.maps().snapshot().expect("a snapshot").services.keys().next().expect("a service")
}

/// Active and inactive connections by destination: as the kernel has counted them, and all slots of its tables counted
/// anew. None of them may be locked.
pub fn recounted(director: &Director) -> [BTreeMap<u32, (u64, u64)>; 2] {
    let maps = director.maps();
    let dests = maps.snapshot().expect("a snapshot").dests;
    let mut anew: BTreeMap<u32, (u64, u64)> = dests.keys().map(|id| (*id, (0, 0))).collect();
    for value in slots(director).into_iter().filter(|value| !value.is_template()) {
        assert!(value.is_flow(), "a slot is locked: {value:?}");
        let (active, inactive) = anew.entry(value.dest()).or_default();
        *(if value.state().is_active() { active } else { inactive }) += 1;
    }
    let counts = anew.keys().map(|id| (*id, maps.conn_counts(*id)));
    [counts.map(|(id, counts)| (id, (counts.active, counts.inactive))).collect(), anew]
}

/// Every slot of the tables that is not free, whether its time is up or not.
pub fn slots(director: &Director) -> Vec<Value> {
    let narrow = director.tables("FLOWS4").into_iter().flat_map(values::<8>);
    narrow.chain(director.tables("FLOWSW").into_iter().flat_map(values::<24>)).collect()
}

/// Each bucket begins with four times tag and value.
fn values<const N: usize>(pin: PathBuf) -> Vec<Value> {
    let map = Map::from_map_data(MapData::from_pin(pin).expect("a pin")).expect("a map");
    let buckets = Array::<_, [u64; N]>::try_from(map).expect("an array");
    let values = buckets.iter().map(|bucket| bucket.expect("read"));
    values.flat_map(|b| [b[1], b[3], b[5], b[7]]).map(Value).filter(|value| !value.is_free()).collect()
}

/// Of a property test with so many cases, or as many as `PROPTEST_CASES` says. The seed of a case that fails stays in a
/// file beside the test, and is tried first from then on: commit it with what mends it.
pub fn random(cases: u32, max_shrink_iters: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    let seeds = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, max_shrink_iters, failure_persistence: Some(Box::new(seeds)), ..default }
}
