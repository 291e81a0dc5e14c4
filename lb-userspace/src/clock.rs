//! The only place that reads the time.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// CLOCK_MONOTONIC, the clock that BPF sees too.
pub fn monotonic() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// CONFIG_HZ: the coarse clock ticks with it.
pub fn kernel_hz() -> u32 {
    let tick = duration(clock_getres(ClockId::MonotonicCoarse)).as_nanos().max(1);
    u32::try_from((1_000_000_000 + tick / 2) / tick).unwrap_or(u32::MAX)
}

fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
