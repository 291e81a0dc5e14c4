//! Moving flows from tables of another size. See "Tables of another size" in ARCHITECTURE.md.

use std::{
    ops::{AddAssign, Range},
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    bucket::{Bucket, SLOTS, Transfer, transfer},
    dest,
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey, candidates},
    meta::Meta,
    tick::Tick,
    value::Value,
};

use super::{mapped::Mapped, maps::Maps};

/// Buckets that are looked at in one go, in which the agent does nothing else: some 2 ms where all are full.
const PART: u32 = 4096;

/// What was done in a part, or in a round of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Flows and templates that are in the new tables now.
    pub moved: u64,
    /// Slots of the old tables that are not free: for them there was no room, or they end where they are, or a
    /// packet came in between.
    pub left: u64,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        (self.moved, self.left) = (self.moved + more.moved, self.left + more.left);
    }
}

impl Maps {
    /// Moves what is in one part of the old tables; none if there are not so many parts. A round is all of them, from 0
    /// on. Only when every program looks into both, as from then on nothing is put into the old ones.
    pub fn move_part(&self, part: u32, meta: &Meta, now: Tick) -> Option<Moved> {
        let [narrow, wide] = [
            self.old_narrow.as_ref().map_or(0, Mapped::entries),
            self.old_wide.as_ref().map_or(0, Mapped::entries),
        ];
        let mut done = Moved::default();
        match (part, part.checked_sub(narrow.div_ceil(PART))) {
            (part, None) => self.move_narrow(buckets_of(part, narrow), meta, now, &mut done),
            (_, Some(part)) if part < wide.div_ceil(PART) => {
                self.move_wide(buckets_of(part, wide), meta, now, &mut done);
            }
            _ => return None,
        }
        Some(done)
    }

    fn move_narrow(&self, buckets: Range<u32>, meta: &Meta, now: Tick, done: &mut Moved) {
        let Some(old) = &self.old_narrow else { return };
        for bucket in buckets.filter_map(|index| old.bucket(index)) {
            self.move_bucket(bucket, meta, now, done, |slot| {
                let key = NarrowKey(bucket.tag(slot).load(Ordering::Acquire));
                Some((key, pair(&self.narrow, key.hash(meta.secret()), Mapped::<NarrowBucket<_>>::bucket)?))
            });
        }
    }

    fn move_wide(&self, buckets: Range<u32>, meta: &Meta, now: Tick, done: &mut Moved) {
        let Some(old) = &self.old_wide else { return };
        for bucket in buckets.filter_map(|index| old.bucket(index)) {
            self.move_bucket(bucket, meta, now, done, |slot| {
                let word = |i: usize| bucket.keys[slot][i].load(Ordering::Acquire);
                let fingerprint = bucket.tag(slot).load(Ordering::Acquire);
                let key = WideKey { words: [word(0), word(1), word(2)], fingerprint };
                Some((key, pair(&self.wide, fingerprint, Mapped::<WideBucket<_>>::bucket)?))
            });
        }
    }

    /// `target`: the key in a slot, and its two buckets in the new table.
    fn move_bucket<'a, B: Bucket<Word = AtomicU64> + 'a>(
        &self,
        bucket: &B,
        meta: &Meta,
        now: Tick,
        done: &mut Moved,
        target: impl Fn(usize) -> Option<(B::Key, [&'a B; 2])>,
    ) {
        for slot in 0..SLOTS {
            let value = Value(bucket.value(slot).load(Ordering::Acquire));
            if value.is_free() {
                continue;
            }
            done.left += 1;
            if !value.is_flow() || self.ends_there(value, meta, now) {
                continue;
            }
            // A slot's key does not change as long as its flow is there: nothing is put into this table.
            let Some((key, buckets)) = target(slot) else { continue };
            match transfer(bucket, slot, value, &key, buckets, now) {
                Transfer::Moved(before) => {
                    (done.moved, done.left) = (done.moved + 1, done.left - 1);
                    self.uncount_flow(before);
                }
                Transfer::There => done.left -= 1,
                Transfer::Stays(before) => self.uncount_flow(before),
            }
        }
    }

    /// Whether a packet may find it to be over, and open it anew. Such flows end within their timeout.
    fn ends_there(&self, value: Value, meta: &Meta, now: Tick) -> bool {
        let is_retired = |id| self.dests.get(id).is_some_and(|dest| dest.flags & dest::flag::RETIRED != 0);
        // In a second from now, so that it does not expire on its way.
        value.expiry().is_past(now.after(meta.tick_rate()))
            || (!value.is_template() && (value.state().is_reusable() || is_retired(value.dest())))
    }

    fn uncount_flow(&self, value: Value) {
        if value.is_flow() {
            self.uncount(value);
        }
    }
}

/// The buckets of a part, of a table that has so many.
fn buckets_of(part: u32, buckets: u32) -> Range<u32> {
    let first = part * PART;
    first..buckets.min(first + PART)
}

/// The two buckets of a hash.
fn pair<'a, R, B>(
    table: &'a Mapped<R>,
    hash: u64,
    bucket: impl Fn(&'a Mapped<R>, u32) -> Option<&'a B>,
) -> Option<[&'a B; 2]> {
    let (first, second) = candidates(hash, table.entries() - 1);
    Some([bucket(table, first)?, bucket(table, second)?])
}
