//! The neighbour table: MAC addresses by ARP and ND (RTM_GETNEIGH, RTM_NEWNEIGH).
//!
//! The kernel resolves and verifies; we only ask it to. Read first: `net/core/neighbour.c` (`neigh_add`,
//! `__neigh_update`), RFC 4861 section 7.3.2 for the states.

use std::net::IpAddr;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
};

pub use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{Error, Netlink, all};

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

    /// Entries of the neighbour table, by interface and address, in this order; `None` where there is none.
    pub fn neighbours_of(&self, hosts: &[(u32, IpAddr)]) -> Result<Vec<Option<Neighbour>>, Error> {
        self.entries(hosts)?.into_iter().collect()
    }

    fn entries(&self, hosts: &[(u32, IpAddr)]) -> Result<Vec<Result<Option<Neighbour>, Error>>, Error> {
        let get = |(ifindex, address): &(u32, IpAddr)| {
            (RouteNetlinkMessage::GetNeighbour(entry(*ifindex, *address)), 0)
        };
        let requests: Vec<_> = hosts.iter().map(get).collect();
        let action = |at: usize| {
            let (ifindex, address) = hosts[at];
            format!("look up neighbour {address} on interface {ifindex}")
        };
        let neighbour = |answer| match answer {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(entry))) => Ok(Neighbour::from_message(&entry)),
            Ok(_) => Ok(None),
            Err(error @ Error::Refused { .. }) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(self.batch.ask(&requests, action)?.into_iter().map(neighbour).collect())
    }

    /// Makes the kernel resolve addresses, or verify the MACs that it knows; the outcomes come as
    /// [`Event::Neighbour`](super::Event). One that the kernel refuses keeps the others from nothing.
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
    pub fn probe(&self, hosts: &[(u32, IpAddr)]) -> Result<Vec<Result<Probe, Error>>, Error> {
        let known = self.entries(hosts)?;
        let is_probed = |entry: &Result<Option<Neighbour>, Error>| matches!(entry, Ok(Some(entry)) if entry.state == NeighbourState::Probe);
        // The kernel is at it.
        let probed: Vec<bool> = known.iter().map(is_probed).collect();
        let outcomes = known.into_iter().map(|entry| entry.map(|entry| begin(entry.as_ref())));
        let mut outcomes: Vec<Result<Probe, Error>> = outcomes.collect();
        for stage in [Probe::Verifying, Probe::Resolving] {
            let is_asked = |at: &usize| {
                let begun = matches!(&outcomes[*at], Ok(probe) if *probe == stage);
                begun && !(stage == Probe::Verifying && probed[*at])
            };
            let asked: Vec<usize> = (0..hosts.len()).filter(is_asked).collect();
            let requests: Vec<_> = asked.iter().map(|at| touch(hosts[*at], stage)).collect();
            let action = |at: usize| {
                let (ifindex, address) = hosts[asked[at]];
                format!("probe neighbour {address} on interface {ifindex}")
            };
            for (at, answer) in asked.iter().zip(self.batch.ask(&requests, action)?) {
                outcomes[*at] = match answer {
                    Ok(_) => Ok(stage),
                    // The entry was collected or failed meanwhile: there is no MAC to verify.
                    Err(error) if stage == Probe::Verifying && error.errno() == Some(libc::EINVAL) => {
                        Ok(Probe::Resolving)
                    }
                    Err(error) => Err(error),
                };
            }
        }
        Ok(outcomes)
    }
}

/// What to do about an entry as it is.
fn begin(entry: Option<&Neighbour>) -> Probe {
    match entry.map(|entry| entry.state) {
        Some(NeighbourState::Permanent | NeighbourState::Noarp) => Probe::Fixed,
        Some(
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe,
        ) => Probe::Verifying,
        _ => Probe::Resolving,
    }
}

/// The request that verifies or resolves.
fn touch((ifindex, address): (u32, IpAddr), stage: Probe) -> (RouteNetlinkMessage, u16) {
    let mut new = entry(ifindex, address);
    match stage {
        Probe::Verifying => new.header.state = NeighbourState::Probe,
        Probe::Resolving | Probe::Fixed => new.header.flags = NeighbourFlags::Use,
    }
    (RouteNetlinkMessage::NewNeighbour(new), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
}

fn entry(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.ifindex = ifindex;
    entry.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    entry.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
    entry
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
