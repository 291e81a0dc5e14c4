//! The only reading of the clocks in this crate.

use std::{
    io, mem,
    time::{Duration, Instant},
};

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

/// Tells the kernel that CLOCK_REALTIME is kept right, or is not, as an NTP client does. It is the whole machine's: in the
/// VM only.
pub fn set_synchronised(yes: bool) -> Result<()> {
    // SAFETY: plain numbers, for which zeros are good; the kernel reads and writes no more than the structure.
    let state = unsafe {
        let mut timex: libc::timex = mem::zeroed();
        // An error that it takes for large makes it STA_UNSYNC by itself (`second_overflow`, kernel/time/ntp.c).
        timex.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        timex.status = if yes { 0 } else { libc::STA_UNSYNC };
        libc::adjtimex(&raw mut timex)
    };
    if state < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// CPU time of this thread, in the kernel and out of it.
pub fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let microseconds = |time: TimeVal| u64::try_from(time.num_microseconds());
    Ok(Duration::from_micros(microseconds(usage.user_time())? + microseconds(usage.system_time())?))
}
