//! Where a flow goes, for what is about it and not of it: nothing changes.

use lb_common::{
    bucket::find,
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey},
    service::Rotation,
};

use crate::{
    clock,
    maps::ROTATIONS,
    table::{Side, Table, on_both_sides},
    word::KernelWord,
};

/// The destination of a live flow; 0 if there is none.
#[inline(always)]
pub fn peek<B: Table>(key: &B::Key, side: Side) -> u32 {
    let (first, second) = B::places(key, side);
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

#[inline(always)]
pub fn peek_narrow(key: NarrowKey) -> u32 {
    on_both_sides(|side| flow_peek_narrow(key.0, side.0), |dest| dest != 0) as u32
}

#[inline(always)]
pub fn peek_wide(key: &WideKey) -> u32 {
    on_both_sides(|side| flow_peek_wide(key, side.0), |dest| dest != 0) as u32
}

// Verified once, by themselves (see `flow`).

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_peek_narrow(key: u64, side: u32) -> u64 {
    peek::<NarrowBucket<KernelWord>>(&NarrowKey(key), Side(side)) as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_peek_wide(key: *const WideKey, side: u32) -> u64 {
    // SAFETY: callers pass a reference; the verifier wants the check for null.
    match unsafe { key.as_ref() } {
        Some(key) => peek::<WideBucket<KernelWord>>(key, Side(side)) as u64,
        None => 0,
    }
}
