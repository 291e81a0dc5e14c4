//! Where a flow goes, for what is about it and not of it: nothing changes.

use lb_common::{
    bucket::find,
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey, candidates},
    service::Rotation,
};

use crate::{clock, maps::ROTATIONS, table::Table, word::KernelWord};

/// The destination of a live flow; 0 if there is none.
#[inline(always)]
fn peek<B: Table>(key: &B::Key) -> u32 {
    let (first, second) = candidates(B::hash(key), B::mask());
    let now = clock::now();
    for index in [first, second] {
        let Some(bucket) = B::bucket(index) else { break };
        let hit = find(bucket, key);
        if !hit.is_miss() && !hit.value.expiry().is_past(now) {
            return hit.value.dest();
        }
    }
    0
}

/// Whether connections of the service may have been placed by hash, without an entry.
#[inline(always)]
pub fn may_be_hashed(service: u32) -> bool {
    ROTATIONS
        .get(service)
        .is_some_and(|rotation| Rotation::places_by_hash(rotation.hashed_until, clock::now()))
}

// Verified once, by themselves (see `flow`).

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_peek_narrow(key: u64) -> u32 {
    peek::<NarrowBucket<KernelWord>>(&NarrowKey(key))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_peek_wide(key: *const WideKey) -> u32 {
    // SAFETY: callers pass a reference; the verifier wants the check for null.
    match unsafe { key.as_ref() } {
        Some(key) => peek::<WideBucket<KernelWord>>(key),
        None => 0,
    }
}
