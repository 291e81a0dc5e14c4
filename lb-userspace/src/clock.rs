//! The only place that reads the time.

use std::{mem, time::Duration};

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// CLOCK_MONOTONIC, the clock that BPF sees too.
pub fn monotonic() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// CLOCK_THREAD_CPUTIME_ID: CPU time that this thread has had.
pub fn of_thread() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// CLOCK_REALTIME, to the microsecond: for people and for files only, as it may jump.
pub fn realtime() -> Timestamp {
    let time = clock_gettime(ClockId::Realtime);
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1000;
    i64::try_from(micros)
        .ok()
        .and_then(|it| Timestamp::from_microsecond(it).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// CONFIG_HZ: the coarse clock ticks with it.
pub fn kernel_hz() -> u32 {
    let tick = duration(clock_getres(ClockId::MonotonicCoarse)).as_nanos().max(1);
    u32::try_from((1_000_000_000 + tick / 2) / tick).unwrap_or(u32::MAX)
}

/// Whether something, an NTP client mostly, keeps CLOCK_REALTIME right: the kernel's own view (adjtimex(2), STA_UNSYNC),
/// which timedatectl shows too. None: the kernel does not tell.
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: plain numbers, for which zeros are good; with `modes` 0 the kernel only writes to it.
    let (status, found) = unsafe {
        let mut timex: libc::timex = mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    (status >= 0).then_some(found & libc::STA_UNSYNC == 0)
}

fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
