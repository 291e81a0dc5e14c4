//! Reads the configuration maps into the planner's picture of them.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use aya::Pod;
use ipnet::IpNet;
use lb_common::{
    dest,
    endpoint::{
        Endpoint, range,
        table::{Bucket, Key},
    },
    generation::{PIECE_WORDS, Published},
    host, probe, protocol, service,
    source::{self, Rule},
};

use super::{mapped::Mapped, maps::Maps};
use crate::{
    model::Protocol,
    plan::{EndpointKey, MapSizes, RangeKey, RuleKey, Snapshot, address_from, address_of_words},
};

impl Maps {
    /// What the kernel holds now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut snapshot = self.without_rules()?;
        self.read_rules(&mut snapshot)?;
        Ok(snapshot)
    }

    /// The same without the rules about sources: they may be many, and only the planner asks for them.
    pub fn without_rules(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot {
            dests: used(&self.dests, |dest| dest.flags & dest::flag::USED != 0),
            hosts: used(&self.hosts, |host| host.flags & host::flag::USED != 0),
            services: used(&self.services, |service| service.flags & service::flag::USED != 0),
            links: used(&self.links, |link| link.ifindex != 0),
            filter: used(&self.filter, |bits| *bits != 0),
            limits: MapSizes {
                services: self.services.entries(),
                dests: self.dests.entries(),
                arena: self.arena.entries() * PIECE_WORDS,
                endpoints: self.endpoint_ids,
            },
            ..Snapshot::default()
        };
        for (id, service) in &snapshot.services {
            let published = Published(service.generation);
            snapshot.regions.insert(*id, self.region(published));
            let position = self.rotations.get(u32::from(*id)).map_or(0, |rotation| rotation.position);
            snapshot.rotations.insert(*id, position);
        }
        self.read_endpoints(&mut snapshot)?;
        for key in self.tags.keys() {
            snapshot.tags.insert(key.context("reading TAGS")?);
        }
        for key in self.macs.keys() {
            snapshot.macs.insert(key.context("reading MACS")?);
        }
        for entry in self.probes.iter() {
            let (source, probes) = entry.context("reading PROBES")?;
            let source = address_of_words(source, probes.flags & probe::flag::IPV6 != 0);
            snapshot.probes.insert(source, probes);
        }
        Ok(snapshot)
    }

    fn region(&self, published: Published) -> Vec<u64> {
        let words = published.offset()..published.offset() + u32::from(published.length());
        words.filter_map(|index| Some(self.arena_word(index)?.load(Ordering::Acquire))).collect()
    }

    fn read_endpoints(&self, snapshot: &mut Snapshot) -> Result<()> {
        let buckets = (0..self.endpoints.entries()).filter_map(|index| self.endpoints.bucket(index));
        snapshot
            .endpoints
            .extend(buckets.flat_map(Bucket::entries).map(|(key, endpoint)| (from_key(key), endpoint)));
        for entry in self.ranges4.iter() {
            let (key, endpoint) = entry.context("reading RANGES4")?;
            let data = key.data();
            let at = from_key(Key::new([data.address.into(), 0], false, data.port, data.protocol));
            snapshot
                .ranges
                .extend(range_key(at, key.prefix_len(), range::BITS4).map(|key| (key, Endpoint(endpoint))));
        }
        for entry in self.ranges6.iter() {
            let (key, endpoint) = entry.context("reading RANGES6")?;
            let data = key.data();
            let at = from_key(Key::new(data.address, true, data.port, data.protocol));
            snapshot
                .ranges
                .extend(range_key(at, key.prefix_len(), range::BITS6).map(|key| (key, Endpoint(endpoint))));
        }
        Ok(())
    }

    fn read_rules(&self, snapshot: &mut Snapshot) -> Result<()> {
        for entry in self.rules4.iter() {
            let (key, rule) = entry.context("reading RULES4")?;
            let (data, length) = (key.data(), key.prefix_len());
            let address = [u64::from(data.address), 0];
            let key = rule_key(data.service.into(), address, false, length, source::BITS4);
            snapshot.rules.extend(key.map(|key| (key, Rule(rule))));
        }
        for entry in self.rules6.iter() {
            let (key, rule) = entry.context("reading RULES6")?;
            let (data, length) = (key.data(), key.prefix_len());
            let key = rule_key(data.service, data.address, true, length, source::BITS6);
            snapshot.rules.extend(key.map(|key| (key, Rule(rule))));
        }
        Ok(())
    }
}

/// `service`: as it stands in the key. None: no agent of ours wrote it.
fn rule_key(service: u64, address: [u64; 2], is_ipv6: bool, length: u32, before: u32) -> Option<RuleKey> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&address[1].to_ne_bytes());
    let length = u8::try_from(length.checked_sub(before)?).ok()?;
    let network = IpNet::new(address_from(bytes, is_ipv6), length).ok()?;
    Some(RuleKey { service: u16::try_from(service).ok()?, network })
}

/// `before`: bits of the key before the port.
fn range_key(at: EndpointKey, length: u32, before: u32) -> Option<RangeKey> {
    let EndpointKey { address, port, protocol } = at;
    let length = u8::try_from(length.checked_sub(before)?).ok()?;
    Some(RangeKey { address, protocol: protocol?, port, length })
}

/// The entries of an array that are in use, by index.
fn used<K: Ord + TryFrom<u32>, T: Pod>(
    array: &Mapped<T>,
    is_used: impl Fn(&T) -> bool,
) -> std::collections::BTreeMap<K, T> {
    (0..array.entries())
        .filter_map(|index| {
            let value = array.get(index).filter(&is_used)?;
            Some((K::try_from(index).ok()?, value))
        })
        .collect()
}

fn protocol_of(number: u8) -> Option<Protocol> {
    match number {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        protocol::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

/// IANA number; 0 for the entry of an address.
pub(super) fn protocol_number(protocol: Option<Protocol>) -> u8 {
    match protocol {
        Some(Protocol::Tcp) => protocol::TCP,
        Some(Protocol::Udp) => protocol::UDP,
        Some(Protocol::Sctp) => protocol::SCTP,
        None => 0,
    }
}

fn from_key(key: Key) -> EndpointKey {
    EndpointKey {
        address: address_of_words(key.address, key.is_ipv6()),
        port: u16::from_be(key.port()),
        protocol: protocol_of(key.protocol()),
    }
}
