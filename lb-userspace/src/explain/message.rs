//! An ICMP message to a VIP, as an IP packet. PURE.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, PacketBuilder,
    icmpv4::{self, DestUnreachableHeader},
    icmpv6,
};
use lb_common::{sctp::chunk, tcp};

use super::{Line, Packet};
use crate::model::Protocol;

/// An error about a packet that a backend sent to its client, or a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    /// Who sends it: a router on the way, or the client.
    pub sender: IpAddr,
    pub client: Peer,
    pub vip: Peer,
    /// Of the connection that an error is about.
    pub protocol: Protocol,
    /// TTL or hop limit.
    pub ttl: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MessageKind {
    /// Error: fragmentation needed (IPv4), packet too big (IPv6); packet-too-big says the same
    #[value(alias = "packet-too-big")]
    FragNeeded,
    /// Error: the TTL or hop limit ran out in transit
    TimeExceeded,
    /// Error: nobody listens on the client's port
    PortUnreachable,
    /// Error: the client cannot be reached
    HostUnreachable,
    /// A ping of the VIP
    Echo,
}

/// One end of a connection; of a ping, without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// `10.1.2.3:40000`, `[fd00::1]:80`, `10.1.2.3`, `fd00::1`.
///
/// # Errors
/// What is wrong with the text.
pub fn peer(text: &str) -> Result<Peer, String> {
    if let Ok(address) = text.parse() {
        return Ok(Peer { address, port: None });
    }
    let socket: SocketAddr =
        text.parse().map_err(|_| "no ADDRESS:PORT, IPv6 as [ADDRESS]:PORT".to_owned())?;
    Ok(Peer { address: socket.ip(), port: Some(socket.port()) })
}

/// MTU of the next hop that an error names: the least of IPv6 (RFC 8200 section 5). The program does not look at it.
const MTU: u16 = 1280;

impl Message {
    /// From its sender to the VIP.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub(super) fn ip(&self) -> Result<Vec<u8>, String> {
        let quote = self.quote()?;
        let mut packet = Vec::new();
        let written = match (self.sender, self.vip.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl)
                .icmpv4(self.kind.v4())
                .write(&mut packet, &quote),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl)
                .icmpv6(self.kind.v6())
                .write(&mut packet, &quote),
            _ => return Err("who sends it and the VIP are of different address families".to_owned()),
        };
        written.map_err(|error| error.to_string())?;
        Ok(packet)
    }

    /// What it is about, as the error has it: an IPv4 header and 8 bytes (RFC 792; of SCTP 20, RFC 9260 section 10), an
    /// IPv6 packet whole (RFC 4443 section 3.1). Nothing of a ping.
    fn quote(&self) -> Result<Vec<u8>, String> {
        let ports = (self.client.port, self.vip.port);
        if self.kind == MessageKind::Echo {
            return match ports {
                (None, None) => Ok(Vec::new()),
                _ => Err("a ping has no ports: say both addresses without".to_owned()),
            };
        }
        let (Some(client_port), Some(port)) = ports else {
            return Err("an ICMP error is about a connection: say its CLIENT:PORT and VIP:PORT".to_owned());
        };
        let sent = Packet {
            protocol: self.protocol,
            from: SocketAddr::new(self.vip.address, port),
            to: SocketAddr::new(self.client.address, client_port),
            flags: tcp::flag::ACK,
            chunk: chunk::DATA,
            ttl: self.ttl,
            length: 0,
            fragment: None,
        };
        let mut quote = sent.ip()?;
        if self.vip.address.is_ipv4() {
            quote.truncate(if self.protocol == Protocol::Sctp { 40 } else { 28 });
        }
        Ok(quote)
    }

    /// As the heading of what is said about it.
    pub(super) fn words(&self) -> String {
        let name = match self.kind {
            MessageKind::FragNeeded if self.vip.address.is_ipv6() => "packet-too-big",
            MessageKind::FragNeeded => "frag-needed",
            MessageKind::TimeExceeded => "time-exceeded",
            MessageKind::PortUnreachable => "port-unreachable",
            MessageKind::HostUnreachable => "host-unreachable",
            MessageKind::Echo => "echo",
        };
        format!("icmp {name} from {} to {}, TTL {}", self.sender, self.vip.address, self.ttl)
    }

    /// Of what the program does not note.
    pub(super) fn opening(&self) -> Line {
        let (Some(client), Some(vip)) = (self.client.socket(), self.vip.socket()) else {
            return Line { step: "icmp", text: "a ping, which the director's own stack answers".to_owned() };
        };
        let protocol = self.protocol;
        let text = format!("quotes a {protocol} packet of {vip} to {client}: goes where that connection is");
        Line { step: "icmp", text }
    }
}

impl Peer {
    fn socket(self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address, self.port?))
    }
}

impl MessageKind {
    fn v4(self) -> Icmpv4Type {
        match self {
            Self::FragNeeded => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: MTU,
                })
            }
            Self::TimeExceeded => Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
            Self::PortUnreachable => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
            Self::HostUnreachable => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
            Self::Echo => Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }),
        }
    }

    fn v6(self) -> Icmpv6Type {
        use icmpv6::DestUnreachableCode::{Address, Port};
        match self {
            Self::FragNeeded => Icmpv6Type::PacketTooBig { mtu: MTU.into() },
            Self::TimeExceeded => Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
            Self::PortUnreachable => Icmpv6Type::DestinationUnreachable(Port),
            Self::HostUnreachable => Icmpv6Type::DestinationUnreachable(Address),
            Self::Echo => Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use lb_common::icmp;

    use super::*;

    fn message(kind: MessageKind, client: &str, vip: &str) -> Message {
        let [client, vip] = [client, vip].map(|text| peer(text).expect("an end"));
        Message { kind, sender: client.address, client, vip, protocol: Protocol::Tcp, ttl: 9 }
    }

    #[test]
    fn an_error_quotes_what_the_vip_sent_and_is_addressed_to_it() {
        use MessageKind::{FragNeeded, HostUnreachable, PortUnreachable, TimeExceeded};
        for (client, vip) in [("10.1.2.3:40000", "172.18.14.100:80"), ("[fd00::1]:40000", "[fd00::2]:80")] {
            for kind in [FragNeeded, TimeExceeded, PortUnreachable, HostUnreachable] {
                let asked = message(kind, client, vip);
                let packet = asked.ip().expect("a packet");
                let read = SlicedPacket::from_ip(&packet).expect("IP");
                let (kind, quote) = match read.transport.expect("ICMP") {
                    TransportSlice::Icmpv4(icmp) => {
                        let rest = icmp.payload().to_vec();
                        let sum = icmp.icmp_type().calc_checksum(&rest);
                        assert_eq!(icmp.checksum(), sum);
                        assert!(icmp::is_error(false, icmp.type_u8()));
                        (icmp.type_u8(), rest)
                    }
                    TransportSlice::Icmpv6(icmp) => {
                        assert!(icmp::is_error(true, icmp.type_u8()));
                        let Some(NetSlice::Ipv6(ip)) = &read.net else { panic!("{asked:?}") };
                        let (from, to) = (ip.header().source(), ip.header().destination());
                        assert!(icmp.is_checksum_valid(from, to));
                        (icmp.type_u8(), icmp.payload().to_vec())
                    }
                    other => panic!("{kind:?}: {other:?}"),
                };
                let (header, ports) = if asked.vip.address.is_ipv4() { (20, 28) } else { (40, 60) };
                assert_eq!(quote.len(), ports, "type {kind}");
                assert_eq!(quote[header..header + 4], [80u16.to_be_bytes(), 40000u16.to_be_bytes()].concat());
            }
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        use MessageKind::{Echo, TimeExceeded};
        for (kind, client, vip, word) in [
            (TimeExceeded, "10.1.2.3", "172.18.14.100", "CLIENT:PORT"),
            (TimeExceeded, "10.1.2.3:1", "172.18.14.100", "CLIENT:PORT"),
            (TimeExceeded, "10.1.2.3:1", "[fd00::2]:80", "families"),
            (Echo, "10.1.2.3:1", "172.18.14.100", "no ports"),
        ] {
            let error = message(kind, client, vip).ip().expect_err(client);
            assert!(error.contains(word), "{client} {vip}: {error}");
        }
        assert!(message(Echo, "10.1.2.3", "172.18.14.100").ip().is_ok());
        assert!(peer("10.1.2.3:x").is_err() && peer("nobody").is_err());
    }
}
