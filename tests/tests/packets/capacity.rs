//! How full the flow table may be before a new flow finds no room: the shipped bucket code under churn, without a
//! kernel.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    bucket::{Claim, candidate, claim, find, remove},
    flow::{NarrowBucket, NarrowKey, NarrowSlot, Secret, candidates},
    tcp::State,
    tick::Tick,
    value::Value,
};

const BUCKETS: u32 = 1 << 14;
const INSERTS: u64 = 1_000_000;
const NOW: Tick = Tick(1000);

/// Keeps `live` established flows in the table, each new one in place of one that ends: how many inserts found both
/// buckets full.
fn refused(live: usize) -> u64 {
    let slot = || NarrowSlot { key: AtomicU64::new(0), value: AtomicU64::new(0) };
    let bucket = |_| NarrowBucket { slots: std::array::from_fn(|_| slot()) };
    let table: Vec<NarrowBucket<AtomicU64>> = (0..BUCKETS).map(bucket).collect();
    let secret = Secret::from_random(0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f);
    let (mut flows, mut refused): (Vec<(usize, usize)>, u64) = (Vec::new(), 0);
    for number in 0..INSERTS {
        if flows.len() >= live {
            // Flows end in no order.
            let (at, slot) = flows.swap_remove(secret.mix(!number) as usize % live);
            let value = Value(table[at].slots[slot].value.load(Ordering::Relaxed));
            assert!(remove(&table[at], slot, value, Value::locked(NOW)).is_some());
        }
        let key = NarrowKey::new(0x0a00_0000 + (number >> 16) as u32, number as u16, 1);
        let value = Value::new(1, State::ESTABLISHED, 0, NOW.after(1000));
        let (first, second) = candidates(secret.mix(key.0), BUCKETS - 1);
        let (a, b) = (candidate(&table[first as usize], NOW), candidate(&table[second as usize], NOW));
        let (at, chosen) = if b.beats(&a) { (second as usize, b) } else { (first as usize, a) };
        match claim(&table[at], chosen, &key, value, NOW) {
            Claim::Stored(_) => flows.push((at, find(&table[at], &key).slot)),
            _ => refused += 1,
        }
    }
    refused
}

#[test]
fn at_the_rated_capacity_no_flow_is_refused() {
    // A flow a bucket: a quarter of the slots.
    assert_eq!(refused(BUCKETS as usize), 0);
}

#[test]
fn at_twice_the_rated_capacity_few_are() {
    let refused = refused(2 * BUCKETS as usize);
    assert!(refused < INSERTS / 200, "{refused} of {INSERTS}");
}
