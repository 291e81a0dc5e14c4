//! The last step: the endpoints that lead packets to services, and the filter before them.

use std::collections::BTreeMap;

use lb_common::endpoint::{self, Endpoint, filter};

use super::{
    EndpointKey, Op,
    ids::Ids,
    snapshot::address_words,
    steps::{PlanError, Planner},
};
use crate::model::{Protocol, ServiceName};

impl Planner<'_> {
    pub(super) fn endpoints(&mut self, services: &BTreeMap<ServiceName, u16>) -> Result<(), PlanError> {
        let taken: BTreeMap<u16, ()> =
            self.now.endpoints.values().map(|endpoint| (endpoint.id(), ())).collect();
        let mut ids = Ids::new(&taken, u32::from(endpoint::RESERVED_ID));
        let mut wanted = BTreeMap::new();
        for service in &self.want.services {
            let at = service.endpoint;
            let key = EndpointKey { address: at.address, port: at.port, protocol: Some(at.protocol) };
            let id = match self.now.endpoints.get(&key) {
                Some(endpoint) => endpoint.id(),
                None => ids.give().ok_or(PlanError::Services(u32::from(endpoint::RESERVED_ID) - 1))?,
            };
            let wildcard = if at.port == 0 { endpoint::flag::WILDCARD } else { 0 };
            let persistent =
                if service.options.persistence.is_some() { endpoint::flag::PERSISTENT } else { 0 };
            let flags = endpoint::flag::OPEN | wildcard | persistent;
            wanted.insert(key, Endpoint::new(id, services[&service.name], flags));
        }
        // Deleted ones stay as tombstones until their flows are gone.
        for (key, endpoint) in self.now.endpoints.iter().filter(|(key, _)| key.protocol.is_some()) {
            wanted.entry(*key).or_insert_with(|| {
                let flags = endpoint.flags() & !endpoint::flag::OPEN;
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
        Ok(())
    }

    /// The filter has a bit for each address that any endpoint, tombstones included, stands on.
    pub(super) fn filter(&mut self) {
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        let wanted = self.want.services.iter().map(|s| (s.endpoint.address, s.endpoint.port));
        let kept = self.now.endpoints.keys().filter(|key| key.protocol.is_some());
        for (address, port) in wanted.chain(kept.map(|key| (key.address, key.port))) {
            let (word, shift) = filter::position(address_words(address));
            let bits = filter::ANY | if port == 0 { filter::WILDCARD } else { 0 };
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

/// What a fragment without ports is judged by: which protocols an address has endpoints of.
fn address_entries<'a>(keys: impl Iterator<Item = &'a EndpointKey>) -> BTreeMap<EndpointKey, Endpoint> {
    let mut flags: BTreeMap<EndpointKey, u16> = BTreeMap::new();
    for key in keys {
        let flag = match key.protocol {
            Some(Protocol::Tcp) => endpoint::flag::HAS_TCP,
            Some(Protocol::Udp) => endpoint::flag::HAS_UDP,
            None => continue,
        };
        let entry = EndpointKey { address: key.address, port: 0, protocol: None };
        *flags.entry(entry).or_default() |= flag;
    }
    flags.into_iter().map(|(key, flags)| (key, Endpoint::new(0, 0, flags))).collect()
}
