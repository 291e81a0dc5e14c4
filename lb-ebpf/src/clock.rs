//! The flow table's clock.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{source::Moment, tick::Tick};

use crate::maps::{CLOCK, TICK_SHIFT};

/// One reading of both clocks, for the agent to calibrate them.
pub use lb_common::tick::Reading;

#[inline(always)]
pub fn now() -> Tick {
    // SAFETY: a helper without arguments; the JIT turns it into one load.
    Tick::from_jiffies(unsafe { bpf_jiffies64() }, TICK_SHIFT.load())
}

/// For what ticks are too coarse for.
#[inline(always)]
pub fn moment() -> Moment {
    // SAFETY: as above.
    Moment::from_jiffies(unsafe { bpf_jiffies64() })
}

pub fn publish() {
    // SAFETY: helpers without arguments.
    let reading = unsafe { Reading { jiffies: bpf_jiffies64(), monotonic_ns: bpf_ktime_get_ns() } };
    let _ = CLOCK.set(0, reading, 0);
}
