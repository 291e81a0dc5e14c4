//! Who may open connections to a service, and how fast: a rule for each prefix of clients' addresses, the longest of
//! which decides, and a leaky bucket for each source that a rule limits.
//!
//! A bucket is one word: the time at which it will have run empty. Each new connection moves that on by the rule's
//! interval, and finds room if it is not more than a burst of intervals ahead then (the form that ATM's GCRA has,
//! ITU-T I.371). So buckets of different rules can be compared: the one that runs empty first says least, and one
//! whose time is past says nothing. That is what makes a table of fixed size safe: a source that finds no place in its
//! set takes that of the bucket that runs empty first. To be forgotten gives a source more room, never less.

use crate::{bucket::Word, flow::Secret};

/// Jiffies are cut into so many parts: a connection's interval may be much shorter than one.
const PARTS: u32 = 1 << 16;

/// A moment: jiffies, which do not wrap in 64 bits, in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Moment(pub u64);

impl Moment {
    #[inline(always)]
    pub const fn from_jiffies(jiffies: u64) -> Self {
        Self(jiffies.wrapping_mul(PARTS as u64))
    }
}

/// Value of `RULES4` and `RULES6`: `interval 32 | burst 24 | prefix length 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Rule(pub u64);

/// Most connections a burst may have.
pub const MAX_BURST: u32 = 1_000_000;
/// Most connections a minute that a limit may allow: a hundred thousand a second.
pub const MAX_PER_MINUTE: u32 = 6_000_000;

impl Rule {
    /// No new connection.
    pub const DENY: Self = Self(0);
    /// As many as there are.
    pub const ALLOW: Self = Self(1);

    /// `per_minute` connections for each source, the clients that share `prefix` bits of their address (IPv6: of 128);
    /// `burst` of them at once. `hz`: jiffies a second.
    pub const fn limit(per_minute: u32, burst: u32, prefix: u8, hz: u32) -> Self {
        let parts = 60 * hz as u64 * PARTS as u64;
        let interval = parts / if per_minute == 0 { 1 } else { per_minute as u64 };
        let interval = if interval == 0 {
            1
        } else if interval > u32::MAX as u64 {
            u32::MAX as u64
        } else {
            interval
        };
        let burst = if burst == 0 {
            1
        } else if burst > MAX_BURST {
            MAX_BURST
        } else {
            burst
        };
        Self(interval << 32 | (burst as u64) << 8 | prefix as u64)
    }

    #[inline(always)]
    pub const fn is_limit(self) -> bool {
        self.interval() != 0
    }

    /// What a connection moves the bucket's time on by.
    #[inline(always)]
    const fn interval(self) -> u64 {
        self.0 >> 32
    }

    #[inline(always)]
    const fn burst(self) -> u64 {
        self.0 >> 8 & 0xff_ffff
    }

    #[inline(always)]
    pub const fn prefix(self) -> u8 {
        self.0 as u8
    }

    /// The bucket after one more connection, and whether there was room for it. Of a rule that was stricter it keeps no
    /// more than this one can fill.
    #[inline(always)]
    const fn take(self, empty_at: u64, now: Moment) -> (u64, bool) {
        let full = now.0 + self.interval() * self.burst();
        let from = if empty_at < now.0 { now.0 } else { empty_at };
        let next = from + self.interval();
        if next <= full { (next, true) } else { (if empty_at > full { full } else { empty_at }, false) }
    }
}

/// Most rules there may be, of all services, of each address family.
pub const MAX_RULES: u32 = 1 << 16;
/// Entries of either trie: while all rules are replaced, the old ones and the new ones stand together.
pub const RULE_ENTRIES: u32 = 2 * MAX_RULES;

/// Bits of a key before its address.
pub const BITS4: u32 = 32;
pub const BITS6: u32 = 64;

/// Data of a key of `RULES4`: the service, and the address as it stands in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data4 {
    pub service: u32,
    pub address: u32,
}

const _: () = assert!(size_of::<Data4>() == 8);

/// Data of a key of `RULES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data6 {
    pub service: u64,
    pub address: [u64; 2],
}

const _: () = assert!(size_of::<Data6>() == 24);

/// Sets of `SOURCES`, a power of two: 65,536 sources in 1 MiB.
pub const SETS: u32 = 1 << 14;
const PLACES: usize = 4;

/// Value of `SOURCES`, one cache line: which sources, and their buckets.
#[repr(C)]
pub struct Set<W> {
    pub tags: [W; PLACES],
    pub empty_at: [W; PLACES],
}

const _: () = assert!(size_of::<Set<u64>>() == 64);

/// A source's name in its set: a keyed hash, so nobody outside can aim at one; two of some 2^64 are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// `address` as loaded, an IPv4 address as `[address, 0]`; what counts of it is what `rule` says.
    #[inline(always)]
    pub fn new(secret: Secret, service: u32, address: [u64; 2], is_ipv6: bool, rule: Rule) -> Self {
        let prefix = rule.prefix() as u32;
        let network = if is_ipv6 {
            [address[0] & leading(prefix), address[1] & leading(prefix.saturating_sub(64))]
        } else {
            // The first half of a word in network order.
            [(address[0] as u32 as u64) & leading(if prefix > 32 { 32 } else { prefix }), 0]
        };
        let of = (service as u64) << 32 | (is_ipv6 as u64) << 8 | prefix as u64;
        Self(secret.wide(&[network[0], network[1], of]))
    }

    /// Its set in `SOURCES`.
    #[inline(always)]
    pub const fn set(self) -> u32 {
        (self.0 >> 40) as u32 & (SETS - 1)
    }
}

/// The first `bits` of a word as it was loaded from a packet; all of them for 64 and more.
#[inline(always)]
const fn leading(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { !(u64::MAX >> bits) }.to_be()
}

/// What became of a connection of a limited source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// It may be opened.
    pub admitted: bool,
    /// Another source was forgotten for it, whose bucket had not run empty.
    pub forgot: bool,
}

/// One more connection of the source `tag`.
///
/// If two CPUs do this to one bucket at once, the slower one's connection is not counted.
#[inline(always)]
pub fn take<W: Word>(set: &Set<W>, tag: Tag, rule: Rule, now: Moment) -> Taken {
    // Where all say the same, chance decides: a source that has just come must not always be the next to go.
    let mut place = (tag.0 >> 8) as usize & (PLACES - 1);
    let mut empty_at = set.empty_at[place].load();
    let mut is_known = false;
    let mut at = 0;
    while at < PLACES {
        let its = set.empty_at[at].load();
        if set.tags[at].load() == tag.0 {
            (place, empty_at, is_known) = (at, its, true);
            break;
        }
        if its < empty_at {
            (place, empty_at) = (at, its);
        }
        at += 1;
    }
    let place = place & (PLACES - 1);
    let (next, admitted) = rule.take(if is_known { empty_at } else { 0 }, now);
    let is_same = is_known && next == empty_at;
    if is_same || !set.empty_at[place].cas(empty_at, next) || is_known {
        return Taken { admitted, forgot: false };
    }
    set.tags[place].store(tag.0);
    Taken { admitted, forgot: empty_at > now.0 }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A kernel word without the feature that the agent has it under.
    #[derive(Default)]
    struct Cell(AtomicU64);

    impl Word for Cell {
        fn load(&self) -> u64 {
            self.0.load(core::sync::atomic::Ordering::SeqCst)
        }
        fn store(&self, new: u64) {
            self.0.store(new, core::sync::atomic::Ordering::SeqCst);
        }
        fn cas(&self, seen: u64, new: u64) -> bool {
            let order = core::sync::atomic::Ordering::SeqCst;
            self.0.compare_exchange(seen, new, order, order).is_ok()
        }
    }

    fn set() -> Set<Cell> {
        Set { tags: Default::default(), empty_at: Default::default() }
    }

    const HZ: u32 = 250;

    /// So many seconds after a boot.
    fn at(ms: u64) -> Moment {
        Moment::from_jiffies(u64::from(0u32.wrapping_sub(300 * HZ)) + ms * u64::from(HZ) / 1000)
    }

    fn admitted(set: &Set<Cell>, tag: u64, rule: Rule, now: Moment, times: u32) -> u32 {
        (0..times).map(|_| u32::from(take(set, Tag(tag), rule, now).admitted)).sum()
    }

    #[test]
    fn a_burst_has_room_then_the_rate_holds() {
        let (set, rule) = (set(), Rule::limit(6000, 200, 32, HZ));
        assert_eq!(admitted(&set, 7, rule, at(0), 1000), 200);
        let later: u32 = (1..=1000).map(|i| admitted(&set, 7, rule, at(i * 10), 5)).sum();
        assert!((999..=1000).contains(&later), "ten seconds at 100 a second: {later}");
        assert_eq!(admitted(&set, 7, rule, at(60_000), 1000), 200, "the burst has room again");
        assert_eq!(admitted(&set, 9, rule, at(60_000), 1000), 200, "another source");
    }

    #[test]
    fn rates_from_one_a_minute_to_a_hundred_thousand_a_second_hold() {
        for (per_minute, burst) in [(1, 1), (30, 5), (60, 10), (60_000, 1), (MAX_PER_MINUTE, 2000)] {
            for hz in [100, 250, 1000] {
                let (set, rule) = (set(), Rule::limit(per_minute, burst, 32, hz));
                assert!(rule.is_limit());
                let mut opened = 0u64;
                // A jiffy after the other for two minutes, as many as find room.
                for jiffy in 0..u64::from(hz) * 120 {
                    let now = Moment::from_jiffies((1 << 32) + jiffy);
                    while opened < 20_000_000 && take(&set, Tag(1), rule, now).admitted {
                        opened += 1;
                    }
                }
                let wanted = f64::from(per_minute) * 2.0;
                let most = (wanted + f64::from(burst)) * 1.01 + 1.0;
                // Where a burst is less than a jiffy has, the jiffy is what limits.
                let least = wanted.min(f64::from(burst) * f64::from(hz) * 120.0) * 0.99 - 1.0;
                assert!(
                    (opened as f64) <= most && opened as f64 >= least,
                    "{per_minute}/m burst {burst} HZ {hz}: {opened}"
                );
            }
        }
    }

    #[test]
    fn a_stricter_rules_debt_is_not_held_against_a_milder_one() {
        let set = set();
        let strict = Rule::limit(1, 100, 32, HZ);
        assert_eq!(admitted(&set, 1, strict, at(0), 200), 100, "an hour and more to go");
        let mild = Rule::limit(6000, 10, 32, HZ);
        assert!(!take(&set, Tag(1), mild, at(0)).admitted);
        assert_eq!(admitted(&set, 1, mild, at(1000), 100), 10);
    }

    #[test]
    fn networks_are_cut_as_they_stand_in_a_packet() {
        let secret = Secret::from_random(0x1234_5678_9abc_def1, 0xfeed_face_cafe_beef);
        let v4 = |bytes: [u8; 4], prefix| {
            let rule = Rule::limit(60, 1, prefix, HZ);
            Tag::new(secret, 3, [u64::from(u32::from_ne_bytes(bytes)), 0], false, rule)
        };
        assert_eq!(v4([10, 1, 2, 3], 24), v4([10, 1, 2, 250], 24));
        assert_ne!(v4([10, 1, 2, 3], 24), v4([10, 1, 3, 3], 24));
        assert_ne!(v4([10, 1, 2, 3], 32), v4([10, 1, 2, 2], 32));
        assert_eq!(v4([10, 1, 2, 3], 0), v4([192, 0, 2, 1], 0));
        assert_eq!(v4([10, 1, 2, 3], 9), v4([10, 127, 2, 3], 9));
        let v6 = |first: u64, second: u64, prefix| {
            Tag::new(secret, 3, [first.to_be(), second.to_be()], true, Rule::limit(60, 1, prefix, HZ))
        };
        assert_eq!(v6(0x2001_0db8_0000_0001, 7, 64), v6(0x2001_0db8_0000_0001, 8, 64));
        assert_ne!(v6(0x2001_0db8_0000_0001, 7, 64), v6(0x2001_0db8_0000_0002, 7, 64));
        assert_eq!(v6(0x2001_0db8_0000_00ff, 7, 56), v6(0x2001_0db8_0000_0001, 7, 56));
        assert_ne!(v6(1, 7, 128), v6(1, 6, 128));
        assert_eq!(v6(1, 7, 127), v6(1, 6, 127));
    }

    #[test]
    fn a_source_far_over_its_limit_stays_limited_among_many_spoofed_ones() {
        let (set, rule) = (set(), Rule::limit(6000, 20, 32, HZ));
        let (mut opened, mut forgotten) = (0, 0);
        for i in 0..100_000u64 {
            // In this one set alone ten thousand new sources a second, of which none comes again.
            let spoofed = take(&set, Tag((i + 100) << 8 | 1), rule, at(i / 10));
            assert!(spoofed.admitted, "nobody is held up by others");
            forgotten += u64::from(spoofed.forgot);
            opened += u64::from(take(&set, Tag(1 << 8 | 3), rule, at(i / 10)).admitted);
        }
        assert!(opened <= 1000 + 20 + 1, "ten seconds at 100 a second: {opened}");
        assert!(forgotten > 0, "it is told");
    }

    proptest! {
        /// As with a bucket for each source for ever, but that a source may be forgotten: so it is never refused where
        /// it would not be; and as long as no more sources come than have places, it is the same.
        #[test]
        fn nobody_is_refused_who_is_within_the_limit(
            sources in 1..12u64,
            rules in proptest::collection::vec((1..60_000u32, 1..50u32), 3),
            steps in proptest::collection::vec((0..12u64, 0..200u64), 1..400),
        ) {
            let set = set();
            let mut exact: BTreeMap<u64, u64> = BTreeMap::new();
            let mut ms = 0;
            for (source, passed) in steps {
                let source = source % sources;
                ms += passed;
                let (per_minute, burst) = rules[source as usize % rules.len()];
                let rule = Rule::limit(per_minute, burst, 32, HZ);
                let known = exact.entry(source).or_default();
                let (next, room) = rule.take(*known, at(ms));
                *known = next;
                let taken = take(&set, Tag((source + 1) << 8), rule, at(ms));
                prop_assert!(taken.admitted || !room, "source {} at {} ms", source, ms);
                if sources <= PLACES as u64 {
                    prop_assert_eq!(taken, Taken { admitted: room, forgot: false });
                }
            }
        }
    }
}
