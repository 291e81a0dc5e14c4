//! How full the table may be: inserts that find both buckets full of live flows, under churn.
//!
//! What to expect of an endless table whose buckets are chosen at random (mean field of `Candidate::beats`
//! with flows that end at random): 3.4e-8 at 25 % load, 5e-14 at 12.5 %, 0.23 % at 50 %, with 21 %, 8 %
//! and 34 % of the flows in their second bucket.

use std::cell::Cell;

use lb_common::{
    bucket::{Claim, SLOTS, Word, candidate, claim, find, remove},
    flow::{NarrowBucket, NarrowKey, NarrowSlot, candidates},
    tcp::State,
    tick::Tick,
    value::Value,
};

use crate::population::{NARROW, Random, secrets};

const BUCKETS: u32 = 1 << 13;
const INSERTS: u64 = 150_000;
const NOW: Tick = Tick(1000);

#[derive(Default)]
pub struct Plain(Cell<u64>);

impl Word for Plain {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn store(&self, new: u64) {
        self.0.set(new);
    }

    fn cas(&self, seen: u64, new: u64) -> bool {
        let took_place = self.0.get() == seen;
        if took_place {
            self.0.set(new);
        }
        took_place
    }
}

/// A flow that lives, and its candidate buckets.
struct Flow {
    key: NarrowKey,
    buckets: [usize; 2],
}

struct Table(Vec<NarrowBucket<Plain>>);

impl Table {
    fn new() -> Self {
        let slot = || NarrowSlot { key: Plain(Cell::new(0)), value: Plain(Cell::new(0)) };
        Self((0..BUCKETS).map(|_| NarrowBucket { slots: [(); SLOTS].map(|()| slot()) }).collect())
    }

    /// False if both buckets are full.
    fn insert(&self, flow: &Flow) -> bool {
        let value = Value::new(1, State::ESTABLISHED, 0, NOW.after(1000));
        let [first, second] = flow.buckets.map(|bucket| &self.0[bucket]);
        let (a, b) = (candidate(first, NOW), candidate(second, NOW));
        let (bucket, chosen) = if b.beats(&a) { (second, b) } else { (first, a) };
        matches!(claim(bucket, chosen, &flow.key, value, NOW), Claim::Stored(_))
    }

    fn remove(&self, flow: &Flow) {
        for bucket in flow.buckets.map(|bucket| &self.0[bucket]) {
            let hit = find(bucket, &flow.key);
            if !hit.is_miss() {
                assert!(remove(bucket, hit.slot, hit.value, Value::locked(NOW)).is_some());
                return;
            }
        }
        panic!("a live flow is not in the table");
    }
}

/// Fills the table to `percent`, then lets flows end at random and new clients come; how many of these
/// found no room.
fn without_room(percent: usize, mut flow: impl FnMut(u64) -> Flow) -> u64 {
    let (table, mut random) = (Table::new(), Random(7));
    let mut live: Vec<Flow> = Vec::new();
    let wanted = BUCKETS as usize * SLOTS * percent / 100;
    let mut full = 0;
    for n in 0..INSERTS {
        while live.len() >= wanted {
            let ended = live.swap_remove(random.below(wanted as u64) as usize);
            table.remove(&ended);
        }
        let flow = flow(n);
        if table.insert(&flow) {
            live.push(flow);
        } else {
            full += 1;
        }
    }
    full
}

fn populations(percent: usize) -> Vec<(&'static str, u64)> {
    let place = |key: NarrowKey, hash: u64| {
        let (first, second) = candidates(hash, BUCKETS - 1);
        Flow { key, buckets: [first as usize, second as usize] }
    };
    let mut random = Random(11);
    let mut found =
        vec![("random buckets", without_room(percent, |n| place(NarrowKey(n << 16 | 1), random.next())))];
    for (name, key) in NARROW {
        for secret in secrets().take(2) {
            found.push((name, without_room(percent, |n| place(key(n), secret.mix(key(n).0)))));
        }
    }
    for (name, full) in &found {
        println!("{percent} %: {full} of {INSERTS} found both buckets full: {name}");
    }
    found
}

#[test]
fn at_the_rated_capacity_there_is_always_room() {
    for (name, full) in populations(25) {
        assert_eq!(full, 0, "{name}");
    }
}

#[test]
fn at_twice_that_few_find_none() {
    for (name, full) in populations(50) {
        assert!(full * 1000 < INSERTS * 5, "{name}: {full} of {INSERTS}");
    }
}
