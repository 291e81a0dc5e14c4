//! The flow table's buckets and the protocol by which CPUs and the agent share a slot.
//!
//! A bucket has four slots; a flow has two candidate buckets. A slot has a *tag* (for IPv4 the whole
//! key, otherwise a keyed fingerprint of the key beside it) and a *value* word, which is its lock:
//!
//! * to **own** a slot is to have changed its value from what was seen to [`Value::locked`] by
//!   compare-and-swap. Only the owner writes the tag and the key, and only the owner ends the lock,
//!   with one store of the value: a flow, or [`Value::FREE`];
//! * a **claim** owns a free, expired, closing or half-open slot, writes key and tag, then the value.
//!   What the compare-and-swap replaced is what has to be uncounted: exactly one party gets it;
//! * an **expiry** owns an expired slot, clears the tag, then frees it;
//! * a **reader** reads tag, value, tag again; a locked value or a changed tag is a miss, and the flow
//!   is placed elsewhere;
//! * everybody else changes a value by compare-and-swap from what they read, so a lock is never
//!   overwritten and an evicted flow's destination never reaches its successor.
//!
//! This relies on x86's order of loads and stores (BPF v3 has no load-acquire); the agent refuses to
//! start elsewhere. Left over: one flow in both of its buckets, if two CPUs place it in the same
//! instant; the first in lookup order wins and the other expires.

use crate::{tcp::State, tick::Tick, value::Value};

/// Slots in a bucket.
pub const SLOTS: usize = 4;

/// One shared 64-bit word: kernel memory, an atomic, or a model checker's.
pub trait Word {
    fn load(&self) -> u64;
    /// Only for the owner of a slot.
    fn store(&self, new: u64);
    /// Compare-and-swap; whether it took place.
    fn cas(&self, seen: u64, new: u64) -> bool;
}

/// What a bucket of either table offers to the code below.
pub trait Bucket {
    type Key: Copy;
    type Word: Word;
    fn tag(&self, slot: usize) -> &Self::Word;
    fn value(&self, slot: usize) -> &Self::Word;
    /// The tag of `key`; never 0.
    fn tag_of(key: &Self::Key) -> u64;
    /// Whether the slot's full key is `key`, given that the tag is.
    fn holds(&self, slot: usize, key: &Self::Key) -> bool;
    /// Writes what the tag does not say of `key`. Owner only.
    fn write_key(&self, slot: usize, key: &Self::Key);
}

/// What a reader found.
///
/// Not an `Option`: the compiler would leave its payload undefined for a miss, and the verifier
/// refuses to see an undefined register copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub slot: usize,
    /// As read; may have expired. [`Value::FREE`] for a miss.
    pub value: Value,
}

impl Hit {
    pub const MISS: Self = Self { slot: 0, value: Value::FREE };

    #[inline(always)]
    pub const fn is_miss(&self) -> bool {
        self.value.is_free()
    }
}

/// Looks `key` up in one bucket.
#[inline(always)]
pub fn find<B: Bucket>(bucket: &B, key: &B::Key) -> Hit {
    let tag = B::tag_of(key);
    let mut slot = 0;
    while slot < SLOTS {
        if bucket.tag(slot).load() == tag {
            let value = Value(bucket.value(slot).load());
            if value.is_flow() && bucket.holds(slot, key) && bucket.tag(slot).load() == tag {
                return Hit { slot, value };
            }
        }
        slot += 1;
    }
    Hit::MISS
}

/// How readily a slot is given to a new flow: expired or free, then closing, then half-open; 0 for a
/// live established flow and for a locked slot (whose expiry lies ahead).
///
/// Without branches: the verifier would follow every combination over all slots of both buckets.
#[inline(always)]
fn readiness(value: Value, now: Tick) -> u32 {
    const fn class(state: State) -> u32 {
        if state.0 == State::NONE.0 {
            3
        } else if state.is_closing() {
            2
        } else if state.is_half_open() {
            1
        } else {
            0
        }
    }
    const CLASSES: u32 = {
        let (mut word, mut state) = (0, 0);
        while (state as usize) < State::COUNT {
            word |= class(State(state)) << (2 * state);
            state += 1;
        }
        word
    };
    let expired = (value.expiry().until(now).wrapping_sub(1) as u32) >> 31;
    expired << 2 | (CLASSES >> (2 * value.state().0 as u32) & 3)
}

/// The slot of a bucket that yields first, and how readily.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// `slots that are free or expired << 8 | readiness << 4 | slot`.
    rank: u32,
}

impl Candidate {
    /// Whether this one is to be preferred to `other`: that of the emptier bucket, so that none fills
    /// up long before the others (the power of two choices), then what yields more readily.
    #[inline(always)]
    pub fn beats(&self, other: &Self) -> bool {
        self.rank >> 4 > other.rank >> 4
    }
}

/// Chooses the slot of `bucket` for a new flow.
#[inline(always)]
pub fn candidate<B: Bucket>(bucket: &B, now: Tick) -> Candidate {
    let (mut rank, mut empty, mut slot) = (0, 0, 0);
    while slot < SLOTS {
        let readiness = readiness(Value(bucket.value(slot).load()), now);
        let this = readiness << 4 | slot as u32;
        if this > rank {
            rank = this;
        }
        // Expired is 4 and more; free is 3, or 7 where its zero looks like an expiry that has passed.
        empty += (0b1111_1000 >> readiness) & 1;
        slot += 1;
    }
    Candidate { rank: empty << 8 | rank }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Stored; the value that had to go (to be uncounted if it is a flow).
    Stored(Value),
    /// Nothing in the bucket yields: it is full of live flows.
    Full,
    /// Another CPU was quicker.
    Lost,
}

/// Puts a flow into the chosen slot.
#[inline(always)]
pub fn claim<B: Bucket>(bucket: &B, candidate: Candidate, key: &B::Key, value: Value, now: Tick) -> Claim {
    if candidate.rank >> 4 == 0 {
        return Claim::Full;
    }
    let slot = candidate.rank as usize & (SLOTS - 1);
    let seen = Value(bucket.value(slot).load());
    if readiness(seen, now) == 0 || !bucket.value(slot).cas(seen.0, Value::locked(now).0) {
        return Claim::Lost;
    }
    bucket.tag(slot).store(0);
    bucket.write_key(slot, key);
    bucket.tag(slot).store(B::tag_of(key));
    bucket.value(slot).store(value.0);
    Claim::Stored(seen)
}

/// Frees the slot if its flow has expired; the value to uncount.
#[inline(always)]
pub fn expire<B: Bucket>(bucket: &B, slot: usize, now: Tick, lock: Value) -> Option<Value> {
    let seen = Value(bucket.value(slot).load());
    if !seen.is_flow() || !seen.expiry().is_past(now) {
        return None;
    }
    remove(bucket, slot, seen, lock)
}

/// Frees the slot if it still holds `seen`; the value to uncount.
#[inline(always)]
pub fn remove<B: Bucket>(bucket: &B, slot: usize, seen: Value, lock: Value) -> Option<Value> {
    if !bucket.value(slot).cas(seen.0, lock.0) {
        return None;
    }
    bucket.tag(slot).store(0);
    bucket.value(slot).store(Value::FREE.0);
    Some(seen)
}
