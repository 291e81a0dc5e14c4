//! Keys and buckets of the two flow tables, and their hash.

use crate::bucket::{Bucket, SLOTS, Word};

/// Key of an IPv4 flow of an exact-port endpoint: source address 32, source port 16, endpoint id 16,
/// addresses and ports as they stand in the packet. Endpoint id 0 does not exist, so it is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct NarrowKey(pub u64);

impl NarrowKey {
    #[inline(always)]
    pub const fn new(source: u32, port: u16, endpoint: u16) -> Self {
        Self((source as u64) << 32 | (port as u64) << 16 | endpoint as u64)
    }

    /// What its buckets are taken from; a wide key has it in its fingerprint.
    #[inline(always)]
    pub const fn hash(self, secret: Secret) -> u64 {
        secret.mix(self.0)
    }

    /// Source address and port in network order as loaded, and the endpoint id.
    pub const fn parts(self) -> (u32, u16, u16) {
        ((self.0 >> 32) as u32, (self.0 >> 16) as u16, self.0 as u16)
    }
}

/// Key of every other flow: 128-bit source address, source port, endpoint id, destination port
/// (a port-0 endpoint serves them all), in native-order words of the packet's bytes; then its hash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WideKey {
    pub words: [u64; 3],
    /// [`Secret::wide`] of the words: the tag.
    pub fingerprint: u64,
}

impl WideKey {
    #[inline(always)]
    pub fn new(secret: Secret, source: [u64; 2], port: u16, dest_port: u16, endpoint: u16) -> Self {
        let ports = (port as u64) << 32 | (dest_port as u64) << 16 | endpoint as u64;
        let words = [source[0], source[1], ports];
        Self { words, fingerprint: secret.wide(&words) }
    }

    /// Source port, destination port (network order as loaded) and endpoint id.
    pub const fn ports(words: &[u64; 3]) -> (u16, u16, u16) {
        ((words[2] >> 32) as u16, (words[2] >> 16) as u16, words[2] as u16)
    }
}

/// The hash secret: without it nobody outside can aim at one bucket. Two odd multipliers, random,
/// kept in `meta` for as long as the tables live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    pub a: u64,
    pub b: u64,
}

impl Secret {
    /// Makes a secret of 128 random bits.
    pub const fn from_random(a: u64, b: u64) -> Self {
        Self { a: a | 1, b: b | 1 }
    }

    /// Multiply-shift by secret odd numbers is universal in its high bits; the shifts bring them
    /// down to where the buckets are taken from.
    #[inline(always)]
    pub const fn mix(self, x: u64) -> u64 {
        let x = (x ^ self.b).wrapping_mul(self.a);
        let x = (x ^ x >> 32).wrapping_mul(self.b);
        x ^ x >> 29
    }

    #[inline(always)]
    pub(crate) const fn wide(self, words: &[u64; 3]) -> u64 {
        // The address's halves side by side, not one after the other: their multiplications overlap. Mixed by the
        // same numbers in another order, so that what tells of one says nothing of the other.
        let other = Self { a: self.b, b: self.a };
        self.mix(self.mix(words[0]) ^ other.mix(words[1]) ^ words[2]) | 1
    }
}

/// The two candidate buckets of a hash, for a table of `mask + 1` buckets (a power of two).
///
/// The second comes from one more multiplication (by 2^64 / golden ratio), not from low bits of the
/// hash: where keys differ only in their high bits, as neighbouring addresses with one port do, those
/// are little more than the high ones again, and keys that share one bucket share the other too.
#[inline(always)]
pub const fn candidates(hash: u64, mask: u32) -> (u32, u32) {
    ((hash >> 32) as u32 & mask, (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 & mask)
}

/// A slot of the narrow table: all that a connection listing needs.
#[repr(C)]
pub struct NarrowSlot<W> {
    pub key: W,
    pub value: W,
}

/// One cache line.
#[repr(C)]
pub struct NarrowBucket<W> {
    pub slots: [NarrowSlot<W>; SLOTS],
}

const _: () = assert!(size_of::<NarrowBucket<u64>>() == 64);

impl<W: Word> Bucket for NarrowBucket<W> {
    type Key = NarrowKey;
    type Word = W;

    #[inline(always)]
    fn tag(&self, slot: usize) -> &W {
        &self.slots[slot & (SLOTS - 1)].key
    }

    #[inline(always)]
    fn value(&self, slot: usize) -> &W {
        &self.slots[slot & (SLOTS - 1)].value
    }

    #[inline(always)]
    fn tag_of(key: &NarrowKey) -> u64 {
        key.0
    }

    #[inline(always)]
    fn holds(&self, _slot: usize, _key: &NarrowKey) -> bool {
        true
    }

    #[inline(always)]
    fn write_key(&self, _slot: usize, _key: &NarrowKey) {}
}

/// Tags and values in the first cache line, full keys behind it.
#[repr(C)]
pub struct WideBucket<W> {
    pub slots: [NarrowSlot<W>; SLOTS],
    pub keys: [[W; 4]; SLOTS],
}

const _: () = assert!(size_of::<WideBucket<u64>>() == 192);

impl<W: Word> Bucket for WideBucket<W> {
    type Key = WideKey;
    type Word = W;

    #[inline(always)]
    fn tag(&self, slot: usize) -> &W {
        &self.slots[slot & (SLOTS - 1)].key
    }

    #[inline(always)]
    fn value(&self, slot: usize) -> &W {
        &self.slots[slot & (SLOTS - 1)].value
    }

    #[inline(always)]
    fn tag_of(key: &WideKey) -> u64 {
        key.fingerprint
    }

    #[inline(always)]
    fn holds(&self, slot: usize, key: &WideKey) -> bool {
        let words = &self.keys[slot & (SLOTS - 1)];
        words[0].load() == key.words[0] && words[1].load() == key.words[1] && words[2].load() == key.words[2]
    }

    #[inline(always)]
    fn write_key(&self, slot: usize, key: &WideKey) {
        let words = &self.keys[slot & (SLOTS - 1)];
        words[0].store(key.words[0]);
        words[1].store(key.words[1]);
        words[2].store(key.words[2]);
    }
}
