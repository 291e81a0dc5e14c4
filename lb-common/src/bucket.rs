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
//! * a **reuse** ([`retake`]) owns the slot of a finished flow whose client comes back, makes sure that
//!   the key is still the client's, then writes the value;
//! * an **expiry** owns an expired slot, clears the tag, then frees it;
//! * a **reader** reads tag, value, key and tag again, and the value's destination again; a locked
//!   value, or a tag or destination that changed, is a miss, and the flow is placed elsewhere. (The
//!   tag alone may have been back already: when the slot went to another flow and returned, or when
//!   two wide keys have one fingerprint.);
//! * a **transfer** takes a flow from a table that is being replaced to the new one: a claim there, and only then
//!   the slot in the old one is owned and freed. A reader looks into the new table, the old one and again the new
//!   one, and so finds it at any time. Nothing is claimed or reused in an old table;
//! * everybody else changes a value by compare-and-swap from what they read, so a lock is never
//!   overwritten and an evicted flow's destination never reaches its successor.
//!
//! This relies on x86's order of loads and stores (BPF v3 has no load-acquire); the agent refuses to
//! start elsewhere. `tests/slots` tries every interleaving of these parties under that order. Left over:
//!
//! * one flow in two slots, of one bucket or of both, if two CPUs place it in the same instant; the
//!   first in lookup order wins and the other expires;
//! * a word says nothing of its key, so a compare-and-swap also succeeds if the slot went to another
//!   flow with the same word meanwhile: the same destination, state and tick. A packet then moves that
//!   flow's state and expiry instead of its own, or a flush removes that flow; where it leads does not
//!   change, and the counts add up.

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
            if value.is_flow()
                && bucket.holds(slot, key)
                && bucket.tag(slot).load() == tag
                && Value(bucket.value(slot).load()).dest() == value.dest()
            {
                return Hit { slot, value };
            }
        }
        slot += 1;
    }
    Hit::MISS
}

/// How readily a slot is given to a new flow: [`ROOM`] if it is free or has expired, 2 if closing, 1 if
/// half-open; 0 for a live established flow and for a locked slot (whose expiry lies ahead).
///
/// This and [`candidate`] without branches: the verifier would follow every combination over all slots
/// of both buckets.
#[inline(always)]
fn readiness(value: Value, now: Tick) -> u32 {
    const fn class(state: State) -> u32 {
        if state.0 == State::NONE.0 {
            ROOM
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
    let expired = value.expiry().until(now).wrapping_sub(1) >> 31;
    (expired as u32 | CLASSES >> (2 * value.state().0 as u32)) & ROOM
}

/// The greatest readiness.
const ROOM: u32 = 3;

/// The slot of a bucket that yields first, and how readily.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// `slots with room, at most 3 | readiness 2 | slot 2`.
    rank: u32,
}

impl Candidate {
    /// Whether a flow's second bucket (`self`) is to be preferred to its first.
    ///
    /// A look-up that ends in the first bucket costs one cache miss, so flows go there as long as three
    /// of its slots have room, then to where there is more. Inserts at 25 % load that find both buckets
    /// full, in a million: 260 if the first is filled up before the second is looked at, 2 if it is
    /// taken while two slots have room, 0.03 this way, at the price of a second miss for 21 % of the
    /// flows; 0.01 and 32 % if it is always the emptier one (mean field; `tests/decisions/capacity.rs`
    /// runs this code).
    #[inline(always)]
    pub fn beats(&self, first: &Self) -> bool {
        self.rank >> 2 > first.rank >> 2
    }

    #[inline(always)]
    fn readiness(self) -> u32 {
        self.rank >> 2 & 3
    }
}

/// Chooses the slot of `bucket` for a new flow.
#[inline(always)]
pub fn candidate<B: Bucket>(bucket: &B, now: Tick) -> Candidate {
    // One bit for each slot, four of each readiness.
    let (mut slots, mut slot) = (0u32, 0);
    while slot < SLOTS {
        let readiness = readiness(Value(bucket.value(slot).load()), now);
        slots |= 1 << (readiness << 2 | slot as u32);
        slot += 1;
    }
    // How many bits each nibble has; three and four are the same here.
    const ONES: u64 = 0x3332_3221_3221_2110;
    let room = (ONES >> (slots >> (ROOM << 2) << 2)) as u32 & 3;
    Candidate { rank: room << 4 | (31 - slots.leading_zeros()) & 15 }
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
    claim_as(bucket, candidate, key, value, now, Value::locked(now))
}

#[inline(always)]
fn claim_as<B: Bucket>(
    bucket: &B,
    candidate: Candidate,
    key: &B::Key,
    value: Value,
    now: Tick,
    lock: Value,
) -> Claim {
    if candidate.readiness() == 0 {
        return Claim::Full;
    }
    let slot = candidate.rank as usize & (SLOTS - 1);
    let seen = Value(bucket.value(slot).load());
    // Less ready than when it was chosen: another CPU has placed a flow there meanwhile, and a slot
    // that yields more readily may be left.
    if readiness(seen, now) < candidate.readiness() || !bucket.value(slot).cas(seen.0, lock.0) {
        return Claim::Lost;
    }
    bucket.write_key(slot, key);
    bucket.tag(slot).store(B::tag_of(key));
    bucket.value(slot).store(value.0);
    Claim::Stored(seen)
}

/// Gives the slot of a finished flow, found under `key`, to that key's new connection; whether it did.
/// What has to be uncounted then is the hit's value.
///
/// Not by a mere compare-and-swap: the slot may have gone to another flow whose word is the same
/// (destination, state and tick), and would then lead that flow to the new destination.
#[inline(always)]
pub fn retake<B: Bucket>(bucket: &B, hit: Hit, key: &B::Key, value: Value, now: Tick) -> bool {
    if !bucket.value(hit.slot).cas(hit.value.0, Value::locked(now).0) {
        return false;
    }
    let ours = bucket.tag(hit.slot).load() == B::tag_of(key) && bucket.holds(hit.slot, key);
    bucket.value(hit.slot).store(if ours { value.0 } else { hit.value.0 });
    ours
}

/// What became of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// It is in the new table; the value that had to go there (to be uncounted if it is a flow).
    Moved(Value),
    /// Its key was in the new table already: taken out of the old one, and still counted once.
    There,
    /// It stays where it is: there is no room, or a packet changed it meanwhile. What had to go as above.
    Stays(Value),
}

/// Takes the flow that was seen with `seen` in `slot` of `old` to the new table, whose buckets for `key` are
/// `first` and `second`. Nothing else is evicted. Agent only.
///
/// The caller leaves flows alone that a packet may find to be over (expired, closed, of a removed destination):
/// such a packet would open the flow anew beside the one that is moved.
pub fn transfer<B: Bucket>(
    old: &B,
    slot: usize,
    seen: Value,
    key: &B::Key,
    [first, second]: [&B; 2],
    now: Tick,
) -> Transfer {
    let lock = Value::locked_by_agent(now);
    for bucket in [first, second] {
        let hit = find(bucket, key);
        if hit.is_miss() {
            continue;
        }
        if hit.value.expiry().is_past(now) {
            // It would be found first. It goes now, and the flow next time.
            return Transfer::Stays(remove(bucket, hit.slot, hit.value, lock).unwrap_or(Value::FREE));
        }
        // Left by an agent that died between the two steps, or by a packet that came between them.
        return match remove(old, slot, seen, lock) {
            Some(_) => Transfer::There,
            None => Transfer::Stays(Value::FREE),
        };
    }
    let (a, b) = (candidate(first, now), candidate(second, now));
    let (bucket, chosen) = if b.beats(&a) { (second, b) } else { (first, a) };
    if chosen.readiness() != ROOM {
        return Transfer::Stays(Value::FREE);
    }
    let Claim::Stored(before) = claim_as(bucket, chosen, key, seen, now, lock) else {
        return Transfer::Stays(Value::FREE);
    };
    if remove(old, slot, seen, lock).is_some() {
        return Transfer::Moved(before);
    }
    // A packet has moved it on. If one has already used the new entry, the old one goes next time.
    remove(bucket, chosen.rank as usize & (SLOTS - 1), seen, lock);
    Transfer::Stays(before)
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
