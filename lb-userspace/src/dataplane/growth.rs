//! Moving flows from tables of another size. See "Tables of another size" in ARCHITECTURE.md.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    bucket::{Bucket, SLOTS, Transfer, transfer},
    dest,
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey, candidates},
    meta::Meta,
    tick::Tick,
    value::Value,
};

use super::{mapped::Mapped, maps::Maps};

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Flows and templates that are in the new tables now.
    pub moved: u64,
    /// Slots of the old tables that are not free: for them there was no room, or they end where they are, or a
    /// packet came in between.
    pub left: u64,
}

impl Maps {
    /// One round of moving what is in the old tables. Only when every program looks into both, as from then on
    /// nothing is put into the old ones.
    pub fn move_flows(&self, meta: &Meta, now: Tick) -> Moved {
        let mut round = Moved::default();
        if let Some(old) = &self.old_narrow {
            for bucket in (0..old.entries()).filter_map(|index| old.bucket(index)) {
                self.move_bucket(bucket, meta, now, &mut round, |slot| {
                    let key = NarrowKey(bucket.tag(slot).load(Ordering::Acquire));
                    Some((
                        key,
                        pair(&self.narrow, key.hash(meta.secret()), Mapped::<NarrowBucket<_>>::bucket)?,
                    ))
                });
            }
        }
        if let Some(old) = &self.old_wide {
            for bucket in (0..old.entries()).filter_map(|index| old.bucket(index)) {
                self.move_bucket(bucket, meta, now, &mut round, |slot| {
                    let word = |i: usize| bucket.keys[slot][i].load(Ordering::Acquire);
                    let fingerprint = bucket.tag(slot).load(Ordering::Acquire);
                    let key = WideKey { words: [word(0), word(1), word(2)], fingerprint };
                    Some((key, pair(&self.wide, fingerprint, Mapped::<WideBucket<_>>::bucket)?))
                });
            }
        }
        round
    }

    /// `target`: the key in a slot, and its two buckets in the new table.
    fn move_bucket<'a, B: Bucket<Word = AtomicU64> + 'a>(
        &self,
        bucket: &B,
        meta: &Meta,
        now: Tick,
        round: &mut Moved,
        target: impl Fn(usize) -> Option<(B::Key, [&'a B; 2])>,
    ) {
        for slot in 0..SLOTS {
            let value = Value(bucket.value(slot).load(Ordering::Acquire));
            if value.is_free() {
                continue;
            }
            round.left += 1;
            if !value.is_flow() || self.ends_there(value, meta, now) {
                continue;
            }
            // A slot's key does not change as long as its flow is there: nothing is put into this table.
            let Some((key, buckets)) = target(slot) else { continue };
            match transfer(bucket, slot, value, &key, buckets, now) {
                Transfer::Moved(before) => {
                    (round.moved, round.left) = (round.moved + 1, round.left - 1);
                    self.uncount_flow(before);
                }
                Transfer::There => round.left -= 1,
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

/// The two buckets of a hash.
fn pair<'a, R, B>(
    table: &'a Mapped<R>,
    hash: u64,
    bucket: impl Fn(&'a Mapped<R>, u32) -> Option<&'a B>,
) -> Option<[&'a B; 2]> {
    let (first, second) = candidates(hash, table.entries() - 1);
    Some([bucket(table, first)?, bucket(table, second)?])
}
