//! Walking the flow tables through their mappings: listing, flushing, and the sweeper.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use lb_common::{
    bucket::{Bucket, SLOTS, Word, expire, remove},
    counters::{ConnCounts, is_overloaded},
    dest::{self, Dest},
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey},
    service,
    tcp::State,
    template,
    tick::Tick,
    value::{Value, flag},
};

use super::{
    mapped::Mapped,
    maps::Maps,
    seen::Seen,
    templates::{Templates, rearm_of},
};
use crate::{plan::Census, pressure::gives_way};

/// Which word of [`ConnCounts`] counts the handshakes that ran out.
const INCOMPLETE: usize = std::mem::offset_of!(ConnCounts, incomplete) / size_of::<u64>();

/// One live entry of either table.
#[derive(Clone, Copy, Debug)]
pub struct FlowEntry {
    /// Bytes of the client's address, IPv4 in the first four.
    pub client: [u8; 16],
    pub client_port: u16,
    /// What was connected to; 0 where the endpoint says it.
    pub port: u16,
    /// None: a persistence template of its whole service.
    pub endpoint: Option<u16>,
    /// A persistence template has its own life in it: see [`lb_common::template`].
    pub value: Value,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    wide: bool,
    /// In the table before: see `growth.rs`.
    old: bool,
    bucket: u32,
    slot: usize,
}

/// What a round of the sweeper found.
#[derive(Debug, Default)]
pub struct Sweep {
    pub census: Census,
    /// Entries freed because they had expired, or were those of a destination that is gone.
    pub expired: u64,
    pub narrow_live: u64,
    pub wide_live: u64,
    pub narrow: Pruning,
    pub wide: Pruning,
    /// Live connections by destination: active, inactive.
    counts: BTreeMap<u32, (u64, u64)>,
    /// Handshakes under way by destination, where there are any.
    pub half_open: BTreeMap<u32, u64>,
    /// Differences to the kernel's counts that the next round must confirm.
    drift: BTreeMap<u32, (i64, i64)>,
    templates: Templates,
    /// Removed destinations whose flows are not kept for their return, TCP's and UDP's.
    ended: [BTreeSet<u32>; 2],
    /// While the round goes on.
    seen: Seen,
}

impl Sweep {
    /// From the beginning of a round that took so much CPU time to that of the next one: a second, or as long as makes the
    /// rounds a twelfth of a CPU's. Not by the clock on the wall: a round that had to wait for a CPU would put off the next.
    /// What has expired meanwhile is free to new flows anyway.
    pub fn period(took: Duration) -> Duration {
        (took * 12).max(Duration::from_secs(1))
    }

    /// Another round follows in tables of other sizes: places in them are none any more.
    pub fn forget_places(&mut self) {
        self.templates = Templates::default();
    }
}

/// What of one table gives way early: see [`crate::pressure`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Pruning {
    /// For the next round: ticks for which what is unfinished must be idle. None: nothing gives way.
    pub idle: Option<u32>,
    /// Entries that gave way in this round.
    pub pruned: u64,
}

/// Where a bucket is: whether in the table before, and its index.
pub(super) type BucketPlace = (bool, u32);

impl Maps {
    /// Every bucket of the narrow table, and of the one before while there is one. The agent
    /// moves flows between rounds, so each is seen once.
    fn narrow_places(&self) -> impl Iterator<Item = BucketPlace> + use<> {
        places(self.old_narrow.as_ref().map_or(0, Mapped::entries), self.narrow.entries())
    }

    fn wide_places(&self) -> impl Iterator<Item = BucketPlace> + use<> {
        places(self.old_wide.as_ref().map_or(0, Mapped::entries), self.wide.entries())
    }

    fn narrow_bucket(&self, old: bool, index: u32) -> Option<&NarrowBucket<AtomicU64>> {
        if old { self.old_narrow.as_ref()?.bucket(index) } else { self.narrow.bucket(index) }
    }

    pub(super) fn wide_bucket(&self, old: bool, index: u32) -> Option<&WideBucket<AtomicU64>> {
        if old { self.old_wide.as_ref()?.bucket(index) } else { self.wide.bucket(index) }
    }

    /// Every live flow.
    pub fn flows(&self, now: Tick, mut each: impl FnMut(FlowEntry)) {
        for (old, bucket) in self.narrow_places() {
            let Some(slots) = self.narrow_bucket(old, bucket) else { continue };
            for slot in 0..SLOTS {
                let (Some(value), tag) = (live(slots, slot, now), slots.tag(slot).load(Ordering::Acquire))
                else {
                    continue;
                };
                let (source, port, endpoint) = NarrowKey(tag).parts();
                let mut client = [0; 16];
                client[..4].copy_from_slice(&source.to_ne_bytes());
                let place = Place { wide: false, old, bucket, slot };
                let client_port = u16::from_be(port);
                each(FlowEntry { client, client_port, port: 0, endpoint: Some(endpoint), value, place });
            }
        }
        for (old, bucket) in self.wide_places() {
            let Some(slots) = self.wide_bucket(old, bucket) else { continue };
            for slot in 0..SLOTS {
                let Some(value) = live(slots, slot, now) else { continue };
                let word = |i: usize| slots.keys[slot][i].load(Ordering::Acquire);
                let words = [word(0), word(1), word(2)];
                let (client_port, port, endpoint) = WideKey::ports(&words);
                let mut client = [0; 16];
                client[..8].copy_from_slice(&words[0].to_ne_bytes());
                client[8..].copy_from_slice(&words[1].to_ne_bytes());
                let place = Place { wide: true, old, bucket, slot };
                let (client_port, port) = (u16::from_be(client_port), u16::from_be(port));
                let endpoint =
                    if value.is_template() { template::Owner::endpoint(words[2]) } else { Some(endpoint) };
                each(FlowEntry { client, client_port, port, endpoint, value, place });
            }
        }
    }

    /// When an entry ends: a template before its slot.
    pub fn expiry(&self, value: Value) -> Tick {
        if value.is_template() { template::expiry(value, rearm_of(self, value)) } else { value.expiry() }
    }

    /// Removes a listed flow, if it has not changed since. Whether it did.
    pub fn flush(&self, entry: &FlowEntry, now: Tick) -> bool {
        let lock = Value::locked_by_agent(now);
        let Place { wide, old, bucket, slot } = entry.place;
        let removed = if wide {
            self.wide_bucket(old, bucket).and_then(|b| remove(b, slot, entry.value, lock))
        } else {
            self.narrow_bucket(old, bucket).and_then(|b| remove(b, slot, entry.value, lock))
        };
        if let Some(value) = removed {
            self.uncount(value);
        }
        removed.is_some()
    }

    /// One round over both tables: frees what has expired, counts what lives, and heals the kernel's
    /// counts where two rounds saw the same difference.
    pub fn sweep(&self, now: Tick, previous: &Sweep) -> Sweep {
        let templates = Templates::after(&previous.templates);
        let (ended, seen) = (self.ended(), Seen::new(self.dests.entries()));
        let mut sweep = Sweep { templates, ended, seen, ..Sweep::default() };
        for (old, index) in self.narrow_places() {
            if let Some(bucket) = self.narrow_bucket(old, index) {
                let (live, pruned) =
                    self.sweep_bucket(bucket, now, previous.narrow.idle, &mut sweep, |slot| {
                        let (source, _, endpoint) =
                            NarrowKey(bucket.tag(slot).load(Ordering::Acquire)).parts();
                        ([u64::from(source), 0], u64::from(endpoint))
                    });
                sweep.narrow_live += live;
                sweep.narrow.pruned += pruned;
            }
        }
        for (old, index) in self.wide_places() {
            if let Some(bucket) = self.wide_bucket(old, index) {
                let (live, pruned) = self.sweep_bucket(bucket, now, previous.wide.idle, &mut sweep, |slot| {
                    let word = |i: usize| bucket.keys[slot][i].load(Ordering::Acquire);
                    ([word(0), word(1)], word(2))
                });
                sweep.wide_live += live;
                sweep.wide.pruned += pruned;
                sweep.templates.look(self, (old, index), bucket, now);
            }
        }
        let seen = std::mem::take(&mut sweep.seen);
        (sweep.census, sweep.counts) = (seen.census(), seen.counts());
        sweep.half_open = seen.half_open();
        sweep.templates.settle(self, now);
        self.heal(&mut sweep, previous);
        sweep
    }

    /// Of services that reschedule the flows of removed destinations end at once, with the templates that lead there
    /// (`ip_vs_expire_nodest_conn_flush`).
    fn ended(&self) -> [BTreeSet<u32>; 2] {
        use service::flag::{RESCHEDULE, RESCHEDULE_UDP, RESET_NODEST};
        let dests = (1..self.dests.entries()).filter_map(|id| Some((id, self.dests.get(id)?)));
        let retired = dests.filter(|(_, dest)| dest.flags & dest::flag::RETIRED != 0);
        let mut ended = [BTreeSet::new(), BTreeSet::new()];
        for (id, dest) in retired {
            let flags = self.services.get(u32::from(dest.service)).map_or(0, |record| record.flags);
            // Where the rest is answered with a reset, the entry says that it is a removed backend's.
            if flags & (RESCHEDULE | RESET_NODEST) == RESCHEDULE {
                ended[0].insert(id);
            }
            if flags & RESCHEDULE_UDP != 0 {
                ended[1].insert(id);
            }
        }
        ended
    }

    /// How many live, and how many have given way.
    fn sweep_bucket<B: Bucket<Word = AtomicU64>>(
        &self,
        bucket: &B,
        now: Tick,
        idle: Option<u32>,
        sweep: &mut Sweep,
        key: impl Fn(usize) -> ([u64; 2], u64),
    ) -> (u64, u64) {
        let (mut found, mut pruned) = (0, 0);
        for slot in 0..SLOTS {
            if Value(Word::load(bucket.value(slot))).is_free() {
                continue;
            }
            if let Some(value) = expire(bucket, slot, now, Value::locked_by_agent(now)) {
                self.uncount(value);
                self.judge(value);
                sweep.expired += 1;
            } else if let Some(value) = live(bucket, slot, now) {
                let is_udp = value.state() == State::UDP;
                if sweep.ended[usize::from(is_udp)].contains(&value.dest())
                    && remove(bucket, slot, value, Value::locked_by_agent(now)).is_some()
                {
                    self.uncount(value);
                    sweep.expired += 1;
                    continue;
                }
                if idle.is_some_and(|idle| self.gives_way(value, idle, now))
                    && remove(bucket, slot, value, Value::locked_by_agent(now)).is_some()
                {
                    self.uncount(value);
                    pruned += 1;
                    continue;
                }
                found += 1;
                let (source, last) = key(slot);
                if value.is_template() {
                    sweep.seen.entry(template::Owner::endpoint(last), value.dest());
                    continue;
                }
                let (_, _, endpoint) = WideKey::ports(&[0, 0, last]);
                sweep.seen.entry(Some(endpoint), value.dest());
                if value.flags() & flag::CONTROLLED != 0 {
                    sweep.templates.controlled(self, source, endpoint, value);
                }
                sweep.seen.connection(value);
            }
        }
        (found, pruned)
    }

    fn gives_way(&self, value: Value, idle: u32, now: Tick) -> bool {
        let record = self.dests.get(value.dest()).and_then(|dest| self.services.get(dest.service.into()));
        let Some(record) = record else { return false };
        let timeout = if !value.is_template() {
            record.timeouts[usize::from(value.state().0)]
        } else if record.flags & service::flag::ASSURES != 0 {
            // As it stands in the slot.
            record.persistence + record.rearm
        } else {
            return false;
        };
        gives_way(value, timeout, idle, now)
    }

    /// Counts heal by adding a difference, never by storing an absolute. Of every destination: one without connections that
    /// counts some, too, which an agent has left that died before it counted one out, would otherwise keep them for ever.
    fn heal(&self, sweep: &mut Sweep, previous: &Sweep) {
        for id in 1..self.conns.entries() {
            let Some(kernel) = self.conns.get(id) else { continue };
            let (active, inactive) = sweep.counts.get(&id).copied().unwrap_or_default();
            let drift =
                (active.wrapping_sub(kernel.active) as i64, inactive.wrapping_sub(kernel.inactive) as i64);
            if drift == (0, 0) {
                continue;
            }
            if previous.drift.get(&id) == Some(&drift) {
                if let Some(words) = self.conns.words(id) {
                    words[0].fetch_add(drift.0 as u64, Ordering::AcqRel);
                    words[1].fetch_add(drift.1 as u64, Ordering::AcqRel);
                    if let Some(dest) = self.dests.get(id) {
                        self.mark_overload(id, &dest);
                    }
                    tracing::debug!(destination = id, ?drift, "healed connection counts");
                }
            } else {
                sweep.drift.insert(id, drift);
            }
        }
    }

    pub(super) fn uncount(&self, value: Value) {
        if value.is_template() {
            return;
        }
        let Some(words) = self.conns.words(value.dest()) else { return };
        let word = if value.state().is_active() { &words[0] } else { &words[1] };
        word.fetch_sub(1, Ordering::AcqRel);
        if let Some(dest) = self.dests.get(value.dest()).filter(|dest| dest.upper != 0) {
            self.mark_overload(value.dest(), &dest);
        }
    }

    /// A flow's time was up: was its handshake ever completed?
    fn judge(&self, value: Value) {
        if !value.is_incomplete() {
            return;
        }
        if let Some(words) = self.conns.words(value.dest()) {
            words[INCOMPLETE].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Sets or takes away the overload mark of a destination by its thresholds and its connections.
    pub(super) fn mark_overload(&self, id: u32, dest: &Dest) {
        let Some(words) = self.conns.words(id) else { return };
        let total = words[0].load(Ordering::Acquire).wrapping_add(words[1].load(Ordering::Acquire));
        let was = words[2].load(Ordering::Acquire) != 0;
        let is = is_overloaded(total, dest.upper, dest.lower, was);
        if is != was {
            words[2].store(u64::from(is), Ordering::Release);
        }
    }

    /// Frees the slots that an agent was freeing when it died. Only under the instance's lock.
    pub(super) fn free_abandoned_slots(&self) {
        let free = |value: &AtomicU64, tag: &AtomicU64| {
            if Value(value.load(Ordering::Acquire)).is_locked_by_agent() {
                tag.store(0, Ordering::Release);
                value.store(Value::FREE.0, Ordering::Release);
            }
        };
        for (old, index) in self.narrow_places() {
            if let Some(bucket) = self.narrow_bucket(old, index) {
                (0..SLOTS).for_each(|slot| free(bucket.value(slot), bucket.tag(slot)));
            }
        }
        for (old, index) in self.wide_places() {
            if let Some(bucket) = self.wide_bucket(old, index) {
                (0..SLOTS).for_each(|slot| free(bucket.value(slot), bucket.tag(slot)));
            }
        }
    }
}

fn places(old: u32, new: u32) -> impl Iterator<Item = BucketPlace> {
    (0..old).map(|index| (true, index)).chain((0..new).map(|index| (false, index)))
}

pub(super) fn live<B: Bucket>(bucket: &B, slot: usize, now: Tick) -> Option<Value> {
    let value = Value(bucket.value(slot).load());
    (value.is_flow() && !value.expiry().is_past(now)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_second_apart_or_a_twelfth_of_the_time() {
        let period = |ms| Sweep::period(Duration::from_millis(ms)).as_millis();
        assert_eq!([0, 20, 83, 84, 250].map(period), [1000, 1000, 1000, 1008, 3000]);
    }
}
