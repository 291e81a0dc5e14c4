//! What the director under test has: services, backends, clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb::{
    model::{Backend, BackendKey, Endpoint, Guard, Protocol, Scheduler, Service, ServiceOptions},
    plan::{Desired, HostRoute, LinkSpec},
};
use lb_common::{
    tcp::flag::{ACK, SYN},
    vlan::Tags,
};
use lb_tests::{
    feeder::{Feed, Feeder},
    packet::{Mac, Packet},
    xdp::Director,
};

pub const DIRECTOR_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0xc, 1];
const LINK: &str = "eth0";
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 100));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0x100));
pub const PORT: u16 = 3306;

/// A SYN to the service: 60 bytes of IPv4, 80 of IPv6.
pub fn open(vip: IpAddr) -> Packet {
    let client: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 0).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0, 0xa00, 0).into(),
    };
    let packet = Packet::tcp(SocketAddr::new(client, 0), SocketAddr::new(vip, PORT), SYN);
    packet.with(|p| {
        (p.to, p.from) = (DIRECTOR_MAC, CLIENT_MAC);
        p.payload.truncate(20);
    })
}

/// A datagram to the service on the same port, of the size of [`open`].
pub fn datagram(vip: IpAddr) -> Packet {
    let tcp = open(vip);
    Packet::udp(tcp.source, tcp.dest).with(|p| (p.to, p.from, p.payload) = (tcp.to, tcp.from, vec![0; 24]))
}

/// Opens flows where the feeder is aimed at, one after the other, and completes their handshake.
pub fn establish(feeder: &mut Feeder, open: &Packet, flows: u32) -> Result<()> {
    for flags in [SYN, ACK] {
        feeder.run(&open.flags(flags).bytes(), &mut Feed::new_flows(open), flows)?;
    }
    Ok(())
}

/// A service of so many backends, all of weight 1.
pub fn service(
    vip: IpAddr,
    port: u16,
    scheduler: Scheduler,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Service {
    let endpoint = Endpoint::new(vip, port, Protocol::Tcp);
    let backend = |address| Backend {
        key: BackendKey { address, port },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        maintenance: None,
        health: Default::default(),
    };
    let backends = addresses.into_iter().map(backend).collect();
    Service {
        name: endpoint.default_name(),
        endpoint,
        group: Default::default(),
        sources: Default::default(),
        health: Default::default(),
        scheduler,
        backends,
        options: ServiceOptions { guard: Guard::Off, ..ServiceOptions::default() },
    }
}

/// The same service of UDP.
pub fn datagrams(service: &Service) -> Service {
    let endpoint = Endpoint { protocol: Protocol::Udp, ..service.endpoint };
    Service { name: endpoint.default_name(), endpoint, ..service.clone() }
}

/// The address of backend `number`, of the family of `vip`.
pub fn backend(vip: IpAddr, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match vip {
        IpAddr::V4(_) => Ipv4Addr::new(172, 19, high, low).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 1, number).into(),
    }
}

/// These services, all backends reached by the interface that packets come in by.
pub fn desired(services: Vec<Service>) -> Desired {
    let route = |address: IpAddr| {
        let (link, tags) = (LINK.to_owned(), Tags::NONE);
        (address, HostRoute::Neighbour { mac: [2, 0, 0, 0, 0xb, 1], answers: true, link, tags, mtu: 1500 })
    };
    let addresses = services.iter().flat_map(|service| &service.backends).map(|backend| backend.key.address);
    let hosts = addresses.map(route).collect();
    let link = LinkSpec {
        name: LINK.to_owned(),
        // The device map wants one that exists; nothing is sent.
        ifindex: 1,
        mac: DIRECTOR_MAC,
        ipv4: None,
        ipv6: None,
        merges: false,
        untagged: true,
        tags: Vec::new(),
        macs: Vec::new(),
    };
    Desired { services, links: vec![link], hosts, ..Desired::default() }
}

/// How often a verdict or an event was counted.
pub fn counted(director: &Director, name: &str) -> Result<u64> {
    let counters = director.counters()?;
    Ok(counters.into_iter().find(|(counter, _)| *counter == name).map_or(0, |(_, times)| times))
}
