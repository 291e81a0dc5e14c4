//! What a router or a host answers a packet with, as frames.

use std::net::IpAddr;

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, icmpv4,
    icmpv6,
};
use lb_common::{protocol, tcp::flag};

use super::{Mac, Packet};

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    TimeExceeded,
    /// Fragmentation needed, or packet too big; with the next hop's MTU.
    TooBig(u16),
    PortUnreachable,
    /// Protocol unreachable, or a parameter problem: unrecognized next header.
    ProtocolUnreachable,
}

impl Packet {
    /// [`Icmp::TimeExceeded`] from a router.
    pub fn time_exceeded(&self, from: Mac, router: IpAddr) -> Vec<u8> {
        self.icmp_error(Icmp::TimeExceeded, from, router)
    }

    /// The ICMP error that `source` with MAC `from` answers the packet with, as a frame: quotes the IPv4 header and
    /// 8 bytes (20 of SCTP), or the IPv6 header and 16 bytes (8 where there are fewer).
    pub fn icmp_error(&self, what: Icmp, from: Mac, source: IpAddr) -> Vec<u8> {
        let ip = self.ip();
        let (ethertype, answer) = match (source, self.source.ip()) {
            (IpAddr::V4(source), IpAddr::V4(client)) => {
                let before = 20 + self.options.len();
                let has_tag = self.protocol == protocol::SCTP && ip.len() >= before + 20;
                let quote = &ip[..before + if has_tag { 20 } else { 8 }];
                (0x0800, icmp4(what, source.octets(), client.octets(), 48, quote))
            }
            (IpAddr::V6(source), IpAddr::V6(client)) => {
                let quote = &ip[..if ip.len() < 56 { 48 } else { 56 }];
                (0x86dd, icmp6(what, source.octets(), client.octets(), quote))
            }
            _ => panic!("an answer of another family"),
        };
        [self.link_header(self.from, from, ethertype), answer].concat()
    }

    /// This packet, of a backend's to its client, came to a router that answers it with an ICMP error to the VIP:
    /// the frame that reaches `to`. The error quotes as much as `quoted` bytes.
    pub fn error_to_sender(&self, what: Icmp, to: Mac, from: Mac, router: IpAddr, quoted: usize) -> Vec<u8> {
        let ip = self.ip();
        let quote = &ip[..quoted.min(ip.len())];
        let (ethertype, error) = match (router, self.source.ip()) {
            (IpAddr::V4(router), IpAddr::V4(vip)) => {
                (0x0800, icmp4(what, router.octets(), vip.octets(), 48, quote))
            }
            (IpAddr::V6(router), IpAddr::V6(vip)) => {
                (0x86dd, icmp6(what, router.octets(), vip.octets(), quote))
            }
            _ => panic!("a router of another family"),
        };
        [self.link_header(to, from, ethertype), error].concat()
    }

    /// The reset that the host with MAC `from`, which does not know the connection, answers a segment with
    /// (RFC 9293 section 3.10.7.1).
    pub fn reset(&self, from: Mac) -> Vec<u8> {
        let (sequence, _acknowledged) = Self::NUMBERS;
        let mut tcp = TcpHeader::new(self.dest.port(), self.source.port(), 0, 0);
        tcp.rst = true;
        if self.flags & flag::ACK == 0 {
            let counted = u32::from(self.flags & flag::SYN != 0) + u32::from(self.flags & flag::FIN != 0);
            tcp.ack = true;
            tcp.acknowledgment_number = sequence.wrapping_add(self.payload.len() as u32 + counted);
        }
        let (ethertype, header) = match (self.dest.ip(), self.source.ip()) {
            (IpAddr::V4(vip), IpAddr::V4(client)) => {
                tcp.checksum = tcp.calc_checksum_ipv4_raw(vip.octets(), client.octets(), &[]).expect("short");
                let mut header =
                    Ipv4Header::new(20, 64, IpNumber::TCP, vip.octets(), client.octets()).expect("short");
                header.dont_fragment = true;
                header.header_checksum = header.calc_header_checksum();
                (0x0800, header.to_bytes().to_vec())
            }
            (IpAddr::V6(vip), IpAddr::V6(client)) => {
                tcp.checksum = tcp.calc_checksum_ipv6_raw(vip.octets(), client.octets(), &[]).expect("short");
                (0x86dd, header6(IpNumber::TCP, 20, vip.octets(), client.octets()))
            }
            _ => panic!("client and service of different families"),
        };
        [&self.link_header(self.from, from, ethertype)[..], &header, &tcp.to_bytes()].concat()
    }
}

fn icmp4(what: Icmp, source: [u8; 4], to: [u8; 4], dscp: u8, quote: &[u8]) -> Vec<u8> {
    use icmpv4::{DestUnreachableHeader as Unreachable, TimeExceededCode};
    let kind = match what {
        Icmp::TimeExceeded => Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        Icmp::TooBig(next_hop_mtu) => {
            Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu })
        }
        Icmp::PortUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Port),
        Icmp::ProtocolUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Protocol),
    };
    let icmp = Icmpv4Header::with_checksum(kind, quote);
    let length = 8 + quote.len() as u16;
    let mut header = Ipv4Header::new(length, 64, IpNumber::ICMP, source, to).expect("short");
    // Network control (RFC 1812 section 4.3.2.5).
    header.dscp = dscp.try_into().expect("six bits");
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &icmp.to_bytes()[..], quote].concat()
}

fn icmp6(what: Icmp, source: [u8; 16], to: [u8; 16], quote: &[u8]) -> Vec<u8> {
    use icmpv6::{DestUnreachableCode, ParameterProblemCode, ParameterProblemHeader, TimeExceededCode};
    let kind = match what {
        Icmp::TimeExceeded => Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
        Icmp::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
        Icmp::PortUnreachable => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
        // The next header field is the header's seventh byte.
        Icmp::ProtocolUnreachable => Icmpv6Type::ParameterProblem(ParameterProblemHeader {
            code: ParameterProblemCode::UnrecognizedNextHeader,
            pointer: 6,
        }),
    };
    let icmp = Icmpv6Header::with_checksum(kind, source, to, quote).expect("short");
    let header = header6(IpNumber::IPV6_ICMP, 8 + quote.len() as u16, source, to);
    [&header[..], &icmp.to_bytes()[..], quote].concat()
}

fn header6(next_header: IpNumber, payload_length: u16, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length,
        next_header,
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    header.to_bytes().to_vec()
}
