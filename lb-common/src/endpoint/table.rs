//! The table of endpoints: an array that one writer, the agent, keeps, and that a packet's first look-up reads by
//! itself. A hash map of the kernel would cost a call of a helper, which is a third of what a known flow costs
//! altogether, and more for the long key of IPv6.
//!
//! A key has two candidate buckets of four slots. What is put in goes into the emptier one, the first if they are
//! equal, and stays there: nothing moves. With two buckets for each entry that there may be, a bucket has half a key at
//! most on average, and the fullest ones three (`tests/decisions/endpoints.rs`).
//!
//! * A **reader** compares a slot's key, `what` first, and then reads its endpoint, one word.
//! * The **writer** fills a free slot from its end, `what` last; sets another endpoint by storing that word; and
//!   frees a slot by storing 0 to `what`. It fills a slot that it has freed only after a grace period, when no CPU
//!   reads any more what it found before. So nobody sees half a key, or the endpoint of another one.

use super::Endpoint;
use crate::bucket::Word;

/// Slots in a bucket: 128 bytes, of which the first 64 mostly have it.
pub const SLOTS: usize = 4;
/// Buckets for each entry that there may be.
pub const BUCKETS_PER_ENTRY: u32 = 2;

/// Address, port and protocol as they stand in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `1 32 | is IPv6 8 | protocol 8 | port 16`: never 0.
    pub what: u64,
    /// Words of the address as loaded; an IPv4 address is `[address, 0]`.
    pub address: [u64; 2],
}

#[repr(C)]
#[derive(Debug)]
struct Slot<W> {
    /// [`Key::what`]; 0: free.
    what: W,
    address: [W; 2],
    endpoint: W,
}

#[repr(C)]
#[derive(Debug)]
pub struct Bucket<W> {
    slots: [Slot<W>; SLOTS],
}

const _: () = assert!(size_of::<Bucket<u64>>() == 128);

/// There is no room for a key: both of its buckets are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Key {
    /// `port`: in network order, as loaded.
    #[inline(always)]
    pub const fn new(address: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> Self {
        let what = 1 << 32 | (is_ipv6 as u64) << 24 | (protocol as u64) << 16 | port as u64;
        Self { what, address }
    }

    #[inline(always)]
    pub const fn is_ipv6(self) -> bool {
        self.what >> 24 & 1 != 0
    }

    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.what >> 16) as u8
    }

    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.what as u16
    }

    /// All of it in the low half of a word.
    #[inline(always)]
    const fn folded(self) -> u64 {
        let word =
            self.address[0] ^ self.address[1].rotate_left(31) ^ self.what.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word ^ word >> 32
    }

    /// Index of the first candidate bucket.
    #[inline(always)]
    pub const fn first(self, mask: u32) -> u32 {
        (self.folded().wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40) as u32 & mask
    }

    /// Of the second, which may be the same.
    #[inline(always)]
    pub const fn second(self, mask: u32) -> u32 {
        (self.folded().wrapping_mul(0xff51_afd7_ed55_8ccd) >> 40) as u32 & mask
    }
}

/// Buckets of a table that has room for so many entries: a power of two.
pub const fn buckets(entries: u32) -> u32 {
    (entries * BUCKETS_PER_ENTRY).next_power_of_two()
}

impl<W> Bucket<W> {
    /// Of words that are 0.
    pub fn free(mut word: impl FnMut() -> W) -> Self {
        let slots = core::array::from_fn(|_| Slot {
            what: word(),
            address: core::array::from_fn(|_| word()),
            endpoint: word(),
        });
        Self { slots }
    }
}

impl<W: Word> Bucket<W> {
    /// The key's endpoint, or 0.
    #[inline(always)]
    pub fn find(&self, key: Key) -> Endpoint {
        for slot in &self.slots {
            if slot.holds(key) {
                return Endpoint(slot.endpoint.load());
            }
        }
        Endpoint(0)
    }

    /// What is in it.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Endpoint)> + '_ {
        self.slots.iter().filter(|slot| !slot.is_free()).map(|slot| {
            let address = [slot.address[0].load(), slot.address[1].load()];
            (Key { what: slot.what.load(), address }, Endpoint(slot.endpoint.load()))
        })
    }

    fn slot(&self, key: Key) -> Option<&Slot<W>> {
        self.slots.iter().find(|slot| slot.holds(key))
    }

    fn room(&self) -> impl Iterator<Item = &Slot<W>> {
        self.slots.iter().filter(|slot| slot.is_free())
    }
}

impl<W: Word> Slot<W> {
    #[inline(always)]
    fn holds(&self, key: Key) -> bool {
        self.what.load() == key.what
            && self.address[0].load() == key.address[0]
            && self.address[1].load() == key.address[1]
    }

    fn is_free(&self) -> bool {
        self.what.load() == 0
    }
}

/// Writer: `key` leads to `endpoint`, which is not 0. The buckets are the key's candidates in their order.
///
/// # Errors
/// If both are full; nothing has changed.
pub fn set<W: Word>(buckets: [&Bucket<W>; 2], key: Key, endpoint: Endpoint) -> Result<(), Full> {
    let [first, second] = buckets;
    if let Some(slot) = first.slot(key).or_else(|| second.slot(key)) {
        slot.endpoint.store(endpoint.0);
        return Ok(());
    }
    let emptier = if second.room().count() > first.room().count() { second } else { first };
    let slot = emptier.room().next().ok_or(Full)?;
    slot.endpoint.store(endpoint.0);
    slot.address[1].store(key.address[1]);
    slot.address[0].store(key.address[0]);
    slot.what.store(key.what);
    Ok(())
}

/// Writer: `key` leads nowhere any more. Before the next [`set`] of another key there must be a grace period.
pub fn remove<W: Word>(buckets: [&Bucket<W>; 2], key: Key) {
    for bucket in buckets {
        if let Some(slot) = bucket.slot(key) {
            slot.what.store(0);
        }
    }
}
