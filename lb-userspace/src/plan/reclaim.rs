//! Freeing what is gone and no longer used.

use std::collections::BTreeSet;

use lb_common::{dest, endpoint};

use super::{Census, Op, Snapshot};

/// What can be freed: retired things that no flow refers to any more.
pub fn reclaim(now: &Snapshot, census: &Census) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut services: BTreeSet<u16> = BTreeSet::new();
    let mut hosts: BTreeSet<u32> = BTreeSet::new();
    for (key, endpoint) in &now.endpoints {
        // One that has the id of ranges is not gone, though it is not open.
        if key.protocol.is_some() && endpoint.flags() & (endpoint::flag::OPEN | endpoint::flag::RANGED) == 0 {
            if census.endpoints.contains(&endpoint.id()) {
                services.insert(endpoint.service());
            } else {
                ops.push(Op::DeleteEndpoint { key: *key });
            }
        } else {
            services.insert(endpoint.service());
        }
    }
    services.extend(now.ranges.values().map(|range| range.service()));
    for (id, dest) in &now.dests {
        let gone = dest.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
        if gone && !census.dests.contains(id) {
            ops.push(Op::DeleteDest { id: *id });
        } else {
            services.insert(dest.service);
            hosts.insert(dest.host);
        }
    }
    let unused = now.hosts.keys().filter(|index| !hosts.contains(index));
    ops.extend(unused.map(|index| Op::DeleteHost { index: *index }));
    let unused = now.services.keys().filter(|id| !services.contains(id));
    ops.extend(unused.map(|id| Op::DeleteService { id: *id }));
    ops
}
