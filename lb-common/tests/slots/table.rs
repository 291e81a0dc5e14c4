//! Buckets to start from, and what has to hold of them in the end.

use std::collections::BTreeMap;

use lb_common::{
    bucket::{Bucket, SLOTS, Word},
    flow::{NarrowBucket, NarrowKey, NarrowSlot, WideBucket, WideKey},
    tcp::State,
    tick::Tick,
    value::Value,
};

use crate::word::NewWord;

pub const NOW: Tick = Tick(1000);
/// An expiry that lies behind [`NOW`].
pub const PAST: Tick = Tick(900);
pub const LATER: Tick = Tick(1500);

/// A client with one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(pub u32);

pub const A: Client = Client(1);
pub const B: Client = Client(2);
pub const C: Client = Client(3);

/// A destination of everybody's.
pub const SHARED: u32 = 0xf_ff00;

impl Client {
    /// Destinations say whose flow they are of, so that a mixed-up one is seen at once. None is that
    /// of a lock's word.
    pub const fn dest(self, n: u32) -> u32 {
        self.0 << 8 | n
    }

    pub const fn value(self, n: u32, state: State, expiry: Tick) -> Value {
        Value::new(self.dest(n), state, 0, expiry)
    }

    pub const fn owns(self, dest: u32) -> bool {
        dest >> 8 == self.0 || dest == SHARED
    }
}

/// Either table's buckets.
pub trait Table: Bucket + Sized + 'static {
    fn new(slots: [Option<(Client, Value)>; SLOTS]) -> Self;
    /// Live flows that stay what they are in all slots but the last.
    fn one_slot(client: Client, value: Value) -> Self;
    /// Live flows that stay what they are in all slots.
    fn full() -> Self;
    fn key(client: Client) -> Self::Key;
    /// Whose key stands in the slot.
    fn client(&self, slot: usize) -> Client;
}

/// The slot of [`Table::one_slot`] that parties play with.
pub const SLOT: usize = SLOTS - 1;

/// Words of the tags and values; `tag` says what a client's is.
fn slots<W: NewWord>(
    slots: [Option<(Client, Value)>; SLOTS],
    tag: impl Fn(Client) -> u64,
    word: impl Fn(usize, u64) -> W,
) -> [NarrowSlot<W>; SLOTS] {
    let mut number = 0..;
    slots.map(|slot| {
        let number = number.next().unwrap_or_default();
        let (key, value) = slot.map_or((0, Value::FREE), |(client, value)| (tag(client), value));
        NarrowSlot { key: word(number, key), value: word(number, value.0) }
    })
}

fn bystander(slot: usize) -> Option<(Client, Value)> {
    let client = Client(100 + slot as u32);
    Some((client, client.value(0, State::ESTABLISHED, LATER)))
}

fn bystanders(client: Client, value: Value) -> [Option<(Client, Value)>; SLOTS] {
    std::array::from_fn(|slot| if slot == SLOT { Some((client, value)) } else { bystander(slot) })
}

/// Only the played-with slot's words can change.
fn only_one<W: NewWord>(slot: usize, word: u64) -> W {
    if slot == SLOT { W::new(word) } else { W::constant(word) }
}

impl<W: NewWord> Table for NarrowBucket<W> {
    fn new(flows: [Option<(Client, Value)>; SLOTS]) -> Self {
        Self { slots: slots(flows, |client| Self::key(client).0, |_, word| W::new(word)) }
    }

    fn one_slot(client: Client, value: Value) -> Self {
        Self { slots: slots(bystanders(client, value), |client| Self::key(client).0, only_one) }
    }

    fn full() -> Self {
        let flows = std::array::from_fn(bystander);
        Self { slots: slots(flows, |client| Self::key(client).0, |_, word| W::constant(word)) }
    }

    fn key(client: Client) -> NarrowKey {
        NarrowKey::new(client.0, 4000, 1)
    }

    fn client(&self, slot: usize) -> Client {
        Client(NarrowKey(self.tag(slot).load()).parts().0)
    }
}

/// All clients have the same fingerprint, which a keyed hash makes all but impossible: so the full
/// key has to decide.
const FINGERPRINT: u64 = 77;

impl<W: NewWord> Table for WideBucket<W> {
    fn new(flows: [Option<(Client, Value)>; SLOTS]) -> Self {
        Self {
            slots: slots(flows, |_| FINGERPRINT, |_, word| W::new(word)),
            keys: flows.map(|flow| key(flow, W::new)),
        }
    }

    fn one_slot(client: Client, value: Value) -> Self {
        let flows = bystanders(client, value);
        Self {
            slots: slots(flows, |_| FINGERPRINT, only_one),
            keys: std::array::from_fn(|slot| key(flows[slot], |word| only_one(slot, word))),
        }
    }

    fn full() -> Self {
        let flows = std::array::from_fn(bystander);
        Self {
            slots: slots(flows, |_| FINGERPRINT, |_, word| W::constant(word)),
            keys: flows.map(|flow| key(flow, W::constant)),
        }
    }

    fn key(client: Client) -> WideKey {
        let words = [u64::from(client.0), u64::from(!client.0), 1];
        WideKey { words, fingerprint: FINGERPRINT }
    }

    fn client(&self, slot: usize) -> Client {
        let words = [0, 1, 2].map(|word| self.keys[slot][word].load());
        let client = Client(words[0] as u32);
        assert_eq!(words, Self::key(client).words, "slot {slot} has a key of two clients");
        client
    }
}

fn key<W>(flow: Option<(Client, Value)>, word: impl Fn(u64) -> W) -> [W; 4] {
    let words = flow.map_or([0; 3], |(client, _)| WideBucket::<crate::word::Real>::key(client).words);
    [word(words[0]), word(words[1]), word(words[2]), word(0)]
}

/// Connections counted, by destination and whether they are active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(u32, bool), i64>);

impl Counts {
    /// What a look at the buckets gives.
    pub fn of<B: Bucket>(buckets: &[&B]) -> Self {
        let mut counts = Self::default();
        for bucket in buckets {
            for slot in 0..SLOTS {
                let value = Value(bucket.value(slot).load());
                if value.is_flow() {
                    counts.opened(value);
                }
            }
        }
        counts
    }

    pub fn opened(&mut self, value: Value) {
        self.add(value.dest(), value.state().is_active(), 1);
    }

    pub fn ended(&mut self, value: Value) {
        self.add(value.dest(), value.state().is_active(), -1);
    }

    pub fn moved(&mut self, dest: u32, from: State, to: State) {
        self.add(dest, from.is_active(), -1);
        self.add(dest, to.is_active(), 1);
    }

    fn add(&mut self, dest: u32, active: bool, by: i64) {
        let count = self.0.entry((dest, active)).or_default();
        *count += by;
        if *count == 0 {
            self.0.remove(&(dest, active));
        }
    }

    pub fn with(mut self, other: &Self) -> Self {
        for ((dest, active), by) in &other.0 {
            self.add(*dest, *active, *by);
        }
        self
    }
}

/// What holds when everybody is done: no slot is locked, each flow stands under its own key, and the
/// counts of all parties together are what the table holds.
pub fn settled<B: Table>(buckets: &[&B], counted: &Counts) {
    assert_eq!(*counted, Counts::of(buckets), "counted, and found in the table");
    for bucket in buckets {
        for slot in 0..SLOTS {
            let value = Value(bucket.value(slot).load());
            assert!(!value.is_locked(), "slot {slot} was left locked");
            if value.is_flow() {
                let client = bucket.client(slot);
                assert!(client.owns(value.dest()), "slot {slot}: {value:?} under {client:?}");
            }
        }
    }
}
