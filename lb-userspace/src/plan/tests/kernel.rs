//! A simulated kernel: what `dataplane::apply` makes of each operation, on plain memory.

use std::collections::BTreeMap;

use lb_common::generation::Published;

use crate::plan::{MapSizes, Op, Snapshot};

pub struct Kernel {
    state: Snapshot,
    arena: Vec<u64>,
    /// Regions that a CPU may still read: all that were published since the last grace period.
    readable: Vec<(u32, u32)>,
}

pub const SIZES: MapSizes = MapSizes { services: 64, dests: 512, arena: 1 << 18, endpoints: 256 };

impl Kernel {
    pub fn new(limits: MapSizes) -> Self {
        let state = Snapshot { limits, ..Snapshot::default() };
        Self { state, arena: vec![0; limits.arena as usize], readable: Vec::new() }
    }

    /// As `Maps::snapshot` reads it: regions out of the arena.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.state.clone();
        let regions = snapshot.services.iter().map(|(id, service)| {
            let published = Published(service.generation);
            let words =
                published.offset() as usize..published.offset() as usize + usize::from(published.length());
            (*id, self.arena[words].to_vec())
        });
        snapshot.regions = regions.collect();
        snapshot
    }

    pub fn apply(&mut self, ops: &[Op]) {
        self.apply_each(ops, |_, _| {});
    }

    /// Applies `ops`, and calls `each` after every one.
    pub fn apply_each(&mut self, ops: &[Op], mut each: impl FnMut(&Self, &Op)) {
        self.readable = regions(&self.state).into_values().collect();
        for op in ops {
            self.apply_one(op);
            each(self, op);
        }
    }

    fn apply_one(&mut self, op: &Op) {
        let state = &mut self.state;
        match op.clone() {
            Op::SetLink { index, link } => drop(state.links.insert(index, link)),
            Op::DeleteLink { index } => drop(state.links.remove(&index).expect("a link")),
            Op::SetProbes { source, probes } => drop(state.probes.insert(source, probes)),
            Op::DeleteProbes { source } => drop(state.probes.remove(&source).expect("a source")),
            Op::AddTag(key) => assert!(state.tags.insert(key)),
            Op::DeleteTag(key) => assert!(state.tags.remove(&key)),
            Op::AddMac(key) => assert!(state.macs.insert(key)),
            Op::DeleteMac(key) => assert!(state.macs.remove(&key)),
            Op::SetHost { index, host } => drop(state.hosts.insert(index, host)),
            Op::DeleteHost { index } => drop(state.hosts.remove(&index).expect("a host")),
            Op::SetDest { id, dest, fresh } => {
                assert!(id != 0 && id < state.limits.dests);
                assert_eq!(state.dests.insert(id, dest).is_none(), fresh, "destination {id}");
            }
            Op::DeleteDest { id } => drop(state.dests.remove(&id).expect("a destination")),
            Op::SetService { id, mut service, fresh } => {
                assert!(id != 0 && u32::from(id) < state.limits.services);
                let before = state.services.get(&id);
                assert_eq!(before.is_none(), fresh, "service {id}");
                // Everything but the generation word.
                service.generation = before.map_or(0, |before| before.generation);
                state.services.insert(id, service);
                if fresh {
                    state.rotations.insert(id, 0);
                }
            }
            Op::DeleteService { id } => {
                state.services.remove(&id).expect("a service");
                state.rotations.remove(&id);
            }
            Op::WriteRegion { offset, words } => {
                let end = offset + words.len() as u32;
                for (start, length) in &self.readable {
                    assert!(end <= *start || offset >= start + length, "{offset}..{end} may still be read");
                }
                self.arena[offset as usize..end as usize].copy_from_slice(&words);
            }
            Op::Publish { service, published } => {
                state.services.get_mut(&service).expect("a service").generation = published.0;
                self.readable.push((published.offset(), u32::from(published.length())));
            }
            Op::Rotate { service, by } => {
                let position = state.rotations.get_mut(&service).expect("a rotation");
                *position = position.wrapping_add(by);
            }
            Op::SetEndpoint { key, endpoint } => drop(state.endpoints.insert(key, endpoint)),
            Op::DeleteEndpoint { key } => drop(state.endpoints.remove(&key).expect("an endpoint")),
            Op::SetRange { key, endpoint } => drop(state.ranges.insert(key, endpoint)),
            Op::DeleteRange { key } => drop(state.ranges.remove(&key).expect("a range")),
            Op::SetRule { key, rule } => drop(state.rules.insert(key, rule)),
            Op::DeleteRule { key } => drop(state.rules.remove(&key).expect("a rule")),
            Op::SetFilter { word, bits: 0 } => drop(state.filter.remove(&word)),
            Op::SetFilter { word, bits } => drop(state.filter.insert(word, bits)),
        }
    }

    /// The service opened `connections`.
    pub fn serve(&mut self, service: u16, connections: u64) {
        if let Some(position) = self.state.rotations.get_mut(&service) {
            *position = position.wrapping_add(connections);
        }
    }
}

/// Offset and length of each service's region, if it has one.
pub fn regions(snapshot: &Snapshot) -> BTreeMap<u16, (u32, u32)> {
    let published = snapshot.services.iter().map(|(id, service)| (*id, Published(service.generation)));
    published
        .filter(|(_, published)| published.length() != 0)
        .map(|(id, published)| (id, (published.offset(), u32::from(published.length()))))
        .collect()
}
