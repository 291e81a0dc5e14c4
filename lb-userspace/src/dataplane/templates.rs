//! The end of persistence templates: one that has run out is armed again as long as it controls connections.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    bucket::{Bucket, SLOTS, Word, remove},
    flow::WideBucket,
    template::{Owner, at_end, expiry, words},
    tick::Tick,
    value::Value,
};

use super::{
    flows::{BucketPlace, live},
    maps::Maps,
};

/// The templates that have run out. A round of the sweeper finds them, the next one sees on its way whether
/// they control connections, and decides at its end.
#[derive(Debug, Default)]
pub struct Templates {
    /// Of the round before: by the words of the key.
    due: BTreeMap<[u64; 3], Due>,
    /// Of this round.
    found: BTreeMap<[u64; 3], Due>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    bucket: BucketPlace,
    slot: usize,
    value: Value,
    rearm: u32,
    controls: bool,
}

impl Templates {
    /// Begins the round after `previous`.
    pub fn after(previous: &Self) -> Self {
        Self { due: previous.found.clone(), found: BTreeMap::new() }
    }

    /// Looks for templates that have run out.
    pub fn look(&mut self, maps: &Maps, place: BucketPlace, bucket: &WideBucket<AtomicU64>, now: Tick) {
        for slot in 0..SLOTS {
            let Some(value) = live(bucket, slot, now).filter(|value| value.is_template()) else { continue };
            let rearm = rearm_of(maps, value);
            if expiry(value, rearm).is_past(now) {
                let word = |i: usize| bucket.keys[slot][i].load(Ordering::Acquire);
                let due = Due { bucket: place, slot, value, rearm, controls: false };
                self.found.insert([word(0), word(1), word(2)], due);
            }
        }
    }

    /// A controlled flow is alive.
    pub fn controlled(&mut self, maps: &Maps, source: [u64; 2], endpoint: u16, value: Value) {
        if self.due.is_empty() {
            return;
        }
        let Some(dest) = maps.dests.get(value.dest()) else { return };
        let Some(service) = maps.services.get(u32::from(dest.service)) else { return };
        // Of any endpoint of the service, if its templates span them.
        let owner = Owner::new(service.flags, dest.service, endpoint);
        // A connection to another destination is of a template before this one.
        let due = self.due.get_mut(&words(source, service.mask, owner));
        if let Some(due) = due.filter(|due| due.value.dest() == value.dest()) {
            due.controls = true;
        }
    }

    /// Decides about those that were due before this round.
    pub fn settle(&mut self, maps: &Maps, now: Tick) {
        for (words, due) in std::mem::take(&mut self.due) {
            self.found.remove(&words);
            let Some(bucket) = maps.wide_bucket(due.bucket.0, due.bucket.1) else { continue };
            match at_end(due.value, due.rearm, due.controls, now) {
                // If a new connection has refreshed it meanwhile, it is no longer what was seen.
                Some(armed) => {
                    bucket.value(due.slot).cas(due.value.0, armed.0);
                }
                None => {
                    remove(bucket, due.slot, due.value, Value::locked_by_agent(now));
                }
            }
        }
    }
}

/// Ticks for which a template is armed again, by its service.
pub fn rearm_of(maps: &Maps, value: Value) -> u32 {
    service_of(maps, value).map_or(0, |service| service.rearm)
}

fn service_of(maps: &Maps, value: Value) -> Option<lb_common::service::Service> {
    let dest = maps.dests.get(value.dest())?;
    maps.services.get(u32::from(dest.service))
}
