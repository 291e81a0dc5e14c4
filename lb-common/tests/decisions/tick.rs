//! Tick arithmetic against whole numbers that do not wrap.

use lb_common::{
    service::Rotation,
    tick::{Tick, seconds, shift, ticks},
};
use proptest::{prelude::*, sample::select};

/// Longest a comparison reaches, in ticks: half of the circle.
const HALF: i64 = 1 << 31;

fn rates() -> impl Strategy<Value = u32> {
    select(vec![100, 250, 300, 1000])
}

proptest! {
    #[test]
    fn comparisons_hold_wherever_the_clock_stands(now in any::<u64>(), by in -HALF + 1..HALF) {
        let then = (i128::from(now) + i128::from(by)) as u64;
        let (now, then) = (Tick(now as u32), Tick(then as u32));
        prop_assert_eq!(i64::from(then.until(now)), by);
        prop_assert_eq!(then.is_past(now), by <= 0);
        if by >= 0 {
            prop_assert_eq!(now.after(by as u32), then);
        }
    }

    #[test]
    fn a_deadline_is_past_exactly_when_its_ticks_are_over(
        start in 0..u64::MAX >> 1, hz in rates(), s in 1..2_678_400u32, lasts in 0..1u64 << 32,
    ) {
        let (shift, end) = (shift(hz), start + lasts);
        let deadline = Tick::from_jiffies(start, shift).after(ticks(s, hz));
        let passed = (end >> shift) - (start >> shift);
        prop_assert_eq!(deadline.is_past(Tick::from_jiffies(end, shift)), passed >= u64::from(ticks(s, hz)));
    }

    #[test]
    fn a_timeout_is_never_short_and_never_two_ticks_long(hz in rates(), s in 1..=2_678_400u32) {
        let jiffies = u64::from(ticks(s, hz)) << shift(hz);
        let wanted = u64::from(s) * u64::from(hz);
        prop_assert!(jiffies >= wanted && jiffies < wanted + (1 << shift(hz)));
        prop_assert!(seconds(ticks(s, hz), hz) - s <= 1);
    }

    #[test]
    fn placing_by_hash_ends_at_its_tick(now in any::<u32>(), lasts in 1..1u32 << 30, passed in 0..1u32 << 30) {
        let until = Rotation::until(Tick(now).after(lasts));
        prop_assert_eq!(Rotation::places_by_hash(until, Tick(now).after(passed)), passed < lasts);
        prop_assert!(!Rotation::places_by_hash(Rotation::default().hashed_until, Tick(now)));
    }
}
