//! Frames for packet tables: built field by field, so that a case says only what is special about it, and compared
//! byte by byte.
//!
//! Headers and checksums are etherparse's, so that an error in our own arithmetic cannot stand on both sides.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

mod answer;

pub use answer::Icmp;

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    LaxPacketHeaders, TcpHeader, UdpHeader,
};
use lb_common::{protocol, tcp::flag};

/// A MAC address.
pub type Mac = [u8; 6];

/// EtherType of an 802.1Q tag.
pub const C_TAG: u16 = 0x8100;
/// EtherType of an 802.1ad service tag, the outer one of QinQ.
pub const S_TAG: u16 = 0x88a8;
/// IP protocol numbers that are no service's.
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
/// Encapsulating security payload.
pub const ESP: u8 = 50;

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub ethertype: u16,
    /// Priority and drop eligibility, as in the upper four bits of the TCI.
    pub priority: u8,
    pub vid: u16,
}

/// A fragment's place: offset in bytes (a multiple of 8), and whether more follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u16,
    pub more: bool,
}

/// An IPv6 extension header; lengths in bytes, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    HopByHop(usize),
    Routing(usize),
    DestOptions(usize),
    Fragment(Place),
}

/// A frame to be. Fields are public: a case changes what it needs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub to: Mac,
    pub from: Mac,
    pub tags: Vec<Tag>,
    pub source: SocketAddr,
    pub dest: SocketAddr,
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags; of an SCTP packet the type of its first chunk, which has `payload` for its value.
    pub flags: u8,
    /// Type of the chunk behind that of an SCTP packet: an empty one.
    pub second_chunk: Option<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Of an IPv4 packet; an IPv6 one has [`Extension::Fragment`].
    pub fragment: Option<Place>,
    /// No DF, which packets have that are no fragments.
    pub may_fragment: bool,
    /// Identification, of IPv4 and of an IPv6 fragment header.
    pub id: u32,
    pub extensions: Vec<Extension>,
    pub payload: Vec<u8>,
    /// Behind the IP packet, as Ethernet pads a short frame.
    pub trailer: Vec<u8>,
    /// What the header says of the length instead of the truth: IPv4's total, IPv6's payload length.
    pub claimed_length: Option<u16>,
}

impl Packet {
    /// Sequence and acknowledgement number of every segment.
    const NUMBERS: (u32, u32) = (0x1234_5678, 0);

    /// A segment with some payload.
    pub fn tcp(source: SocketAddr, dest: SocketAddr, flags: u8) -> Self {
        Self::new(protocol::TCP, source, dest, flags)
    }

    /// A datagram with some payload.
    pub fn udp(source: SocketAddr, dest: SocketAddr) -> Self {
        Self::new(protocol::UDP, source, dest, 0)
    }

    /// An SCTP packet whose first chunk is of this type.
    pub fn sctp(source: SocketAddr, dest: SocketAddr, chunk: u8) -> Self {
        Self::new(protocol::SCTP, source, dest, chunk)
    }

    fn new(protocol: u8, source: SocketAddr, dest: SocketAddr, flags: u8) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            tags: Vec::new(),
            source,
            dest,
            protocol,
            ttl: 64,
            flags,
            second_chunk: None,
            options: Vec::new(),
            fragment: None,
            may_fragment: false,
            id: 0x1c46,
            extensions: Vec::new(),
            payload: (0..32).collect(),
            trailer: Vec::new(),
            claimed_length: None,
        }
    }

    /// The same with changes: `syn.with(|p| p.ttl = 1)`.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// The same with other TCP flags, or another first chunk.
    pub fn flags(&self, flags: u8) -> Self {
        self.with(|p| p.flags = flags)
    }

    pub fn ttl(&self, ttl: u8) -> Self {
        self.with(|p| p.ttl = ttl)
    }

    /// The same from another port of the client.
    pub fn from_port(&self, port: u16) -> Self {
        self.with(|p| p.source.set_port(port))
    }

    pub fn to_port(&self, port: u16) -> Self {
        self.with(|p| p.dest.set_port(port))
    }

    /// The same with 802.1Q tags, outermost first, of priority 0.
    pub fn tagged(&self, vids: &[u16]) -> Self {
        self.with(|p| {
            p.tags = vids.iter().map(|vid| Tag { ethertype: C_TAG, priority: 0, vid: *vid }).collect()
        })
    }

    pub fn extended(&self, extensions: &[Extension]) -> Self {
        self.with(|p| p.extensions = extensions.to_vec())
    }

    /// What a backend answers it with: source and destination change places.
    pub fn turned(&self) -> Self {
        self.with(|p| std::mem::swap(&mut p.source, &mut p.dest))
    }

    /// As a fragment; an IPv6 packet gets the header for it, behind those that it has.
    pub fn fragment(&self, offset: u16, more: bool) -> Self {
        let place = Place { offset, more };
        self.with(|p| match p.source {
            SocketAddr::V4(_) => p.fragment = Some(place),
            SocketAddr::V6(_) => p.extensions.push(Extension::Fragment(place)),
        })
    }

    /// IP total length, as the director counts bytes.
    pub fn ip_length(&self) -> usize {
        self.ip().len()
    }

    /// Bytes before the IP header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut bytes = self.link_header(self.to, self.from, ethertype);
        bytes.extend(self.ip());
        bytes.extend(&self.trailer);
        bytes
    }

    fn link_header(&self, to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
        let mut bytes = [to, from].concat();
        for tag in &self.tags {
            bytes.extend(tag.ethertype.to_be_bytes());
            bytes.extend((u16::from(tag.priority) << 12 | tag.vid).to_be_bytes());
        }
        bytes.extend(ethertype.to_be_bytes());
        bytes
    }

    fn ip(&self) -> Vec<u8> {
        match (self.source, self.dest) {
            (SocketAddr::V4(source), SocketAddr::V4(dest)) => {
                self.ipv4(source.ip().octets(), dest.ip().octets())
            }
            (SocketAddr::V6(source), SocketAddr::V6(dest)) => {
                self.ipv6(source.ip().octets(), dest.ip().octets())
            }
            _ => panic!("client and service of different families"),
        }
    }

    fn ipv4(&self, source: [u8; 4], dest: [u8; 4]) -> Vec<u8> {
        let transport = self.transport(|header, payload| match header {
            Header::Tcp(tcp) => tcp.calc_checksum_ipv4_raw(source, dest, payload).expect("short"),
            Header::Udp(udp) => udp.calc_checksum_ipv4_raw(source, dest, payload).expect("short"),
        });
        let mut header =
            Ipv4Header::new(transport.len() as u16, self.ttl, IpNumber(self.protocol), source, dest)
                .expect("short");
        header.options = Ipv4Options::try_from(&self.options[..]).expect("up to 40 bytes, in fours");
        header.identification = self.id as u16;
        header.total_len = (header.header_len() + transport.len()) as u16;
        header.dont_fragment = self.fragment.is_none() && !self.may_fragment;
        if let Some(place) = self.fragment {
            header.fragment_offset = IpFragOffset::try_new(place.offset / 8).expect("13 bits");
            header.more_fragments = place.more;
        }
        if let Some(claimed) = self.claimed_length {
            header.total_len = claimed;
        }
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], &transport].concat()
    }

    fn ipv6(&self, source: [u8; 16], dest: [u8; 16]) -> Vec<u8> {
        let transport = self.transport(|header, payload| match header {
            Header::Tcp(tcp) => tcp.calc_checksum_ipv6_raw(source, dest, payload).expect("short"),
            Header::Udp(udp) => udp.calc_checksum_ipv6_raw(source, dest, payload).expect("short"),
        });
        // From the last one to the first, as each names what follows it.
        let (mut next, mut body) = (self.protocol, transport);
        for extension in self.extensions.iter().rev() {
            body = [extension.bytes(next, self.id), body].concat();
            next = extension.protocol();
        }
        let header = Ipv6Header {
            traffic_class: 0x2e,
            payload_length: self.claimed_length.unwrap_or(body.len() as u16),
            next_header: IpNumber(next),
            hop_limit: self.ttl,
            source,
            destination: dest,
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &body].concat()
    }

    /// The transport header and payload; only the payload for a later fragment or another protocol.
    fn transport(&self, checksum: impl Fn(Header<'_>, &[u8]) -> u16) -> Vec<u8> {
        let (source, dest) = (self.source.port(), self.dest.port());
        match self.protocol {
            _ if self.is_later_fragment() => self.payload.clone(),
            protocol::TCP => {
                let (sequence, acknowledged) = Self::NUMBERS;
                let mut tcp = TcpHeader::new(source, dest, sequence, 0xfaf0);
                tcp.acknowledgment_number = acknowledged;
                tcp.fin = self.flags & flag::FIN != 0;
                tcp.syn = self.flags & flag::SYN != 0;
                tcp.rst = self.flags & flag::RST != 0;
                tcp.ack = self.flags & flag::ACK != 0;
                tcp.checksum = checksum(Header::Tcp(&tcp), &self.payload);
                [&tcp.to_bytes()[..], &self.payload].concat()
            }
            protocol::UDP => {
                let length = (8 + self.payload.len()) as u16;
                let mut udp = UdpHeader { source_port: source, destination_port: dest, length, checksum: 0 };
                udp.checksum = checksum(Header::Udp(&udp), &self.payload);
                [&udp.to_bytes()[..], &self.payload].concat()
            }
            protocol::SCTP => self.sctp_packet(),
            _ => self.payload.clone(),
        }
    }

    /// Common header and chunks (RFC 9260 section 3), built by hand, since etherparse knows none. The checksum is what it
    /// may be: a director neither looks at it nor changes what it is of.
    fn sctp_packet(&self) -> Vec<u8> {
        const TAG: u32 = 0x1234_5678;
        let mut bytes = [self.source.port().to_be_bytes(), self.dest.port().to_be_bytes()].concat();
        bytes.extend(TAG.to_be_bytes());
        bytes.extend([0xcc; 4]);
        let length = 4 + self.payload.len() as u16;
        bytes.extend([self.flags, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&self.payload);
        if let Some(second) = self.second_chunk {
            bytes.resize(12 + usize::from(length).next_multiple_of(4), 0);
            bytes.extend([second, 0, 0, 4]);
        }
        bytes
    }

    fn is_later_fragment(&self) -> bool {
        let places = self.extensions.iter().filter_map(|extension| match extension {
            Extension::Fragment(place) => Some(*place),
            _ => None,
        });
        self.fragment.into_iter().chain(places).any(|place| place.offset != 0)
    }
}

enum Header<'a> {
    Tcp(&'a TcpHeader),
    Udp(&'a UdpHeader),
}

impl Extension {
    fn protocol(self) -> u8 {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP.0,
            Self::Routing(_) => IpNumber::IPV6_ROUTE_HEADER.0,
            Self::DestOptions(_) => IpNumber::IPV6_DESTINATION_OPTIONS.0,
            Self::Fragment(_) => IpNumber::IPV6_FRAGMENTATION_HEADER.0,
        }
    }

    fn bytes(self, next: u8, id: u32) -> Vec<u8> {
        match self {
            Self::HopByHop(length) | Self::Routing(length) | Self::DestOptions(length) => {
                // Zeros are Pad1 options, and a routing header of type 0 with no segments left.
                let content = vec![0; length - 2];
                Ipv6RawExtHeader::new_raw(IpNumber(next), &content).expect("in eights").to_bytes().to_vec()
            }
            Self::Fragment(Place { offset, more }) => {
                let offset = IpFragOffset::try_new(offset / 8).expect("13 bits");
                Ipv6FragmentHeader::new(IpNumber(next), offset, more, id).to_bytes().to_vec()
            }
        }
    }
}

/// What differs between two frames, as hex and as header fields; empty if they are equal.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let mut text = String::new();
    if expected == actual {
        return text;
    }
    let _ = writeln!(text, "expected {} bytes, got {}:", expected.len(), actual.len());
    let rows = expected.len().max(actual.len()).div_ceil(16);
    for row in 0..rows {
        let part = |bytes: &[u8]| bytes.iter().skip(row * 16).take(16).copied().collect::<Vec<u8>>();
        let (wanted, got) = (part(expected), part(actual));
        if wanted == got {
            // Headers are worth seeing whole, payloads are not.
            if row < 6 {
                let _ = writeln!(text, "    {:04x}  {}", row * 16, hex(&wanted, &got));
            }
        } else {
            let _ = writeln!(text, "  - {:04x}  {}", row * 16, hex(&wanted, &got));
            let _ = writeln!(text, "  + {:04x}  {}", row * 16, hex(&got, &wanted));
        }
    }
    let (wanted, got) = (fields(expected), fields(actual));
    if wanted.len() == got.len() {
        for (wanted, got) in wanted.iter().zip(&got).filter(|(wanted, got)| wanted != got) {
            let _ = writeln!(text, "  - {}\n  + {}", wanted.trim(), got.trim());
        }
    } else {
        let _ = writeln!(text, "headers expected:\n{}\nheaders got:\n{}", wanted.join("\n"), got.join("\n"));
    }
    text
}

/// The first `prefix` bits of an address.
pub fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => IpAddr::from(
            (ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).to_be_bytes(),
        ),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::from((ip.to_bits() & mask).to_be_bytes())
        }
    }
}

/// Bytes as hex; those that `other` has differently are in brackets.
fn hex(bytes: &[u8], other: &[u8]) -> String {
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        let _ = match other.get(i) {
            Some(same) if same == byte => write!(text, " {byte:02x} "),
            _ => write!(text, "[{byte:02x}]"),
        };
    }
    text
}

fn fields(frame: &[u8]) -> Vec<String> {
    let text = match LaxPacketHeaders::from_ethernet(frame) {
        Ok(h) => format!("{:#?}\n{:#?}\n{:#?}\n{:#?}", h.link, h.link_exts, h.net, h.transport),
        Err(error) => error.to_string(),
    };
    text.lines().map(str::to_owned).collect()
}
