//! The only place that reads the time.

use std::{io, time::Duration};

/// CLOCK_MONOTONIC, the clock that BPF sees too.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; the clock ids used here exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CONFIG_HZ: the coarse clock ticks with it.
pub fn kernel_hz() -> io::Result<u32> {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer.
    let done = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    if done != 0 || resolution.tv_nsec <= 0 {
        return Err(io::Error::last_os_error());
    }
    let nanoseconds = resolution.tv_nsec as u64;
    Ok(((1_000_000_000 + nanoseconds / 2) / nanoseconds) as u32)
}
