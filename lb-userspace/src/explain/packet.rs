//! The packet of a client that is asked about, as an IP packet. PURE.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder};
use lb_common::{fragment::LIFETIME, sctp::chunk, tcp};

use super::{Line, fragment::Fragment};
use crate::model::Protocol;

/// A packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub protocol: Protocol,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Of TCP: see [`tcp_flags`].
    pub flags: u8,
    /// Of SCTP: type of its one chunk, see [`sctp_chunk`].
    pub chunk: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP total length, bytes; what its headers need if that is more.
    pub length: usize,
    /// It is one of a datagram's. A later one has neither ports nor flags.
    pub fragment: Option<Fragment>,
}

const PSH: u8 = 0x08;
const URG: u8 = 0x20;
/// The flags by their names.
const FLAGS: [(&str, u8); 6] = [
    ("SYN", tcp::flag::SYN),
    ("ACK", tcp::flag::ACK),
    ("FIN", tcp::flag::FIN),
    ("RST", tcp::flag::RST),
    ("PSH", PSH),
    ("URG", URG),
];
const CHUNKS: [(&str, u8); 8] = [
    ("DATA", chunk::DATA),
    ("INIT", chunk::INIT),
    ("ABORT", chunk::ABORT),
    ("SHUTDOWN", chunk::SHUTDOWN),
    ("SHUTDOWN-ACK", chunk::SHUTDOWN_ACK),
    ("COOKIE-ECHO", chunk::COOKIE_ECHO),
    ("HEARTBEAT", chunk::HEARTBEAT),
    ("SHUTDOWN-COMPLETE", chunk::SHUTDOWN_COMPLETE),
];

/// `SYN`, `syn,ack`.
///
/// # Errors
/// What is wrong with the text.
pub fn tcp_flags(text: &str) -> Result<u8, String> {
    text.split(',').try_fold(0, |flags, name| Ok(flags | by_name(&FLAGS, name)?))
}

/// `INIT`, `cookie-echo`.
///
/// # Errors
/// What is wrong with the text.
pub fn sctp_chunk(text: &str) -> Result<u8, String> {
    by_name(&CHUNKS, text)
}

fn by_name(names: &[(&str, u8)], text: &str) -> Result<u8, String> {
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is none of {}", all.join(", "))
    })
}

/// The longest frame that BPF_PROG_TEST_RUN takes with certainty, less its Ethernet header with two tags.
pub const MAX_LENGTH: usize = 3000;

impl Packet {
    /// From the IP header on.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub(super) fn ip(&self) -> Result<Vec<u8>, String> {
        let whole = self.whole()?;
        match self.fragment {
            Some(fragment) => fragment.cut(&whole),
            None => Ok(whole),
        }
    }

    fn whole(&self) -> Result<Vec<u8>, String> {
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl),
            _ => return Err("client and VIP are of different address families".to_owned()),
        };
        let header = if self.from.is_ipv4() { 20 } else { 40 };
        let rest = |transport: usize| vec![0; self.length.saturating_sub(header + transport)];
        let (from, to_port) = (self.from.port(), self.to.port());
        let mut packet = Vec::new();
        let written = match self.protocol {
            Protocol::Tcp => {
                let has = |flag| self.flags & flag != 0;
                let mut tcp = ip.tcp(from, to_port, 1, u16::MAX);
                if has(tcp::flag::SYN) {
                    tcp = tcp.syn();
                }
                if has(tcp::flag::FIN) {
                    tcp = tcp.fin();
                }
                if has(tcp::flag::RST) {
                    tcp = tcp.rst();
                }
                if has(PSH) {
                    tcp = tcp.psh();
                }
                if has(tcp::flag::ACK) {
                    tcp = tcp.ack(1);
                }
                if has(URG) {
                    tcp = tcp.urg(0);
                }
                tcp.write(&mut packet, &rest(20))
            }
            Protocol::Udp => ip.udp(from, to_port).write(&mut packet, &rest(8)),
            Protocol::Sctp => {
                // Common header and one chunk (RFC 9260 section 3), which etherparse does not know. `length` is at
                // most `MAX_LENGTH`.
                let body = rest(16);
                let length = (4 + body.len()) as u16;
                let mut sctp = [from.to_be_bytes(), to_port.to_be_bytes()].concat();
                sctp.extend([0; 8]);
                sctp.extend([self.chunk, 0]);
                sctp.extend(length.to_be_bytes());
                sctp.extend(body);
                ip.write(&mut packet, IpNumber::SCTP, &sctp)
            }
        };
        written.map_err(|error| error.to_string())?;
        Ok(packet)
    }

    /// As the heading of what is said about it.
    pub fn words(&self) -> String {
        let kind = match self.protocol {
            Protocol::Tcp => format!("tcp {}", flag_names(self.flags)),
            Protocol::Udp => "udp".to_owned(),
            Protocol::Sctp => format!("sctp {}", names(&CHUNKS, |chunk| self.chunk == chunk)),
        };
        let (from, to, ttl) = (self.from, self.to, self.ttl);
        match self.fragment {
            None => format!("{kind} from {from} to {to}, TTL {ttl}"),
            Some(Fragment { id, offset: 0 }) => {
                format!("first fragment, of datagram {id}: {kind} from {from} to {to}, TTL {ttl}")
            }
            Some(Fragment { id, offset }) => {
                let (protocol, from, to) = (self.protocol, from.ip(), to.ip());
                format!(
                    "later fragment, of datagram {id} at {offset}: {protocol} from {from} to {to}, TTL {ttl}"
                )
            }
        }
    }

    /// Of what the program does not note.
    pub(super) fn opening(&self) -> Option<Line> {
        let fragment = self.fragment?;
        let text = if fragment.is_first() {
            format!("the later ones follow it, for {LIFETIME} seconds")
        } else {
            format!(
                "has no ports: goes where the first one went, if that came in the last {LIFETIME} seconds"
            )
        };
        Some(Line { step: "fragment", text })
    }
}

/// `SYN,ACK`
pub fn flag_names(flags: u8) -> String {
    names(&FLAGS, |flag| flags & flag != 0)
}

fn names(all: &[(&'static str, u8)], has: impl Fn(u8) -> bool) -> String {
    let names: Vec<&str> = all.iter().filter(|(_, value)| has(*value)).map(|(name, _)| *name).collect();
    if names.is_empty() { "without flags".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const FAMILIES: [(&str, &str, usize); 2] =
        [("10.1.2.3:40000", "172.18.14.100:80", 20), ("[fd00::1]:40000", "[fd00::2]:80", 40)];
    const PROTOCOLS: [(Protocol, usize); 3] = [(Protocol::Tcp, 20), (Protocol::Udp, 8), (Protocol::Sctp, 16)];

    fn packet(protocol: Protocol, from: &str, to: &str) -> Packet {
        let [from, to] = [from, to].map(|text| text.parse().expect("address and port"));
        let (flags, chunk) = (tcp::flag::SYN, chunk::INIT);
        Packet { protocol, from, to, flags, chunk, ttl: 7, length: 0, fragment: None }
    }

    #[test]
    fn a_packet_says_what_was_asked() {
        for (protocol, least) in PROTOCOLS {
            for (from, to, header) in FAMILIES {
                for length in [0, 1400] {
                    let asked = Packet { length, ..packet(protocol, from, to) };
                    let ip = asked.ip().expect("one family");
                    assert_eq!(ip.len(), (header + least).max(length), "{asked:?}");
                    let read = SlicedPacket::from_ip(&ip).expect("IP");
                    let ttl = match read.net.expect("IP") {
                        NetSlice::Ipv4(ip) => ip.header().ttl(),
                        NetSlice::Ipv6(ip) => ip.header().hop_limit(),
                        NetSlice::Arp(_) => panic!("ARP"),
                    };
                    assert_eq!(ttl, 7);
                    match (protocol, read.transport) {
                        (Protocol::Tcp, Some(TransportSlice::Tcp(tcp))) => {
                            assert_eq!((tcp.source_port(), tcp.destination_port()), (40000, 80));
                            assert!(tcp.syn() && !tcp.ack() && !tcp.rst());
                        }
                        (Protocol::Udp, Some(TransportSlice::Udp(udp))) => {
                            assert_eq!((udp.source_port(), udp.destination_port()), (40000, 80));
                        }
                        (Protocol::Sctp, None) => {
                            let sctp = &ip[header..];
                            assert_eq!(sctp[..4], [40000u16.to_be_bytes(), 80u16.to_be_bytes()].concat());
                            assert_eq!(sctp[12], chunk::INIT);
                        }
                        (protocol, transport) => panic!("{protocol:?}: {transport:?}"),
                    }
                }
            }
        }
        let mixed = packet(Protocol::Tcp, "10.0.0.1:1", "[fd00::2]:80").ip().expect_err("two families");
        assert!(mixed.contains("families"), "{mixed}");
    }

    #[test]
    fn a_first_fragment_has_ports_and_a_later_one_has_none() {
        for (protocol, _) in PROTOCOLS {
            for (from, to, header) in FAMILIES {
                for offset in [0, 1480] {
                    let fragment = Some(Fragment { id: 7, offset });
                    let asked = Packet { fragment, ..packet(protocol, from, to) };
                    let ip = asked.ip().expect("a fragment");
                    let read = SlicedPacket::from_ip(&ip).expect("IP");
                    assert!(read.is_ip_payload_fragmented(), "{asked:?}: {read:?}");
                    let before = if header == 40 { 48 } else { 20 };
                    let ports = [40000u16.to_be_bytes(), 80u16.to_be_bytes()].concat();
                    assert_eq!(ip[before..before + 4] == ports[..], offset == 0, "{asked:?}");
                    let id_at = if header == 40 { 44..48 } else { 4..6 };
                    assert_eq!(ip[id_at].last(), Some(&7), "{asked:?}");
                    assert!(offset != 0 || (ip.len() - before).is_multiple_of(8), "{asked:?}");
                }
            }
        }
        let large = Some(Fragment { id: 0x1_0000, offset: 0 });
        let v4 = Packet { fragment: large, ..packet(Protocol::Udp, "10.1.2.3:1", "172.18.14.100:53") };
        assert!(v4.ip().expect_err("16 bits").contains("below 65536"));
    }

    #[test]
    fn flags_and_chunks_have_their_names() {
        assert_eq!(tcp_flags("SYN"), Ok(tcp::flag::SYN));
        assert_eq!(tcp_flags("fin,ACK"), Ok(tcp::flag::FIN | tcp::flag::ACK));
        assert_eq!(sctp_chunk("cookie-echo"), Ok(chunk::COOKIE_ECHO));
        let wrong = tcp_flags("SYN,NIX").expect_err("no such flag");
        assert!(wrong.contains("NIX") && wrong.contains("RST"), "{wrong}");
    }
}
