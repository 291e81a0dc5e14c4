//! The neighbour table: MAC addresses by ARP and ND (RTM_GETNEIGH, RTM_NEWNEIGH).
//!
//! The kernel resolves and verifies; we only ask it to. Read first: `net/core/neighbour.c` (`neigh_add`,
//! `__neigh_update`), RFC 4861 section 7.3.2 for the states.

use std::net::IpAddr;

use futures::{StreamExt, future};
use rtnetlink::{
    NeighbourAddRequest,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
};

pub use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{Error, Netlink, all, bounded, first};

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub ifindex: u32,
    pub address: IpAddr,
    /// Known while the state is a valid one (NUD_VALID), stale included.
    pub mac: Option<[u8; 6]>,
    pub state: NeighbourState,
}

/// What [`Netlink::probe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// There was no MAC: resolution has begun (or is under way), by broadcast or multicast.
    Resolving,
    /// There was a MAC: the kernel asks that MAC whether it still answers (NUD_PROBE, unicast).
    Verifying,
    /// The entry is the operator's (NUD_PERMANENT) or needs none (NUD_NOARP); left alone.
    Fixed,
}

impl Netlink {
    /// The IPv4 and IPv6 neighbours of all interfaces.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let messages = all(|| "list the neighbours".into(), self.handle.neighbours().get().execute()).await?;
        Ok(messages.iter().filter_map(Neighbour::from_message).collect())
    }

    /// One entry of the neighbour table.
    pub async fn neighbour(&self, ifindex: u32, address: IpAddr) -> Result<Option<Neighbour>, Error> {
        let mut get = NeighbourMessage::default();
        get.header.ifindex = ifindex;
        get.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        get.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(get));
        request.header.flags = NLM_F_REQUEST;

        let action = || format!("look up neighbour {address} on interface {ifindex}");
        let answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|e| Error::from_rtnetlink(action(), e))?
            .filter_map(|answer| {
                future::ready(match answer.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => Some(Ok(entry)),
                    NetlinkPayload::Error(error) => Some(Err(rtnetlink::Error::NetlinkError(error))),
                    _ => None,
                })
            });
        match first(action, answers).await {
            Ok(entry) => Ok(entry.as_ref().and_then(Neighbour::from_message)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel resolve an address, or verify the MAC that it knows; the outcome comes as an
    /// [`Event::Neighbour`](super::Event).
    ///
    /// A host whose MAC has changed without a word is noticed like this: the unicast probes to the old MAC
    /// are not answered, the entry goes to NUD_FAILED (3 probes, 1 s apart: `ucast_solicit`,
    /// `retrans_time_ms`), and the next `probe` resolves it anew. With the sysctl
    /// `net.ipv4.neigh.IF.mcast_resolicit` at 3 the kernel goes on to broadcast by itself, and the entry
    /// never fails.
    ///
    /// IPv6 solicitations leave from the interface's link-local address (`ndisc_send_ns`): without one, or
    /// while duplicate address detection checks it in the first seconds after the link came up, the
    /// entry fails although the neighbour is there.
    pub async fn probe(&self, ifindex: u32, address: IpAddr) -> Result<Probe, Error> {
        let known = self.neighbour(ifindex, address).await?;
        match known.map(|entry| entry.state) {
            Some(NeighbourState::Permanent | NeighbourState::Noarp) => return Ok(Probe::Fixed),
            Some(NeighbourState::Probe) => return Ok(Probe::Verifying),
            Some(NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay) => {
                let verify = self.handle.neighbours().add(ifindex, address).state(NeighbourState::Probe);
                match touch(ifindex, address, verify).await {
                    // The entry was collected or failed meanwhile: there is no MAC to verify.
                    Err(error) if error.errno() == Some(libc::EINVAL) => {}
                    other => return other.map(|()| Probe::Verifying),
                }
            }
            _ => {}
        }
        let resolve = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use);
        touch(ifindex, address, resolve).await.map(|()| Probe::Resolving)
    }
}

async fn touch(ifindex: u32, address: IpAddr, request: NeighbourAddRequest) -> Result<(), Error> {
    bounded(|| format!("probe neighbour {address} on interface {ifindex}"), request.replace().execute()).await
}

impl Neighbour {
    /// `None` for a bridge's forwarding entry (AF_BRIDGE), a proxy entry, or another protocol.
    pub(super) fn from_message(message: &NeighbourMessage) -> Option<Self> {
        if message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6))
                }
                NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok(),
                _ => {}
            }
        }
        Some(Self { ifindex: message.header.ifindex, address: address?, mac, state: message.header.state })
    }
}
