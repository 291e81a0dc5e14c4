//! What the kernel holds, as the planner needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    dest::Dest, endpoint::Endpoint, host::Host, link::Link, probe::Probes, service::Service, source::Rule,
};

use super::{RangeKey, RuleKey};
use crate::model::Protocol;

/// A picture of the configuration maps. Ids that are not in a map are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub ranges: BTreeMap<RangeKey, Endpoint>,
    pub rules: BTreeMap<RuleKey, Rule>,
    pub services: BTreeMap<u16, Service>,
    /// Words of each published generation.
    pub regions: BTreeMap<u16, Vec<u64>>,
    /// Position of each service's rotation.
    pub rotations: BTreeMap<u16, u64>,
    pub dests: BTreeMap<u32, Dest>,
    pub hosts: BTreeMap<u32, Host>,
    pub links: BTreeMap<u16, Link>,
    pub tags: BTreeSet<u64>,
    pub macs: BTreeSet<u64>,
    /// By the address that checks come from.
    pub probes: BTreeMap<IpAddr, Probes>,
    /// Words of `FILTER` that are not zero.
    pub filter: BTreeMap<u32, u64>,
    pub limits: MapSizes,
}

/// Entries of the maps that bound what can be planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSizes {
    pub services: u32,
    pub dests: u32,
    pub arena: u32,
    pub endpoints: u32,
}

/// Key of the table of endpoints. Port 0 with no protocol is the entry of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Option<Protocol>,
}

/// What is still in use, as the sweeper saw it: ids without a flow may be freed.
#[derive(Clone, Debug, Default)]
pub struct Census {
    pub endpoints: BTreeSet<u16>,
    pub dests: BTreeSet<u32>,
}

impl Census {
    /// What either of two rounds saw: an id is free only after a whole round that began when it was retired.
    pub fn union(&self, other: &Self) -> Self {
        Self { endpoints: &self.endpoints | &other.endpoints, dests: &self.dests | &other.dests }
    }
}

/// The address in the first bytes of a record's field.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// The inverse of [`address_bytes`].
pub fn address_from(bytes: [u8; 16], is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    }
}

/// The address as the program loads it from a packet.
pub fn address_words(address: IpAddr) -> [u64; 2] {
    let bytes = address_bytes(address);
    let word = |at: usize| {
        u64::from_ne_bytes([
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
            bytes[at + 4],
            bytes[at + 5],
            bytes[at + 6],
            bytes[at + 7],
        ])
    };
    [word(0), word(8)]
}

/// The inverse of [`address_words`].
pub fn address_of_words(words: [u64; 2], is_ipv6: bool) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    address_from(bytes, is_ipv6)
}

/// A zero-padded name of a record.
pub fn name_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The inverse of [`name_of`], cut to what fits with a zero behind it.
pub fn name_bytes<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = name.len().min(N - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
