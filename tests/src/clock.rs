//! The only reading of the clocks in this crate.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike},
    },
    unistd::Pid,
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

/// How long this machine, or one of its CPUs, stands still: a thread on each sleeps again and again, and adds up by how much
/// it wakes too late.
pub struct Stalls {
    over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Result<Duration>>>,
}

impl Stalls {
    /// What wakes later than so stood still. Less is nothing special on a busy machine.
    pub const LATE: Duration = Duration::from_millis(50);

    /// Begins to watch.
    pub fn watch() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let over = Arc::<AtomicBool>::default();
        let watchers = cpus.map(|cpu| {
            let over = Arc::clone(&over);
            thread::spawn(move || stood_still(cpu, &over))
        });
        Ok(Self { watchers: watchers.collect(), over })
    }

    /// The sum of all CPUs until now.
    pub fn end(mut self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let each = self.watchers.drain(..).map(|it| it.join().map_err(|_| anyhow!("a watcher panicked"))?);
        each.sum()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn stood_still(cpu: usize, over: &AtomicBool) -> Result<Duration> {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    let mut stood = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let before = now();
        thread::sleep(PAUSE);
        let late = before.elapsed().saturating_sub(PAUSE);
        stood += if late > Stalls::LATE { late } else { Duration::ZERO };
    }
    Ok(stood)
}
