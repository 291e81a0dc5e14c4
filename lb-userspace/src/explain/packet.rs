//! The packet that is asked about, as a frame. PURE.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder};
use lb_common::{
    sctp::chunk,
    tcp,
    vlan::{SERVICE, Tags, VID_MASK},
};

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
    /// The frame, from `mac` to the director's `to`. None: its addresses are of different families.
    pub fn frame(&self, to: [u8; 6], mac: [u8; 6], tags: Tags) -> Option<Vec<u8>> {
        let (ether_type, ip): (u16, _) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (0x0800, PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (0x86dd, PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl))
            }
            _ => return None,
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
                // Common header and one chunk (RFC 9260 section 3), which etherparse does not know.
                let body = rest(16);
                let length = u16::try_from(4 + body.len()).ok()?;
                let mut sctp = [from.to_be_bytes(), to_port.to_be_bytes()].concat();
                sctp.extend([0; 8]);
                sctp.extend([self.chunk, 0]);
                sctp.extend(length.to_be_bytes());
                sctp.extend(body);
                ip.write(&mut packet, IpNumber::SCTP, &sctp)
            }
        };
        written.ok()?;
        let mut frame = [to, mac].concat();
        for tag in [tags.outer(), tags.inner()].into_iter().filter(|tag| *tag != 0) {
            let kind: u16 = if tag & SERVICE != 0 { 0x88a8 } else { 0x8100 };
            frame.extend(kind.to_be_bytes());
            frame.extend((tag & VID_MASK).to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        Some(frame)
    }

    /// As the heading of what is said about it.
    pub fn words(&self) -> String {
        let kind = match self.protocol {
            Protocol::Tcp => format!("tcp {}", flag_names(self.flags)),
            Protocol::Udp => "udp".to_owned(),
            Protocol::Sctp => format!("sctp {}", names(&CHUNKS, |chunk| self.chunk == chunk)),
        };
        format!("{kind} from {} to {}, TTL {}", self.from, self.to, self.ttl)
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
    use lb_common::vlan::tag;

    use super::*;

    const TO: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn packet(protocol: Protocol, from: &str, to: &str) -> Packet {
        let [from, to] = [from, to].map(|text| text.parse().expect("address and port"));
        Packet { protocol, from, to, flags: tcp::flag::SYN, chunk: chunk::INIT, ttl: 7, length: 0 }
    }

    #[test]
    fn a_frame_says_what_was_asked() {
        let families = [("10.1.2.3:40000", "172.18.14.100:80"), ("[fd00::1]:40000", "[fd00::2]:80")];
        for (protocol, least) in [(Protocol::Tcp, 20), (Protocol::Udp, 8), (Protocol::Sctp, 16)] {
            for ((from, to), header) in families.into_iter().zip([20, 40]) {
                for length in [0, 1400] {
                    let asked = Packet { length, ..packet(protocol, from, to) };
                    let tags = Tags::new(tag(true, 10), tag(false, 20));
                    let frame = asked.frame(TO, FROM, tags).expect("one family");
                    assert_eq!(frame.len(), 14 + 8 + (header + least).max(length), "{asked:?}");
                    assert_eq!(
                        frame[..22],
                        [&TO[..], &FROM, &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 20], &frame[20..22]].concat()
                    );
                    let read = SlicedPacket::from_ethernet(&frame).expect("a frame");
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
                            let sctp = &frame[22 + header..];
                            assert_eq!(sctp[..4], [40000u16.to_be_bytes(), 80u16.to_be_bytes()].concat());
                            assert_eq!(sctp[12], chunk::INIT);
                        }
                        (protocol, transport) => panic!("{protocol:?}: {transport:?}"),
                    }
                }
            }
        }
        assert_eq!(packet(Protocol::Tcp, "10.0.0.1:1", "[fd00::2]:80").frame(TO, FROM, Tags::NONE), None);
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
