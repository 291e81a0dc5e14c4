//! Changes of links, addresses and neighbours, as the kernel multicasts them.

use std::{collections::VecDeque, io, net::IpAddr};

use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{Address, Error, Link, Neighbour};

/// The kernel sends no datagram longer than 32 KiB (`net/netlink/af_netlink.c`, `netlink_recvmsg`).
const DATAGRAM: usize = 64 * 1024;

/// Asked for; the kernel may give less (`net.core.rmem_max`).
const RECEIVE_BUFFER: u32 = 1 << 20;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Address(Address),
    AddressGone(Address),
    /// New, or anything about it changed: name, MAC, MTU, up or down, master, XDP program.
    Link(Link),
    /// Deleted, or moved to another network namespace.
    LinkGone {
        index: u32,
        name: String,
    },
    Neighbour(Neighbour),
    NeighbourGone {
        ifindex: u32,
        address: IpAddr,
    },
    /// Events were lost: read everything anew ([`Netlink::links`](super::Netlink::links) and so on).
    Resync,
}

/// The stream of events. What is not read piles up in the kernel's socket buffer, not here; when that is
/// full the kernel drops, and the reader gets [`Event::Resync`].
pub struct Events {
    socket: TokioSocket,
    datagram: Vec<u8>,
    decoded: VecDeque<Event>,
}

impl Events {
    /// Subscribes in the caller's network namespace, within a tokio runtime. To miss nothing, subscribe
    /// before reading the tables.
    pub fn subscribe() -> Result<Self, Error> {
        Self::subscribe_with_buffer(RECEIVE_BUFFER)
    }

    /// The same with a receive buffer of this many octets.
    pub fn subscribe_with_buffer(octets: u32) -> Result<Self, Error> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_ref().set_rx_buf_sz(octets)?;
            socket.socket_mut().bind(&SocketAddr::new(0, groups()))?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(Error::Socket)?,
            datagram: Vec::with_capacity(DATAGRAM),
            decoded: VecDeque::new(),
        })
    }

    /// The next event. Cancel-safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Ok(event);
            }
            self.datagram.clear();
            match self.socket.recv_from(&mut self.datagram).await {
                // Only the kernel (port 0) may tell us; any local process can send to our port.
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => decode(&self.datagram, &mut self.decoded),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Event::Resync),
                Err(source) => {
                    return Err(Error::Refused { action: "receive network events".into(), source });
                }
            }
        }
    }
}

fn groups() -> u32 {
    [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr]
        .into_iter()
        .fold(0, |mask, group| mask | 1 << (group as u32 - 1))
}

/// Appends the events of one datagram, which may hold several messages.
fn decode(mut datagram: &[u8], events: &mut VecDeque<Event>) {
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            // What it said is lost, so it counts as an overrun.
            tracing::warn!(octets = datagram.len(), "a network event could not be decoded");
            events.push_back(Event::Resync);
            return;
        };
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(message) => events.extend(event(&message)),
            NetlinkPayload::Overrun(_) => events.push_back(Event::Resync),
            _ => {}
        }
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Link::from_message(link).map(Event::Link),
        RouteNetlinkMessage::DelLink(link) => {
            Link::from_message(link).map(|link| Event::LinkGone { index: link.index, name: link.name })
        }
        RouteNetlinkMessage::NewAddress(address) => Address::from_message(address).map(Event::Address),
        RouteNetlinkMessage::DelAddress(address) => Address::from_message(address).map(Event::AddressGone),
        RouteNetlinkMessage::NewNeighbour(entry) => Neighbour::from_message(entry).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(entry) => Neighbour::from_message(entry)
            .map(|entry| Event::NeighbourGone { ifindex: entry.ifindex, address: entry.address }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn link_message(name: &str) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
        message.finalize();
        let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut octets);
        octets
    }

    fn names(events: &VecDeque<Event>) -> Vec<&str> {
        events
            .iter()
            .map(|event| match event {
                Event::Link(link) => link.name.as_str(),
                Event::Resync => "resync",
                _ => "?",
            })
            .collect()
    }

    #[test]
    fn several_messages_in_a_datagram() {
        let mut events = VecDeque::new();
        decode(&[link_message("eth0"), link_message("long.name")].concat(), &mut events);
        assert_eq!(names(&events), ["eth0", "long.name"]);
    }

    #[test]
    fn a_truncated_message_is_a_resync_not_a_panic() {
        let whole = link_message("eth0");
        for length in 1..whole.len() {
            let mut events = VecDeque::new();
            decode(&whole[..length], &mut events);
            assert_eq!(names(&events), ["resync"], "{length} octets");
        }
    }
}
