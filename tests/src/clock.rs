//! The only reading of the clocks in this crate.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};

/// CLOCK_MONOTONIC, for deadlines and for telling how long a step took.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub fn now() -> Instant {
    Instant::now()
}

/// CLOCK_REALTIME, to compare with times of events.
pub fn realtime() -> jiff::Timestamp {
    lb::clock::realtime()
}

/// CPU time of this thread, in the kernel and out of it.
pub fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let microseconds = |time: TimeVal| u64::try_from(time.num_microseconds());
    Ok(Duration::from_micros(microseconds(usage.user_time())? + microseconds(usage.system_time())?))
}
