//! Who is who: a client (or the router before it), the director's VIPs, and backends that are only MAC addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb::model::{Endpoint, Protocol};
use lb_common::sctp::chunk;
use lb_tests::packet::{Mac, Packet};

/// The director's interface, and the router's at the other end of its wire.
pub const DIRECTOR_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0xc, 1];
pub const DIRECTOR4: Ipv4Addr = Ipv4Addr::new(172, 18, 14, 1);
pub const DIRECTOR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 1);
pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(172, 18, 14, 254);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0xfe);

/// Backends have the numbers 1 to this.
pub const BACKENDS: u8 = 12;
/// VIPs of each family.
const VIPS: u16 = 16;
const PORTS: [u16; 2] = [80, 3306];
/// What clients of a service of all ports connect to.
pub const ANY_PORTS: [u16; 4] = [80, 3306, 443, 9000];

/// The VIPs of both families.
pub fn vips() -> Vec<IpAddr> {
    let v4 = (0..VIPS).map(|n| IpAddr::from([172, 18, 14, 100 + n as u8]));
    let v6 = (0..VIPS).map(|n| IpAddr::from([0xfd00, 0x14, 0, 0, 0, 0, 0, 0x100 + n]));
    v4.chain(v6).collect()
}

/// Where services of one port may be.
pub fn endpoints() -> Vec<Endpoint> {
    let mut all = Vec::new();
    for address in vips() {
        for port in PORTS {
            let of = |protocol| Endpoint::new(address, port, protocol);
            all.extend([of(Protocol::Tcp), of(Protocol::Udp), of(Protocol::Sctp)]);
        }
    }
    all
}

/// Backend `number`'s address of the family of `vip`.
pub fn backend(vip: IpAddr, number: u8) -> IpAddr {
    match vip {
        IpAddr::V4(_) => IpAddr::from([172, 18, 14, 10 + number]),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 0x14, 0, 0, 0, 0, 1, u16::from(number)]),
    }
}

pub fn backend_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0xb, number]
}

/// The backend that a frame is sent to.
pub fn backend_of(frame: &[u8]) -> Option<u8> {
    let number = *frame.get(5)?;
    (frame[..6] == backend_mac(number) && (1..=BACKENDS).contains(&number)).then_some(number)
}

/// In the place of an SCTP packet's first chunk: a COOKIE ECHO with an ABORT behind it. No chunk has this type.
pub const COOKIE_AND_ABORT: u8 = 0x8a;

/// A client's packet to a service, as it comes to the director: with TCP flags, or the type of its first chunk.
pub fn packet(client: Client, to: Endpoint, flags: u8) -> Packet {
    packet_from(SocketAddr::new(client.address(to.address), client.port), to, flags)
}

/// A packet of any address.
pub fn packet_from(source: SocketAddr, to: Endpoint, flags: u8) -> Packet {
    let dest = SocketAddr::new(to.address, to.port);
    let packet = match to.protocol {
        Protocol::Tcp => Packet::tcp(source, dest, flags),
        Protocol::Udp => Packet::udp(source, dest),
        Protocol::Sctp if flags == COOKIE_AND_ABORT => {
            Packet::sctp(source, dest, chunk::COOKIE_ECHO).with(|p| p.second_chunk = Some(chunk::ABORT))
        }
        Protocol::Sctp => Packet::sctp(source, dest, flags),
    };
    packet.with(|p| (p.to, p.from) = (DIRECTOR_MAC, CLIENT_MAC))
}

/// An address and port of a client, in either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client {
    /// The last two bytes of its address.
    pub host: u16,
    pub port: u16,
}

impl Client {
    /// Of the family of `vip`, behind the router.
    pub fn address(self, vip: IpAddr) -> IpAddr {
        let [high, low] = self.host.to_be_bytes();
        match vip {
            IpAddr::V4(_) => IpAddr::from([10, 1, high, low]),
            IpAddr::V6(_) => IpAddr::from([0xfd00, 0xc, 0, 0, u16::from(high), 0xffff, 0xfeed, self.host]),
        }
    }
}
