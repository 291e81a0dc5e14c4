//! The two flow tables as the program sees them: where a key's buckets are, and a CPU's share of the
//! sweeping.

use lb_common::{
    bucket::{Bucket, SLOTS, expire},
    flow::{NarrowBucket, NarrowKey, Secret, WideBucket, WideKey},
    tick::Tick,
    value::Value,
    verdict::Event,
};

use crate::{
    count,
    flow::{Outcome, Segment, flow_follow_narrow, flow_follow_wide},
    maps::{FLOWS4, FLOWS4_MASK, FLOWSW, FLOWSW_MASK, SECRET_A, SECRET_B, SWEEP},
    word::KernelWord,
};

#[inline(always)]
pub fn secret() -> Secret {
    Secret { a: SECRET_A.load(), b: SECRET_B.load() }
}

/// The two tables: how a key finds its buckets, and the functions that the kernel verifies once.
pub trait Table: Bucket + Sized + 'static {
    fn hash(key: &Self::Key) -> u64;
    fn mask() -> u32;
    fn bucket(index: u32) -> Option<&'static Self>;
    /// See [`crate::flow`].
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome;
    /// Frees what has expired in the next bucket of this CPU's round, counts included, so that
    /// nothing depends on the agent being alive.
    fn sweep(now: Tick);
}

impl Table for NarrowBucket<KernelWord> {
    #[inline(always)]
    fn hash(key: &NarrowKey) -> u64 {
        secret().mix(key.0)
    }

    #[inline(always)]
    fn mask() -> u32 {
        FLOWS4_MASK.load()
    }

    #[inline(always)]
    fn bucket(index: u32) -> Option<&'static Self> {
        FLOWS4.get(index)
    }

    #[inline(always)]
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome {
        Outcome(flow_follow_narrow(place, value.0, segment.0, service))
    }

    #[inline(always)]
    fn sweep(now: Tick) {
        flow_sweep_narrow(now.0);
    }
}

impl Table for WideBucket<KernelWord> {
    #[inline(always)]
    fn hash(key: &WideKey) -> u64 {
        key.fingerprint
    }

    #[inline(always)]
    fn mask() -> u32 {
        FLOWSW_MASK.load()
    }

    #[inline(always)]
    fn bucket(index: u32) -> Option<&'static Self> {
        FLOWSW.get(index)
    }

    #[inline(always)]
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome {
        Outcome(flow_follow_wide(place, value.0, segment.0, service))
    }

    #[inline(always)]
    fn sweep(now: Tick) {
        flow_sweep_wide(now.0);
    }
}

// Verified once, by themselves (see `flow`).

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_sweep_narrow(now: u32) -> u32 {
    match turn(0).and_then(|turn| FLOWS4.get(turn & FLOWS4_MASK.load())) {
        Some(bucket) => sweep_bucket(bucket, Tick(now)),
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_sweep_wide(now: u32) -> u32 {
    match turn(1).and_then(|turn| FLOWSW.get(turn & FLOWSW_MASK.load())) {
        Some(bucket) => sweep_bucket(bucket, Tick(now)),
        None => 0,
    }
}

#[inline(always)]
fn turn(table: u32) -> Option<u32> {
    let turn = SWEEP.get_ptr_mut(table)?;
    // SAFETY: this CPU's own copy.
    unsafe {
        *turn = (*turn).wrapping_add(1);
        Some(*turn)
    }
}

/// How many were freed.
#[inline(always)]
fn sweep_bucket<B: Bucket>(bucket: &B, now: Tick) -> u32 {
    let mut freed = 0;
    for slot in 0..SLOTS {
        if let Some(value) = expire(bucket, slot, now, Value::locked(now)) {
            count::event(Event::Expired);
            count::ended(value, now);
            freed += 1;
        }
    }
    freed
}
