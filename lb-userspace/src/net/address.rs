//! Addresses of interfaces (RTM_GETADDR, RTM_NEWADDR, RTM_DELADDR).

use std::net::IpAddr;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
    },
};

use super::{Error, Netlink, all, bounded};

/// A lifetime without end (`INFINITY_LIFE_TIME`, `include/net/addrconf.h`).
const FOREVER: u32 = u32::MAX;

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub ifindex: u32,
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// IPv6: not usable yet, or never (duplicate address detection runs, or has failed).
    pub tentative: bool,
}

/// An address to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAddress {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix: u8,
    /// IFA_F_NOPREFIXROUTE: make no route for the prefix.
    pub no_prefix_route: bool,
    /// IFA_F_NODAD: IPv6 only, usable at once.
    pub no_dad: bool,
    /// IPv6 only: preferred lifetime 0, so that the host does not take it as the source of its own
    /// connections (RFC 6724 rule 3).
    pub deprecated: bool,
}

impl NewAddress {
    /// A VIP: /32 or /128, without duplicate address detection (another host may hold it too, as a
    /// backend on its loopback or as a director that has just failed), and never a source address by
    /// itself: a backend would answer its own VIP.
    pub fn vip(ifindex: u32, address: IpAddr) -> Self {
        Self {
            ifindex,
            address,
            prefix: host_prefix(address),
            no_prefix_route: false,
            no_dad: true,
            deprecated: true,
        }
    }
}

impl NewAddress {
    fn request(&self) -> (RouteNetlinkMessage, u16) {
        let Self { ifindex, address, prefix, no_prefix_route, no_dad, deprecated } = *self;
        let mut message = message(ifindex, address, prefix);
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Noprefixroute, no_prefix_route);
        flags.set(AddressFlags::Nodad, no_dad && address.is_ipv6());
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        if deprecated && address.is_ipv6() {
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = FOREVER;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        (RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    }
}

/// What names an address of an interface.
fn message(ifindex: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = prefix;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

/// The prefix length of a single address: 32 or 128.
pub fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Netlink {
    /// The addresses of all interfaces.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let messages = all(|| "list the addresses".into(), self.handle.address().get().execute()).await?;
        Ok(messages.iter().filter_map(Address::from_message).collect())
    }

    /// Adds an address; `false` if the interface had it with this prefix already.
    pub fn add_address(&self, new: NewAddress) -> Result<bool, Error> {
        Ok(self.add_addresses(&[new])?.contains(&true))
    }

    /// Adds addresses; for each, `false` if the interface had it with this prefix already. All are tried.
    pub fn add_addresses(&self, new: &[NewAddress]) -> Result<Vec<bool>, Error> {
        let requests: Vec<_> = new.iter().map(NewAddress::request).collect();
        let action = |at: usize| {
            let NewAddress { ifindex, address, prefix, .. } = new[at];
            format!("add {address}/{prefix} to interface {ifindex}")
        };
        let answers = self.batch.ask(&requests, action)?;
        answers.into_iter().map(|answer| absent_is(answer.map(drop), &[libc::EEXIST])).collect()
    }

    /// Deletes an address; `false` if the interface did not have it with this prefix.
    pub async fn delete_address(&self, ifindex: u32, address: IpAddr, prefix: u8) -> Result<bool, Error> {
        let message = message(ifindex, address, prefix);
        let action = || format!("delete {address}/{prefix} from interface {ifindex}");
        absent_is(bounded(action, self.handle.address().del(message).execute()).await, &[libc::EADDRNOTAVAIL])
    }
}

/// Turns the errno that says "nothing to do" into `false`.
fn absent_is(result: Result<(), Error>, errnos: &[i32]) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Address {
    /// `None` for a message without an address.
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        // IFA_LOCAL is the own address; on a point-to-point link IFA_ADDRESS is the peer's. IPv6 mostly
        // has IFA_ADDRESS only.
        let mut local = None;
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        // IFA_F_TENTATIVE is cleared and IFA_F_DADFAILED set when another host has the address.
        let tentative = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
        Some(Self {
            ifindex: message.header.index,
            address: local.or(address)?,
            prefix: message.header.prefix_len,
            tentative: message.header.flags.intersects(tentative),
        })
    }
}
