//! For `cargo xtask bench` only: IPv4 flows in a kernel LRU map, as other XDP balancers keep them. The same words,
//! the same states, the same counts.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use lb_common::{endpoint::Endpoint, flow::NarrowKey, value::Value};

use super::{
    Outcome, Segment,
    follow::{changes, is_over, timeout},
    open::{Placed, first_value},
};
use crate::{clock, count, maps::SERVICES};

/// Rated for as many flows as the table that it is compared with.
#[btf_map]
static LRU: LruHashMap<u64, u64, { 1 << 20 }> = LruHashMap::new();

/// As [`super::follow::steady`], and for a packet that changes its flow as [`super::follow::follow`].
#[inline(always)]
pub fn find(key: NarrowKey, segment: Segment, endpoint: Endpoint) -> Outcome {
    let Some(record) = SERVICES.get(endpoint.service() as u32) else { return Outcome::MISS };
    let or_open = if segment.begins() { Outcome::TO_OPEN } else { Outcome::MISS };
    let Some(word) = LRU.get_ptr_mut(key.0) else { return or_open };
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
pub fn open(key: NarrowKey, segment: Segment, service: u32, placed: Placed) -> Outcome {
    let Some(record) = SERVICES.get(service) else { return Outcome::MISS };
    let value = first_value(placed, segment, record, clock::now());
    if LRU.insert(key.0, value.0, 0).is_err() {
        return Outcome::NO_ROOM;
    }
    count::opened(value);
    Outcome::opened(placed.dest())
}
