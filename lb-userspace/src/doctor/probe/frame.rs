//! The frames that the doctor sends, and what comes back. PURE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice,
    NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice, icmpv4, icmpv6,
};
use lb_common::vlan::{SERVICE, VID_MASK};

use crate::doctor::held::{Mac, TagPair};

/// What the SYN says of ourselves; what the other says does not depend on it.
const MSS: u16 = 1460;

/// RFC 4861: solicitations that came from another link are refused by their hop limit.
const ON_LINK: u8 = 255;

/// From where to where on Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub ifindex: u32,
    pub from: Mac,
    pub to: Mac,
    pub tags: TagPair,
}

/// A TCP connection attempt, or a datagram, which has no sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
}

impl Lane {
    /// A frame with this payload.
    fn frame(&self, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        for tag in [self.tags.0, self.tags.1].into_iter().filter(|tag| *tag != 0) {
            let kind: u16 = if tag & SERVICE != 0 { 0x88a8 } else { 0x8100 };
            frame.extend(kind.to_be_bytes());
            frame.extend((tag & VID_MASK).to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// An IP packet from `from` to `to`. A time to live of 1: who forwards it instead of accepting it says so.
    fn ip(&self, from: IpAddr, to: IpAddr, build: Build) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        let (ether_type, ip) = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (0x0800, PacketBuilder::ipv4(from.octets(), to.octets(), 1))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (0x86dd, PacketBuilder::ipv6(from.octets(), to.octets(), 1))
            }
            _ => return None,
        };
        match build {
            Build::Syn(Attempt { from, to, sequence }) => ip
                .tcp(from.port(), to.port(), sequence, u16::MAX)
                .syn()
                .options(&[TcpOptionElement::MaximumSegmentSize(MSS)])
                .ok()?
                .write(&mut packet, &[])
                .ok()?,
            Build::Datagram(Attempt { from, to, .. }) => {
                ip.udp(from.port(), to.port()).write(&mut packet, &[]).ok()?;
            }
            Build::Reset(Attempt { from, to, sequence }) => {
                ip.tcp(from.port(), to.port(), sequence, 0).rst().write(&mut packet, &[]).ok()?;
            }
            Build::Echo { id, length } if from.is_ipv4() => {
                let payload = vec![0; length.saturating_sub(20 + 8)];
                ip.icmpv4_echo_request(id, 1).write(&mut packet, &payload).ok()?;
            }
            Build::Echo { id, length } => {
                let payload = vec![0; length.saturating_sub(40 + 8)];
                ip.icmpv6_echo_request(id, 1).write(&mut packet, &payload).ok()?;
            }
        }
        Some(self.frame(ether_type, &packet))
    }

    /// None, here and below: the families differ.
    pub fn syn(&self, attempt: Attempt) -> Option<Vec<u8>> {
        self.ip(attempt.from.ip(), attempt.to.ip(), Build::Syn(attempt))
    }

    /// A UDP datagram without a payload.
    pub fn datagram(&self, attempt: Attempt) -> Option<Vec<u8>> {
        self.ip(attempt.from.ip(), attempt.to.ip(), Build::Datagram(attempt))
    }

    /// Ends what a SYN began, before anybody accepts it.
    pub fn reset(&self, attempt: Attempt) -> Option<Vec<u8>> {
        let sequence = attempt.sequence.wrapping_add(1);
        self.ip(attempt.from.ip(), attempt.to.ip(), Build::Reset(Attempt { sequence, ..attempt }))
    }

    /// An ICMP echo request of this total length, not to be fragmented (etherparse sets DF).
    pub fn echo(&self, from: IpAddr, to: IpAddr, id: u16, length: usize) -> Option<Vec<u8>> {
        self.ip(from, to, Build::Echo { id, length })
    }

    /// Who has `target`? As an ARP probe (RFC 5227): it names no sender, so nobody learns anything from it.
    pub fn who_has(&self, target: Ipv4Addr) -> Vec<u8> {
        let question = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: self.from,
            sender_ipv4: [0; 4],
            target_mac: [0; 6],
            target_ipv4: target.octets(),
        };
        Self { to: [0xff; 6], ..*self }.frame(0x0806, &question.to_bytes())
    }

    /// A neighbour solicitation for `target` to its group, from our own address: an answer to the unspecified one
    /// would go to everybody, and change what routers believe (RFC 4861 section 7.2.4).
    pub fn solicit(&self, from: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
        let octets = target.octets();
        let low = [octets[13], octets[14], octets[15]];
        let group = Ipv6Addr::new(
            0xff02,
            0,
            0,
            0,
            0,
            1,
            0xff00 | u16::from(low[0]),
            u16::from_be_bytes([low[1], low[2]]),
        );
        // Target, then the option source link-layer address.
        let payload = [&octets[..], &[1, 1], &self.from].concat();
        let mut packet = Vec::new();
        PacketBuilder::ipv6(from.octets(), group.octets(), ON_LINK)
            .icmpv6_raw(icmpv6::TYPE_NEIGHBOR_SOLICITATION, 0, [0; 4])
            .write(&mut packet, &payload)
            .ok()?;
        let to = [0x33, 0x33, 0xff, low[0], low[1], low[2]];
        Some(Self { to, ..*self }.frame(0x86dd, &packet))
    }
}

enum Build {
    Syn(Attempt),
    Reset(Attempt),
    Datagram(Attempt),
    Echo { id: u16, length: usize },
}

/// A frame that may be an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// `mss`: of a SYN-ACK that has one.
    Open {
        from: SocketAddr,
        to: SocketAddr,
        acknowledged: u32,
        mss: Option<u16>,
    },
    Refused {
        from: SocketAddr,
        to: SocketAddr,
    },
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
    },
    Echoed {
        from: IpAddr,
        to: IpAddr,
        id: u16,
    },
    /// An ICMP error about a packet of ours; `port` is its source port or echo id.
    Error {
        by: IpAddr,
        about: IpAddr,
        port: u16,
        what: Trouble,
    },
    /// An ARP reply or a neighbour advertisement.
    Has {
        mac: Mac,
        address: IpAddr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Time exceeded: it was to be forwarded.
    Expired,
    /// Packet too big, or fragmentation needed; the MTU that it names.
    TooBig(u32),
    /// Port unreachable: nobody listens on a UDP port; or a firewall says so, of whatever protocol.
    NoPort,
    /// Administratively prohibited, or another kind of unreachable that a firewall says.
    Unreachable,
}

/// What a frame says, if it can be an answer to any question of ours.
pub fn read(frame: &[u8]) -> Option<Heard> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
        }
        NetSlice::Ipv6(ip) => {
            (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
        }
        NetSlice::Arp(arp) => {
            let arp = arp.to_packet().try_eth_ipv4().ok()?;
            let is_reply = arp.operation == ArpOperation::REPLY;
            return is_reply
                .then(|| Heard::Has { mac: arp.sender_mac, address: arp.sender_ipv4_addr().into() });
        }
    };
    match packet.transport? {
        TransportSlice::Tcp(tcp) => {
            let (from, to) =
                (SocketAddr::new(from, tcp.source_port()), SocketAddr::new(to, tcp.destination_port()));
            if tcp.rst() {
                return Some(Heard::Refused { from, to });
            }
            let mss = tcp.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                _ => None,
            });
            let acknowledged = tcp.acknowledgment_number();
            (tcp.syn() && tcp.ack()).then_some(Heard::Open { from, to, acknowledged, mss })
        }
        TransportSlice::Udp(udp) => Some(Heard::Datagram {
            from: SocketAddr::new(from, udp.source_port()),
            to: SocketAddr::new(to, udp.destination_port()),
        }),
        TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
            Icmpv4Type::EchoReply(echo) => Some(Heard::Echoed { from, to, id: echo.id }),
            Icmpv4Type::TimeExceeded(_) => quoted(from, icmp.payload(), Trouble::Expired),
            Icmpv4Type::DestinationUnreachable(why) => {
                let what = match why {
                    icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu } => {
                        Trouble::TooBig(next_hop_mtu.into())
                    }
                    icmpv4::DestUnreachableHeader::Port => Trouble::NoPort,
                    _ => Trouble::Unreachable,
                };
                quoted(from, icmp.payload(), what)
            }
            _ => None,
        },
        TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
            Icmpv6Type::EchoReply(echo) => Some(Heard::Echoed { from, to, id: echo.id }),
            Icmpv6Type::TimeExceeded(_) => quoted(from, icmp.payload(), Trouble::Expired),
            Icmpv6Type::PacketTooBig { mtu } => quoted(from, icmp.payload(), Trouble::TooBig(mtu)),
            Icmpv6Type::DestinationUnreachable(why) => {
                let is_port = matches!(why, icmpv6::DestUnreachableCode::Port);
                quoted(from, icmp.payload(), if is_port { Trouble::NoPort } else { Trouble::Unreachable })
            }
            Icmpv6Type::NeighborAdvertisement(_) => advertised(icmp.payload(), frame),
            _ => None,
        },
        TransportSlice::Igmp(_) => None,
    }
}

/// Target, then options: the target's link-layer address (2), else the frame's sender.
fn advertised(payload: &[u8], frame: &[u8]) -> Option<Heard> {
    let target: [u8; 16] = payload.get(..16)?.try_into().ok()?;
    let named = payload.get(16..24).filter(|option| option[..2] == [2, 1]).map(|option| &option[2..8]);
    let mac = named.or_else(|| frame.get(6..12))?.try_into().ok()?;
    Some(Heard::Has { mac, address: Ipv6Addr::from(target).into() })
}

/// Only 8 bytes behind the IP header need be quoted (RFC 792).
fn quoted(by: IpAddr, packet: &[u8], what: Trouble) -> Option<Heard> {
    let (about, protocol, rest) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
            (IpAddr::V4(ip.source_addr()), ip.protocol(), &packet[ip.slice().len()..])
        }
        _ => {
            let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
            (IpAddr::V6(ip.source_addr()), ip.next_header(), &packet[ip.slice().len()..])
        }
    };
    let at = if matches!(protocol, IpNumber::TCP | IpNumber::UDP) { 0 } else { 4 };
    let port = u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?);
    Some(Heard::Error { by, about, port, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { ifindex: 1, from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2], tags: (0, 0) };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn attempt(from: &str, to: &str) -> Attempt {
        let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
        Attempt { from, to, sequence: 7 }
    }

    #[test]
    fn questions_are_no_answers() {
        let attempt = attempt("10.0.0.1:61000", "10.0.0.100:80");
        assert_eq!(read(&LANE.syn(attempt).expect("a frame")), None);
        assert_eq!(read(&LANE.who_has(Ipv4Addr::new(10, 0, 0, 100))), None);
        assert_eq!(read(&LANE.echo(ip("10.0.0.1"), ip("10.0.0.2"), 9, 100).expect("a frame")), None);
        // Whether it is the answer to one, its port tells.
        let datagram = read(&LANE.datagram(attempt).expect("a frame"));
        assert_eq!(datagram, Some(Heard::Datagram { from: attempt.from, to: attempt.to }));
        let (from, target) =
            ("fe80::1".parse().expect("an address"), "fd00::100".parse().expect("an address"));
        assert_eq!(read(&LANE.solicit(from, target).expect("a frame")), None);
    }

    #[test]
    fn a_probe_has_the_length_and_the_tags_that_were_asked_for() {
        let plain = LANE.echo(ip("10.0.0.1"), ip("10.0.0.2"), 9, 1500).expect("a frame");
        assert_eq!(plain.len(), 14 + 1500);
        assert_eq!(plain[14 + 6] & 0x40, 0x40, "DF");
        let wide = LANE.echo(ip("fd00::1"), ip("fd00::2"), 9, 1500).expect("a frame");
        assert_eq!(wide.len(), 14 + 1500);
        let tagged = Lane { tags: (SERVICE | 100, 200), ..LANE };
        let tagged = tagged.echo(ip("10.0.0.1"), ip("10.0.0.2"), 9, 1500).expect("a frame");
        assert_eq!(tagged[12..20], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 200]);
        assert!(LANE.echo(ip("10.0.0.1"), ip("fd00::2"), 9, 100).is_none());
    }

    #[test]
    fn answers_of_tcp() {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 100], [10, 0, 0, 1], 64)
            .tcp(80, 61000, 99, 1000)
            .syn()
            .ack(8)
            .options(&[TcpOptionElement::MaximumSegmentSize(8960)])
            .expect("fits")
            .write(&mut packet, &[])
            .expect("a frame");
        let (from, to) =
            ("10.0.0.100:80".parse().expect("an address"), "10.0.0.1:61000".parse().expect("an address"));
        assert_eq!(read(&packet), Some(Heard::Open { from, to, acknowledged: 8, mss: Some(8960) }));
        let reset = LANE.reset(attempt("10.0.0.100:80", "10.0.0.1:61000")).expect("a frame");
        assert_eq!(read(&reset), Some(Heard::Refused { from, to }));
    }

    /// Port unreachable about our datagram.
    #[test]
    fn a_port_that_is_closed() {
        let datagram = LANE.datagram(attempt("10.0.0.1:61000", "10.0.0.100:53")).expect("a frame");
        assert_eq!(datagram.len(), 14 + 20 + 8);
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 100], [10, 0, 0, 1], 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port))
            .write(&mut packet, &datagram[14..])
            .expect("a frame");
        let (by, about) = (ip("10.0.0.100"), ip("10.0.0.1"));
        assert_eq!(read(&packet), Some(Heard::Error { by, about, port: 61000, what: Trouble::NoPort }));
        let datagram = LANE.datagram(attempt("[fd00::1]:61000", "[fd00::2]:53")).expect("a frame");
        let mut packet = Vec::new();
        let [by, about] = [ip("fd00::2"), ip("fd00::1")];
        let octets = |address: IpAddr| match address {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(_) => panic!("IPv4"),
        };
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv6(octets(by), octets(about), 64)
            .icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
            .write(&mut packet, &datagram[14..])
            .expect("a frame");
        assert_eq!(read(&packet), Some(Heard::Error { by, about, port: 61000, what: Trouble::NoPort }));
    }

    /// Time exceeded about our SYN, and about an echo of which 8 bytes are quoted.
    #[test]
    fn errors_name_the_question() {
        let error = |frame: Vec<u8>, cut: usize| {
            let mut packet = Vec::new();
            PacketBuilder::ethernet2([1; 6], [2; 6])
                .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
                .icmpv4(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit))
                .write(&mut packet, &frame[14..][..cut])
                .expect("a frame");
            read(&packet)
        };
        let (by, about) = (ip("10.0.0.2"), ip("10.0.0.1"));
        let heard = |port| Some(Heard::Error { by, about, port, what: Trouble::Expired });
        let syn = LANE.syn(attempt("10.0.0.1:61000", "10.0.0.100:80")).expect("a frame");
        assert_eq!(error(syn.clone(), 44), heard(61000));
        assert_eq!(error(syn.clone(), 28), heard(61000));
        assert_eq!(error(syn, 21), None);
        assert_eq!(error(LANE.echo(about, by, 9, 100).expect("a frame"), 28), heard(9));
    }

    #[test]
    fn who_has_an_address() {
        let reply = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: [2, 0, 0, 0, 0, 9],
            sender_ipv4: [10, 0, 0, 100],
            target_mac: LANE.from,
            target_ipv4: [0; 4],
        };
        let frame = LANE.frame(0x0806, &reply.to_bytes());
        assert_eq!(read(&frame), Some(Heard::Has { mac: [2, 0, 0, 0, 0, 9], address: ip("10.0.0.100") }));
        let target: Ipv6Addr = "fd00::100".parse().expect("an address");
        for (options, mac) in [(&[2, 1, 4, 4, 4, 4, 4, 4][..], [4; 6]), (&[], LANE.from)] {
            let mut packet = Vec::new();
            PacketBuilder::ipv6([1; 16], [2; 16], 255)
                .icmpv6_raw(icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT, 0, [0; 4])
                .write(&mut packet, &[&target.octets()[..], options].concat())
                .expect("a packet");
            let heard = read(&LANE.frame(0x86dd, &packet));
            assert_eq!(heard, Some(Heard::Has { mac, address: target.into() }));
        }
    }
}
