//! Flows that outlive what they were placed by, and the ids that they hold.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    endpoint::flag,
    generation::{Header, at},
};

use crate::plan::{Census, EndpointKey, Snapshot, name_of, rotation::Words};

/// A flow, with what its ids meant when it was placed.
pub struct Flow {
    key: EndpointKey,
    endpoint: u16,
    dest: u32,
    identity: Identity,
}

/// Service id and address of a destination.
type Identity = (u16, [u8; 16]);

/// One new connection for each open endpoint that serves.
pub fn place(now: &Snapshot, position: u32) -> Vec<Flow> {
    let ranges = now.ranges.iter().map(|(range, endpoint)| {
        let holder = EndpointKey { address: range.address, port: 0, protocol: Some(range.protocol) };
        (holder, endpoint)
    });
    let open = now.endpoints.iter().filter(|(key, e)| key.protocol.is_some() && e.has(flag::OPEN));
    open.map(|(key, endpoint)| (*key, endpoint))
        .chain(ranges)
        .filter_map(|(key, endpoint)| {
            let words = now.regions.get(&endpoint.service())?;
            let header = Header::from_words([*words.first()?, *words.get(1)?]);
            let dest = at(&Words(words), 0, &header, position.checked_rem(header.period)?)?;
            let record = now.dests.get(&dest)?;
            let identity = (record.service, record.address);
            Some(Flow { key, endpoint: endpoint.id(), dest, identity })
        })
        .collect()
}

pub fn census(flows: &[Flow]) -> Census {
    Census {
        endpoints: flows.iter().map(|flow| flow.endpoint).collect(),
        dests: flows.iter().map(|flow| flow.dest).collect(),
    }
}

/// Every flow's ids mean what they meant.
pub fn check(flows: &[Flow], now: &Snapshot) {
    for flow in flows {
        let endpoint = now.endpoints.get(&flow.key).expect("a flow's endpoint, at least as a tombstone");
        assert_eq!(endpoint.id(), flow.endpoint);
        let dest = now.dests.get(&flow.dest).expect("a flow's destination");
        assert_eq!((dest.service, dest.address), flow.identity);
    }
}

/// Ids that were seen: they stay what they are until they are freed.
#[derive(Default)]
pub struct Memory {
    dests: BTreeMap<Identity, u32>,
    endpoints: BTreeMap<EndpointKey, u16>,
    services: BTreeMap<String, u16>,
}

impl Memory {
    /// Checks the ids that are known, notes new ones, and forgets freed ones.
    pub fn check(&mut self, now: &Snapshot) {
        fn same<K: Ord + Clone + std::fmt::Debug, V: Eq + Copy + std::fmt::Debug>(
            known: &mut BTreeMap<K, V>,
            now: BTreeMap<K, V>,
        ) {
            for (identity, id) in &now {
                let before = known.get(identity).unwrap_or(id);
                assert_eq!(before, id, "{identity:?} has another id than before");
            }
            *known = now;
        }
        let dests = now.dests.iter().map(|(id, d)| ((d.service, d.address), *id));
        let count = now.dests.len();
        same(&mut self.dests, dests.collect());
        assert_eq!(self.dests.len(), count, "two ids of one destination");
        let endpoints = now.endpoints.iter().filter(|(key, _)| key.protocol.is_some());
        same(&mut self.endpoints, endpoints.map(|(key, endpoint)| (*key, endpoint.id())).collect());
        let services = now.services.iter().map(|(id, record)| (name_of(&record.name), *id));
        same(&mut self.services, services.collect());
    }
}

/// Destinations, hosts and services that `reclaim` must have freed, given what is in use: none of what
/// is gone and unused is left, and nothing else went.
pub fn check_reclaimed(before: &Snapshot, after: &Snapshot, census: &Census) {
    use lb_common::dest::flag::{ORPHANED, RETIRED};
    let dests: BTreeSet<u32> = before
        .dests
        .iter()
        .filter(|(id, dest)| dest.flags & (RETIRED | ORPHANED) == 0 || census.dests.contains(id))
        .map(|(id, _)| *id)
        .collect();
    assert!(after.dests.keys().eq(&dests));
    let endpoints: BTreeSet<EndpointKey> = before
        .endpoints
        .iter()
        .filter(|(key, e)| {
            let is_kept = e.has(flag::OPEN) || e.has(flag::RANGED) || census.endpoints.contains(&e.id());
            key.protocol.is_none() || is_kept
        })
        .map(|(key, _)| *key)
        .collect();
    assert!(after.endpoints.keys().eq(&endpoints));
    let hosts: BTreeSet<u32> = dests.iter().map(|id| before.dests[id].host).collect();
    assert!(after.hosts.keys().eq(&hosts));
    let of_endpoints = endpoints.iter().filter(|key| key.protocol.is_some());
    let services: BTreeSet<u16> = of_endpoints
        .map(|key| before.endpoints[key].service())
        .chain(before.ranges.values().map(|range| range.service()))
        .chain(dests.iter().map(|id| before.dests[id].service))
        .collect();
    assert!(after.services.keys().eq(&services));
}
