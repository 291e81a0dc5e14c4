//! The two flow tables as the program sees them: where a key's buckets are, and a CPU's share of the
//! sweeping. While the agent replaces a table by one of another size, there are two of it.

use lb_common::{
    bucket::{Bucket, SLOTS, expire},
    flow::{NarrowBucket, NarrowKey, Secret, WideBucket, WideKey, candidates},
    tick::Tick,
    value::Value,
    verdict::Event,
};

use crate::{
    count,
    flow::{Outcome, Segment, flow_follow_narrow, flow_follow_wide},
    maps::{
        FLOWS4, FLOWS4_MASK, FLOWS4_OLD, FLOWS4_OLD_MASK, FLOWSW, FLOWSW_MASK, FLOWSW_OLD, FLOWSW_OLD_MASK,
        MIGRATING, SECRET_A, SECRET_B, SWEEP,
    },
    word::KernelWord,
};

#[inline(always)]
pub fn secret() -> Secret {
    Secret { a: SECRET_A.load(), b: SECRET_B.load() }
}

/// Which of a table's two: the one that new flows go to, or the one before.
///
/// The agent puts a flow into the new one and only then takes it out of the old one, so who looks into the new, the
/// old and again the new one finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Side(pub u32);

impl Side {
    pub const NEW: Self = Self(0);
    /// The mark of a bucket's index. No table has so many buckets.
    pub const OLD: Self = Self(1 << 29);

    #[inline(always)]
    fn of(index: u32) -> Self {
        Self(if is_migrating() { index & Self::OLD.0 } else { 0 })
    }
}

#[inline(always)]
pub fn is_migrating() -> bool {
    MIGRATING.load() != 0
}

/// Looks where a flow or template may be, until it `is_found`.
#[inline(always)]
pub fn on_both_sides(look: impl Fn(Side) -> u64, is_found: impl Fn(u64) -> bool) -> u64 {
    let found = look(Side::NEW);
    if !is_migrating() || is_found(found) {
        return found;
    }
    let found = look(Side::OLD);
    if is_found(found) { found } else { look(Side::NEW) }
}

/// The two tables: how a key finds its buckets, and the functions that the kernel verifies once.
pub trait Table: Bucket + Sized + 'static {
    fn hash(key: &Self::Key) -> u64;
    fn mask(side: Side) -> u32;
    /// `index`: as [`Table::places`] gave it.
    fn bucket(index: u32) -> Option<&'static Self>;
    /// The two candidate buckets of a key.
    #[inline(always)]
    fn places(key: &Self::Key, side: Side) -> (u32, u32) {
        let side = Side::of(side.0);
        let (first, second) = candidates(Self::hash(key), Self::mask(side));
        (first | side.0, second | side.0)
    }
    /// See [`crate::flow`].
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome;
    /// Frees what has expired in the next bucket of this CPU's round, counts included, so that
    /// nothing depends on the agent being alive.
    fn sweep(now: Tick);
}

impl Table for NarrowBucket<KernelWord> {
    #[inline(always)]
    fn hash(key: &NarrowKey) -> u64 {
        key.hash(secret())
    }

    #[inline(always)]
    fn mask(side: Side) -> u32 {
        if side == Side::OLD { FLOWS4_OLD_MASK.load() } else { FLOWS4_MASK.load() }
    }

    #[inline(always)]
    fn bucket(index: u32) -> Option<&'static Self> {
        if Side::of(index) == Side::OLD { FLOWS4_OLD.get(index & !Side::OLD.0) } else { FLOWS4.get(index) }
    }

    #[inline(always)]
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome {
        Outcome(flow_follow_narrow(place, value.0, segment.0, service))
    }

    #[inline(always)]
    fn sweep(now: Tick) {
        sweep_next::<Self>(0, now);
    }
}

impl Table for WideBucket<KernelWord> {
    #[inline(always)]
    fn hash(key: &WideKey) -> u64 {
        key.fingerprint
    }

    #[inline(always)]
    fn mask(side: Side) -> u32 {
        if side == Side::OLD { FLOWSW_OLD_MASK.load() } else { FLOWSW_MASK.load() }
    }

    #[inline(always)]
    fn bucket(index: u32) -> Option<&'static Self> {
        if Side::of(index) == Side::OLD { FLOWSW_OLD.get(index & !Side::OLD.0) } else { FLOWSW.get(index) }
    }

    #[inline(always)]
    fn follow(place: u32, value: Value, segment: Segment, service: u32) -> Outcome {
        Outcome(flow_follow_wide(place, value.0, segment.0, service))
    }

    #[inline(always)]
    fn sweep(now: Tick) {
        sweep_next::<Self>(1, now);
    }
}

#[inline(always)]
fn sweep_next<B: Table>(table: u32, now: Tick) {
    let Some(turn) = turn(table) else { return };
    // Both sides by turns.
    let index = if is_migrating() && turn & 1 != 0 {
        turn >> 1 & B::mask(Side::OLD) | Side::OLD.0
    } else if is_migrating() {
        turn >> 1 & B::mask(Side::NEW)
    } else {
        turn & B::mask(Side::NEW)
    };
    if let Some(bucket) = B::bucket(index) {
        sweep_bucket(bucket, now);
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

#[inline(always)]
fn sweep_bucket<B: Bucket>(bucket: &B, now: Tick) {
    for slot in 0..SLOTS {
        if let Some(value) = expire(bucket, slot, now, Value::locked(now)) {
            count::event(Event::Expired);
            count::ended(value, now);
        }
    }
}
