//! What is asked about, as the frame that comes in. PURE.

use lb_common::vlan::{SERVICE, Tags, VID_MASK};

use super::{Line, Message, Packet};

/// A client's packet, or what somebody says about one of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Packet(Packet),
    Message(Message),
}

impl Asked {
    /// The frame, from MAC `from` to the director's `to`.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub fn frame(&self, to: [u8; 6], from: [u8; 6], tags: Tags) -> Result<Vec<u8>, String> {
        let ip = match self {
            Self::Packet(packet) => packet.ip(),
            Self::Message(message) => message.ip(),
        }?;
        let mut frame = [to, from].concat();
        for tag in [tags.outer(), tags.inner()].into_iter().filter(|tag| *tag != 0) {
            let kind: u16 = if tag & SERVICE != 0 { 0x88a8 } else { 0x8100 };
            frame.extend(kind.to_be_bytes());
            frame.extend((tag & VID_MASK).to_be_bytes());
        }
        let is_ipv6 = ip.first().is_some_and(|first| first >> 4 == 6);
        let ether_type: u16 = if is_ipv6 { 0x86dd } else { 0x0800 };
        frame.extend(ether_type.to_be_bytes());
        frame.extend(ip);
        Ok(frame)
    }

    /// As the heading of what is said about it.
    pub fn words(&self) -> String {
        match self {
            Self::Packet(packet) => packet.words(),
            Self::Message(message) => message.words(),
        }
    }

    /// What there is to say before the program's steps.
    pub(super) fn opening(&self) -> Option<Line> {
        match self {
            Self::Packet(packet) => packet.opening(),
            Self::Message(message) => Some(message.opening()),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{sctp::chunk, tcp, vlan::tag};

    use super::*;
    use crate::model::Protocol;

    #[test]
    fn a_frame_has_its_addresses_and_tags() {
        let (to, from) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let tags = Tags::new(tag(true, 10), tag(false, 20));
        for (client, vip, ether_type) in
            [("10.1.2.3:1", "172.18.14.100:80", [8, 0]), ("[fd00::1]:1", "[fd00::2]:80", [0x86, 0xdd])]
        {
            let [client, vip] = [client, vip].map(|text| text.parse().expect("address and port"));
            let packet = Packet {
                protocol: Protocol::Tcp,
                from: client,
                to: vip,
                flags: tcp::flag::SYN,
                chunk: chunk::INIT,
                ttl: 7,
                length: 0,
                fragment: None,
            };
            let frame = Asked::Packet(packet).frame(to, from, tags).expect("one family");
            let tagged = [&to[..], &from, &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 20], &ether_type].concat();
            assert_eq!(frame[..22], tagged);
        }
    }
}
