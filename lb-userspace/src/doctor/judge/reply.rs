//! What came back to a probe.

use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing, though asked three times.
    Silent,
    /// The frame could not be sent.
    Unsent,
    /// SYN-ACK, with the MSS that it announces.
    Open { from: IpAddr, mss: Option<u16> },
    /// RST
    Refused { from: IpAddr },
    /// A datagram.
    Told { from: IpAddr },
    /// An echo reply.
    Echoed { from: IpAddr },
    /// ICMP time exceeded: it would have been forwarded.
    Expired { by: IpAddr },
    /// ICMP fragmentation needed or packet too big.
    TooBig { by: IpAddr, mtu: u32 },
    /// ICMP port unreachable: nobody listens on a UDP port; or a firewall's word, of whatever protocol.
    NoPort { by: IpAddr },
    /// Another kind of ICMP unreachable, as firewalls say it.
    Unreachable { by: IpAddr },
}

impl Reply {
    /// Some host took the packet and answered it from `address`.
    pub fn is_from(self, address: IpAddr) -> bool {
        self.source() == Some(address)
    }

    /// The address that a packet was answered from.
    pub fn source(self) -> Option<IpAddr> {
        match self {
            Self::Open { from, .. }
            | Self::Refused { from }
            | Self::Told { from }
            | Self::Echoed { from } => Some(from),
            _ => None,
        }
    }

    pub fn is_answer(self) -> bool {
        !matches!(self, Self::Silent | Self::Unsent)
    }

    /// What it was.
    pub fn words(self) -> String {
        match self {
            Self::Silent => "no answer".to_owned(),
            Self::Unsent => "could not be sent".to_owned(),
            Self::Open { from, .. } => format!("SYN-ACK from {from}"),
            Self::Refused { from } => format!("RST from {from}"),
            Self::Told { from } => format!("a datagram from {from}"),
            Self::Echoed { from } => format!("echo reply from {from}"),
            Self::Expired { by } => format!("ICMP time exceeded from {by}"),
            Self::TooBig { by, mtu } => format!("ICMP too big (MTU {mtu}) from {by}"),
            Self::NoPort { by } => format!("ICMP port unreachable from {by}"),
            Self::Unreachable { by } => format!("ICMP unreachable from {by}"),
        }
    }
}
