//! The guard against floods: new flows of a service that come faster than its rate get no entry in the flow table, and
//! are placed by hash. So what has only begun takes a bounded share of the table, and what is established stays.
//!
//! A leaky bucket in one word: each new flow raises its level, time lowers it by the rate.

use crate::tick::Tick;

/// What one flow adds to the level.
const FLOW: u32 = 256;
/// A burst of so many ticks' flows (four to eight seconds) has room.
const BURST: u32 = 32;

/// New flows a second above which no rate can be told: the level has 32 bits.
pub const MAX_RATE: u32 = 3_000_000;

/// The rate, in units of the level a tick, of so many flows a second; 0 is no guard. `tick_rate`: ticks a second.
pub const fn rate(per_second: u32, tick_rate: u32) -> u32 {
    let per_second = if per_second > MAX_RATE { MAX_RATE } else { per_second };
    (per_second as u64 * FLOW as u64).div_ceil(if tick_rate == 0 { 1 } else { tick_rate as u64 }) as u32
}

/// `tick of the last flow 32 | level 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Guard(pub u64);

impl Guard {
    #[inline(always)]
    const fn level(self, now: Tick, rate: u32) -> u32 {
        let elapsed = now.0.wrapping_sub((self.0 >> 32) as u32);
        let elapsed = if elapsed > BURST { BURST } else { elapsed };
        (self.0 as u32).saturating_sub(elapsed.wrapping_mul(rate))
    }

    /// The bucket after one more flow; itself if there is no room for it now.
    #[inline(always)]
    pub const fn take(self, now: Tick, rate: u32) -> Self {
        let level = self.level(now, rate);
        if level > BURST.wrapping_mul(rate) {
            self
        } else {
            Self((now.0 as u64) << 32 | (level + FLOW) as u64)
        }
    }

    /// Whether there is no room for another flow now, or was none a few seconds ago: the level is above half.
    pub const fn is_high(self, now: Tick, rate: u32) -> bool {
        rate != 0 && self.level(now, rate) > BURST.wrapping_mul(rate) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `flows` at one instant find room.
    fn admitted(guard: &mut Guard, now: Tick, rate: u32, flows: u32) -> u32 {
        let mut admitted = 0;
        for _ in 0..flows {
            let next = guard.take(now, rate);
            admitted += u32::from(next != *guard);
            *guard = next;
        }
        admitted
    }

    #[test]
    fn a_burst_has_room_then_the_rate_holds() {
        // 100 a second at 8 ticks a second: 12.5 a tick.
        let (rate, start) = (rate(100, 8), Tick(u32::MAX - 2));
        assert_eq!(rate, 3200);
        let mut guard = Guard::default();
        assert_eq!(
            admitted(&mut guard, start, rate, 1000),
            401,
            "32 ticks of 12.5, and the one that overflows"
        );
        assert!(guard.is_high(start, rate) && guard.is_high(start.after(15), rate));
        assert!(!guard.is_high(start.after(17), rate));
        let later: u32 = (1..=80).map(|tick| admitted(&mut guard, start.after(tick), rate, 100)).sum();
        assert_eq!(later, 1000, "ten seconds' flows, across the wrap of ticks");
    }

    #[test]
    fn what_comes_slower_is_never_held_up() {
        let rate = rate(100, 8);
        let mut guard = Guard::default();
        for tick in 0..1000 {
            assert_eq!(admitted(&mut guard, Tick(tick), rate, 12), 12, "tick {tick}");
        }
        assert!(!guard.is_high(Tick(1000), rate));
    }

    #[test]
    fn the_greatest_rate_fits_the_word() {
        let rate = rate(u32::MAX, 6);
        assert!(u64::from(rate) * u64::from(BURST) + u64::from(FLOW) <= u64::from(u32::MAX));
        assert_eq!(admitted(&mut Guard::default(), Tick(7), rate, 1000), 1000);
        assert!(!Guard(0).is_high(Tick(0), 0), "no guard");
    }
}
