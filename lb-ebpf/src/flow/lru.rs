//! For `cargo xtask bench` only: flows in kernel LRU maps, as other XDP balancers keep them. The same words, the same
//! states, the same counts. Flows of any port (port 0) are found in no map: no row has them.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use lb_common::{
    endpoint::Endpoint,
    flow::{NarrowKey, WideKey},
    value::Value,
};

use super::{
    Outcome, Segment,
    follow::{changes, is_over, timeout},
    open::{Placed, first_value},
};
use crate::{clock, count, maps::SERVICES};

type Map<K> = LruHashMap<K, u64, { 1 << 20 }>;

/// Rated for as many flows as the tables that they are compared with: the loader says how many.
#[btf_map]
static LRU: Map<u64> = Map::new();

#[btf_map]
static LRU_WIDE: Map<WideKey> = Map::new();

#[inline(always)]
pub fn find(key: NarrowKey, segment: Segment, endpoint: Endpoint) -> Outcome {
    find_in(&LRU, &key.0, segment, endpoint)
}

#[inline(always)]
pub fn find_wide(key: &WideKey, segment: Segment, endpoint: Endpoint) -> Outcome {
    find_in(&LRU_WIDE, key, segment, endpoint)
}

#[inline(always)]
pub fn open(key: NarrowKey, segment: Segment, service: u32, placed: Placed) -> Outcome {
    open_in(&LRU, &key.0, segment, service, placed)
}

#[inline(always)]
pub fn open_wide(key: &WideKey, segment: Segment, service: u32, placed: Placed) -> Outcome {
    open_in(&LRU_WIDE, key, segment, service, placed)
}

/// As [`super::follow::steady`], and for a packet that changes its flow as [`super::follow::follow`].
#[inline(always)]
fn find_in<K>(map: &Map<K>, key: &K, segment: Segment, endpoint: Endpoint) -> Outcome {
    let Some(record) = SERVICES.get(endpoint.service() as u32) else { return Outcome::MISS };
    let or_open = if segment.begins() { Outcome::TO_OPEN } else { Outcome::MISS };
    let Some(word) = map.get_ptr_mut(key) else { return or_open };
    // SAFETY: an aligned word of the map's value.
    let value = Value(unsafe { word.read_volatile() });
    let now = clock::now();
    if is_over(value, segment, record, now) {
        return or_open;
    }
    let next = segment.next(value.state());
    let expiry = now.after(timeout(record, next));
    if changes(value, next, expiry) {
        // SAFETY: as above; one CPU runs the benchmark.
        unsafe { word.write_volatile(value.moved_to(next, expiry).0) };
        count::moved(value.dest(), value.state(), next);
    }
    Outcome::known(value.dest())
}

#[inline(always)]
fn open_in<K>(map: &Map<K>, key: &K, segment: Segment, service: u32, placed: Placed) -> Outcome {
    let Some(record) = SERVICES.get(service) else { return Outcome::MISS };
    let value = first_value(placed, segment, record, clock::now());
    if map.insert(key, value.0, 0).is_err() {
        return Outcome::NO_ROOM;
    }
    count::opened(value);
    Outcome::opened(placed.dest())
}
