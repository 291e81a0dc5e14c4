//! The flow table's clock: `bpf_jiffies64() >> shift`, cut to 32 bits.
//!
//! One load in the kernel, no helper call, no agent needed. The shift is chosen by [`shift`] from
//! CONFIG_HZ so that a tick is 1/8 to 1/4 s. Ticks wrap (low jiffies wrap five minutes after boot),
//! so they are compared by their signed difference only.

/// A point in time, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// Cuts a jiffies count to a tick.
    #[inline(always)]
    pub const fn from_jiffies(jiffies: u64, shift: u32) -> Self {
        Self((jiffies >> shift) as u32)
    }

    #[inline(always)]
    pub const fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Ticks from `now` until `self`; negative when `self` has passed.
    #[inline(always)]
    pub const fn until(self, now: Tick) -> i32 {
        self.0.wrapping_sub(now.0) as i32
    }

    #[inline(always)]
    pub const fn is_past(self, now: Tick) -> bool {
        self.until(now) <= 0
    }
}

/// Map value of `CLOCK`: both clocks at one instant, for the agent to calibrate them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub jiffies: u64,
    /// CLOCK_MONOTONIC, ns.
    pub monotonic_ns: u64,
}

/// How far jiffies are shifted for a kernel with `hz` ticks a second: HZ=100 gives 4 (0.16 s),
/// 250 gives 5 (0.128 s), 1000 gives 7 (0.128 s).
pub const fn shift(hz: u32) -> u32 {
    (hz / 4).ilog2()
}

/// Ticks in `seconds`, rounded up.
pub const fn ticks(seconds: u32, hz: u32) -> u32 {
    ((seconds as u64 * hz as u64).div_ceil(1 << shift(hz))) as u32
}

/// Whole seconds in `ticks`, rounded down, as IPVS shows timers.
pub const fn seconds(ticks: u32, hz: u32) -> u32 {
    (((ticks as u64) << shift(hz)) / hz as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_an_eighth_to_a_quarter_of_a_second() {
        for hz in [100, 250, 300, 1000] {
            let seconds = f64::from(1u32 << shift(hz)) / f64::from(hz);
            assert!((0.1..=0.25).contains(&seconds), "HZ={hz}: {seconds} s");
        }
    }

    #[test]
    fn seconds_survive_the_way_there_and_back() {
        for hz in [100, 250, 300, 1000] {
            for s in [1, 2, 10, 60, 900, 2_678_400] {
                assert_eq!(seconds(ticks(s, hz), hz), s, "HZ={hz}");
            }
        }
    }

    #[test]
    fn comparison_survives_the_wrap() {
        let now = Tick(u32::MAX - 3);
        assert!(!now.after(10).is_past(now));
        assert!(now.is_past(now.after(10)));
        assert!(now.is_past(now));
    }
}
