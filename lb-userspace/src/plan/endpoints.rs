//! The last step: the endpoints that lead packets to services, and the filter before them.

use std::collections::BTreeMap;

use lb_common::endpoint::{self, Endpoint, filter, flag};

use super::{
    EndpointKey, Op,
    ids::Ids,
    ranges::{RangeKey, prefixes},
    snapshot::address_words,
    steps::{PlanError, Planner},
};
use crate::model::{self, Protocol, Service, ServiceName};

impl Planner<'_> {
    pub(super) fn endpoints(&mut self, services: &BTreeMap<ServiceName, u16>) -> Result<(), PlanError> {
        let taken: BTreeMap<u16, ()> =
            self.now.endpoints.values().map(|endpoint| (endpoint.id(), ())).collect();
        let end = self.now.limits.endpoints.min(u32::from(endpoint::RESERVED_ID));
        let mut ids = Ids::new(&taken, end);
        let mut id_of = |key: &EndpointKey| match self.now.endpoints.get(key) {
            Some(endpoint) => Ok(endpoint.id()),
            None => ids.give().ok_or(PlanError::Endpoints(end.saturating_sub(1))),
        };
        let mut wanted = BTreeMap::new();
        for (service, at) in all(&self.want.services).filter(|(_, at)| at.last_port.is_none()) {
            let key = key_of(at, at.port);
            wanted.insert(key, Endpoint::new(id_of(&key)?, services[&service.name], flags(service, at)));
        }
        let mut ranges = BTreeMap::new();
        for (service, at) in all(&self.want.services) {
            let Some(last) = at.last_port else { continue };
            // The port-0 endpoint has their id, whoever has port 0.
            let holder = key_of(at, 0);
            let id = match wanted.get(&holder) {
                Some(endpoint) => endpoint.id(),
                None => id_of(&holder)?,
            };
            let closed = Endpoint::new(id, services[&service.name], flag::WILDCARD);
            let endpoint = wanted.entry(holder).or_insert(closed);
            *endpoint = Endpoint::new(id, endpoint.service(), endpoint.flags() | flag::RANGED);
            let endpoint = Endpoint::new(id, services[&service.name], flags(service, at));
            for (port, length) in prefixes(at.port, last) {
                let key = RangeKey { address: at.address, protocol: at.protocol, port, length };
                ranges.insert(key, endpoint);
            }
        }
        // Deleted ones stay as tombstones until their flows are gone; of ranges, the port-0 endpoint does.
        for (key, endpoint) in self.now.endpoints.iter().filter(|(key, _)| key.protocol.is_some()) {
            wanted.entry(*key).or_insert_with(|| {
                let flags = endpoint.flags() & !(flag::OPEN | flag::RANGED);
                Endpoint::new(endpoint.id(), endpoint.service(), flags)
            });
        }
        for (key, entry) in address_entries(wanted.keys()) {
            wanted.insert(key, entry);
        }
        for (key, endpoint) in &wanted {
            if self.now.endpoints.get(key) != Some(endpoint) {
                self.ops.push(Op::SetEndpoint { key: *key, endpoint: *endpoint });
            }
        }
        let gone = self.now.endpoints.keys().filter(|key| !wanted.contains_key(key));
        self.late.extend(gone.map(|key| Op::DeleteEndpoint { key: *key }));
        self.ranges(&ranges);
        Ok(())
    }

    fn ranges(&mut self, wanted: &BTreeMap<RangeKey, Endpoint>) {
        let new = wanted.iter().filter(|(key, endpoint)| self.now.ranges.get(key) != Some(endpoint));
        self.ops.extend(new.map(|(key, endpoint)| Op::SetRange { key: *key, endpoint: *endpoint }));
        // Not late: they lead to services whose generation is taken away there.
        let gone = self.now.ranges.keys().filter(|key| !wanted.contains_key(key));
        self.ops.extend(gone.map(|key| Op::DeleteRange { key: *key }));
    }

    /// The filter has a bit for each address that any endpoint, tombstones included, stands on, or checks come from.
    pub(super) fn filter(&mut self) {
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        let wanted = all(&self.want.services).map(|(_, at)| (at.address, at.is_wide()));
        let kept = self.now.endpoints.keys().filter(|key| key.protocol.is_some());
        let kept = kept.map(|key| (key.address, key.port == 0));
        let sources = self.want.probes.iter().flat_map(|probes| &probes.sources);
        for (address, is_wide) in wanted.chain(kept).chain(sources.map(|source| (*source, false))) {
            let (word, shift) = filter::position(address_words(address));
            let bits = filter::ANY | if is_wide { filter::WILDCARD } else { 0 };
            *words.entry(word).or_default() |= bits << shift;
        }
        for (word, bits) in &words {
            if self.now.filter.get(word) != Some(bits) {
                self.ops.push(Op::SetFilter { word: *word, bits: *bits });
            }
        }
        let gone = self.now.filter.keys().filter(|word| !words.contains_key(word));
        self.late.extend(gone.map(|word| Op::SetFilter { word: *word, bits: 0 }));
    }
}

/// Every service's endpoints.
fn all(services: &[Service]) -> impl Iterator<Item = (&Service, &model::Endpoint)> {
    services.iter().flat_map(|service| service.endpoints().map(move |endpoint| (service, endpoint)))
}

fn key_of(at: &model::Endpoint, port: u16) -> EndpointKey {
    EndpointKey { address: at.address, port, protocol: Some(at.protocol) }
}

/// Of an endpoint that takes new connections.
fn flags(service: &Service, at: &model::Endpoint) -> u16 {
    let wildcard = if at.is_wide() { flag::WILDCARD } else { 0 };
    let persistent = if service.options.persistence.is_some() { flag::PERSISTENT } else { 0 };
    let ruled = if service.sources.is_empty() { 0 } else { flag::RULED };
    flag::OPEN | wildcard | persistent | ruled
}

/// What a fragment without ports is judged by: which protocols an address has endpoints of.
fn address_entries<'a>(keys: impl Iterator<Item = &'a EndpointKey>) -> BTreeMap<EndpointKey, Endpoint> {
    let mut flags: BTreeMap<EndpointKey, u16> = BTreeMap::new();
    for key in keys {
        let flag = match key.protocol {
            Some(Protocol::Tcp) => flag::HAS_TCP,
            Some(Protocol::Udp) => flag::HAS_UDP,
            Some(Protocol::Sctp) => flag::HAS_SCTP,
            None => continue,
        };
        let entry = EndpointKey { address: key.address, port: 0, protocol: None };
        *flags.entry(entry).or_default() |= flag;
    }
    flags.into_iter().map(|(key, flags)| (key, Endpoint::new(0, 0, flags))).collect()
}
