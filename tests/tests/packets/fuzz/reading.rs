//! What a frame is: a second reading, by fixed offsets, and slower and simpler than the program's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    icmp::{HEADER_LEN, ICMPV4, ICMPV6, is_error},
    protocol,
    sctp::chunk,
};

use crate::world::*;

/// A frame to the VIP, or any other.
pub enum Reading {
    /// No packet of a service, whatever services there are.
    NotOurs,
    /// Whole, or the first fragment of one: it has ports.
    Segment(Segment),
    /// A fragment that is not the first.
    Later(Datagram, Size),
    /// An ICMP error about what this connection's backend has sent.
    Error(Connection, Size),
    /// Cannot be told, and why.
    Unsure(&'static str),
}

/// Whose connection to the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    pub protocol: u8,
    pub client: SocketAddr,
    /// The VIP's.
    pub port: u16,
}

/// What the fragments of one datagram to the VIP have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    source: IpAddr,
    id: u32,
    /// IPv6 leaves it out (RFC 8200 section 4.5): 0.
    protocol: u8,
}

/// What may keep a packet from where it should go.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP total length.
    pub bytes: usize,
}

/// A packet of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub connection: Connection,
    /// It opens a flow if it is of none: a SYN, a datagram, an INIT. It is served, whatever else it says.
    pub begins: bool,
    /// It may end its flow.
    pub may_end: bool,
    /// Whose first fragment it is.
    pub first_of: Option<Datagram>,
    pub size: Size,
}

/// Tags of a frame, outermost first: protocol and VLAN id of each.
pub type Vlans = Vec<(u16, u16)>;

/// Where the IP header of a frame begins, and what tags are before it: at most two, and none of VLAN 0 behind
/// the others, which says a priority only. None: it is no IP.
pub fn ip_header(frame: &[u8]) -> Option<(usize, Vlans)> {
    let (mut at, mut vlans) = (12, Vec::new());
    loop {
        let ethertype = word(frame, at)?;
        match ethertype {
            0x0800 | 0x86dd => break,
            0x8100 | 0x88a8 if at < 20 => {
                vlans.push((ethertype, word(frame, at + 2)? & 0xfff));
                at += 4;
            }
            _ => return None,
        }
    }
    while vlans.last().is_some_and(|(_, vid)| *vid == 0) {
        vlans.pop();
    }
    Some((at + 2, vlans))
}

/// Reads a frame that comes to a director with those VLANs.
pub fn reading(frame: &[u8], vlans: &[Vlans]) -> Reading {
    let ours = |tags: &Vlans| tags.is_empty() || vlans.contains(tags);
    let Some((l3, _)) = ip_header(frame).filter(|(_, tags)| ours(tags)) else { return Reading::NotOurs };
    if frame[..6] != ETH0_MAC {
        return Reading::NotOurs;
    }
    let ip = if frame[l3 - 2] == 8 { ipv4(frame, l3) } else { ipv6(frame, l3) };
    match ip {
        Ok(ip) if l3 + ip.size.bytes <= frame.len() => behind(frame, &ip),
        Ok(_) => Reading::NotOurs,
        Err(reading) => reading,
    }
}

/// An IP packet to the VIP.
struct Ip {
    source: IpAddr,
    protocol: u8,
    size: Size,
    /// Offsets in the frame: of the header, and of what is behind it and its extensions.
    l3: usize,
    l4: usize,
    piece: Piece,
}

#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Whole,
    First(u32),
    Later(u32),
}

impl Piece {
    fn new(offset: u16, more: bool, id: u32) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First(id),
            _ => Self::Later(id),
        }
    }
}

/// RFC 791 section 3.1.
fn ipv4(frame: &[u8], l3: usize) -> Result<Ip, Reading> {
    let header = frame.get(l3..l3 + 20).ok_or(Reading::NotOurs)?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < 20 || header[16..20] != VIP4.octets() {
        return Err(Reading::NotOurs);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let id = u16::from_be_bytes([header[4], header[5]]);
    Ok(Ip {
        source: v4(&header[12..16]),
        protocol: header[9],
        size: Size { ttl: header[8], bytes: u16::from_be_bytes([header[2], header[3]]).into() },
        l3,
        l4: l3 + length,
        piece: Piece::new(fragment & 0x1fff, fragment & 0x2000 != 0, id.into()),
    })
}

/// RFC 8200 sections 3 and 4. Six extension headers and 512 bytes of them are read, as the program says.
fn ipv6(frame: &[u8], l3: usize) -> Result<Ip, Reading> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DEST_OPTIONS: u8 = 60;
    let header = frame.get(l3..l3 + 40).ok_or(Reading::NotOurs)?;
    if header[0] >> 4 != 6 || header[24..40] != VIP6.octets() {
        return Err(Reading::NotOurs);
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let size = Size { ttl: header[7], bytes: 40 + payload };
    let (mut protocol, mut l4, mut piece, mut fragment_ends) = (header[6], l3 + 40, Piece::Whole, None);
    for _ in 0..6 {
        match protocol {
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => {
                let [next, eights] = array(frame, l4)?;
                (protocol, l4) = (next, l4 + 8 * (usize::from(eights) + 1));
            }
            FRAGMENT if fragment_ends.is_some() => return Err(Reading::Unsure("two fragment headers")),
            FRAGMENT => {
                let [next, _, high, low, id @ ..]: [u8; 8] = array(frame, l4)?;
                let place = u16::from_be_bytes([high, low]);
                piece = Piece::new(place >> 3, place & 1 != 0, u32::from_be_bytes(id));
                (protocol, l4) = (next, l4 + 8);
                fragment_ends = Some(l4);
                if matches!(piece, Piece::Later(_)) {
                    break;
                }
            }
            _ => break,
        }
        if l4 - l3 - 40 > 512 {
            return Err(Reading::NotOurs);
        }
    }
    // The program says that it reads the identification of these wrong.
    if matches!(piece, Piece::First(_)) && fragment_ends != Some(l4) {
        return Err(Reading::Unsure("an extension header behind the fragment header"));
    }
    Ok(Ip { source: v6(&header[8..24]), protocol, size, l3, l4, piece })
}

/// What is behind the IP header and its extensions.
fn behind(frame: &[u8], ip: &Ip) -> Reading {
    let icmp = if ip.source.is_ipv4() { ICMPV4 } else { ICMPV6 };
    let datagram = |id| {
        let protocol = if ip.source.is_ipv4() { ip.protocol } else { 0 };
        Datagram { source: ip.source, id, protocol }
    };
    let has_ports = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&ip.protocol);
    match ip.piece {
        // A long ping is the stack's; of another protocol may be the extension header of the first one's.
        Piece::Later(_) if ip.protocol == icmp || (ip.source.is_ipv4() && !has_ports) => Reading::NotOurs,
        Piece::Later(id) => Reading::Later(datagram(id), ip.size),
        _ if has_ports => {
            let first_of = if let Piece::First(id) = ip.piece { Some(datagram(id)) } else { None };
            segment(frame, ip, first_of).unwrap_or(Reading::NotOurs)
        }
        Piece::Whole if ip.protocol == icmp => error(frame, ip).unwrap_or(Reading::NotOurs),
        _ => Reading::NotOurs,
    }
}

/// None: its header is not whole.
fn segment(frame: &[u8], ip: &Ip, first_of: Option<Datagram>) -> Option<Reading> {
    let length = match ip.protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        // Common header and that of a chunk (RFC 9260 section 3).
        _ => 16,
    };
    let header = frame.get(ip.l4..ip.l4 + length)?;
    if ip.size.bytes < ip.l4 - ip.l3 + length {
        return None;
    }
    let (begins, may_end) = match ip.protocol {
        // FIN 1, SYN 2, RST 4, ACK 16. With none of them it closes, as in IPVS (`set_tcp_state`).
        protocol::TCP => (header[13] & 0x16 == 2, header[13] & 5 != 0 || header[13] & 0x17 == 0),
        protocol::UDP => (true, false),
        // Any chunk may say that it is over.
        _ => (header[12] == chunk::INIT, header[12] != chunk::INIT),
    };
    let client = SocketAddr::new(ip.source, word(header, 0)?);
    let connection = Connection { protocol: ip.protocol, client, port: word(header, 2)? };
    Some(Reading::Segment(Segment { connection, begins, may_end, first_of, size: ip.size }))
}

/// None: it is no error, or about nobody's packet to a client (RFC 792, RFC 4443).
fn error(frame: &[u8], ip: &Ip) -> Option<Reading> {
    let is_ipv6 = ip.source.is_ipv6();
    let quote = frame.get(ip.l4 + HEADER_LEN..).filter(|_| is_error(is_ipv6, frame[ip.l4]))?;
    let (protocol, source, dest, length) = if is_ipv6 {
        let header = quote.get(..40).filter(|header| header[0] >> 4 == 6)?;
        (header[6], v6(&header[8..24]), v6(&header[24..40]), 40)
    } else {
        // A later fragment has no ports.
        let is_first =
            |header: &&[u8]| header[0] >> 4 == 4 && word(header, 6).is_some_and(|w| w & 0x1fff == 0);
        let header = quote.get(..20).filter(is_first)?;
        (header[9], v4(&header[12..16]), v4(&header[16..20]), usize::from(header[0] & 0xf) * 4)
    };
    let vip: IpAddr = if is_ipv6 { VIP6.into() } else { VIP4.into() };
    let has_ports = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&protocol);
    let (port, from) = (word(quote, length)?, word(quote, length + 2)?);
    let connection = Connection { protocol, client: SocketAddr::new(dest, from), port };
    let is_ours = has_ports && source == vip && length >= 20;
    is_ours.then_some(Reading::Error(connection, ip.size))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn array<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], Reading> {
    let bytes = frame.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(Reading::NotOurs)
}

fn v4(bytes: &[u8]) -> IpAddr {
    Ipv4Addr::from_octets(bytes.try_into().expect("four bytes")).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from_octets(bytes.try_into().expect("sixteen bytes")).into()
}
