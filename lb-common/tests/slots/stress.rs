//! Many threads on few slots of the machine's own memory, in both of a flow's buckets.

use std::sync::atomic::{AtomicU32, Ordering};

use lb_common::{
    bucket::{SLOTS, Word},
    flow::{NarrowBucket, WideBucket},
    tick::Tick,
    value::Value,
};

use crate::{
    party::{ACK, FIN, Party, RST, SYN, Way},
    table::{Client, Counts, NOW, Table, settled},
    word::Real,
};

const THREADS: u64 = 8;
const TURNS: u32 = 100_000;
const BUCKETS: usize = 3;
/// Somewhat more than there are slots, so that all kinds of entries are evicted, and half-open ones.
const CLIENTS: u64 = 20;
/// Work of one thread in a tick.
const TURNS_A_TICK: u32 = 40;

/// xorshift64* (Vigna 2016): what happens does not depend on the run, its order does.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

#[derive(Default)]
struct Did {
    found: u64,
    freed: u64,
    lost: u64,
    counts: Counts,
}

fn one_thread<B: Table>(table: &[B], clock: &AtomicU32, seed: u64) -> Did {
    let mut random = Random(seed);
    let mut did = Did::default();
    for turn in 0..TURNS {
        let clock = if turn % TURNS_A_TICK == 0 {
            clock.fetch_add(1, Ordering::Relaxed)
        } else {
            clock.load(Ordering::Relaxed)
        };
        let client = random.below(CLIENTS);
        let first = &table[client as usize % BUCKETS];
        let second = &table[(client as usize / BUCKETS) % BUCKETS];
        let mut party = Party::new(first, second, Tick(clock));
        let client = Client(client as u32 + 1);
        let slot = random.below(SLOTS as u64) as usize;
        let way = match random.below(16) {
            0 => party.sweep(first, slot),
            1 => party.agent_sweep(second, slot),
            2 => {
                let seen = Value(first.value(slot).load());
                if seen.is_flow() { party.flush(first, slot, seen) } else { Way::Freed(false) }
            }
            3..7 => party.packet(client, SYN, random.below(200) as u32),
            7..13 => party.packet(client, ACK, 0),
            13..15 => party.packet(client, FIN, 0),
            _ => party.packet(client, RST, 0),
        };
        match way {
            Way::To(dest) => {
                assert!(client.owns(dest), "{client:?} was sent to {dest:#x}");
                did.found += 1;
            }
            Way::Freed(freed) => did.freed += u64::from(freed),
            Way::Lost => did.lost += 1,
        }
        did.counts = std::mem::take(&mut did.counts).with(&party.counts);
    }
    did
}

fn stress<B: Table + Sync>() {
    let table: Vec<B> = (0..BUCKETS).map(|_| B::new([None; SLOTS])).collect();
    let clock = AtomicU32::new(NOW.0);
    let all: Vec<Did> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS)
            .map(|n| {
                let (table, clock) = (&table, &clock);
                scope.spawn(move || one_thread(table, clock, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread panicked")).collect()
    });
    let counted = all.iter().fold(Counts::default(), |sum, did| sum.with(&did.counts));
    settled(&table.iter().collect::<Vec<_>>(), &counted);
    let sum = |what: fn(&Did) -> u64| all.iter().map(what).sum::<u64>();
    let (found, freed, lost) = (sum(|d| d.found), sum(|d| d.freed), sum(|d| d.lost));
    println!("{found} packets found or opened a flow, {lost} did not, {freed} slots were freed");
    assert!(found > 0 && freed > 0 && lost > 0);
}

#[test]
fn many_threads_on_few_slots() {
    stress::<NarrowBucket<Real>>();
}

#[test]
fn many_threads_on_few_wide_slots() {
    stress::<WideBucket<Real>>();
}
