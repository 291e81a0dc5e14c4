//! The kernel's thread for softirqs comes before pktgen.
//!
//! A softirq that a clock tick falls into leaves what remains to ksoftirqd, and while that one is to run nobody else
//! handles softirqs (kernel 6.1: `__do_softirq`, `ksoftirqd_running`). As a thread like any other it waits for the one
//! that is running: pktgen, for a whole tick, 4 ms, in which it sends a thousand packets to a ring of 256 that nobody
//! empties. veth refuses the rest; pktgen sends others in their place, so that their number comes out right, but by
//! other clients than were meant, and in batches. With a real-time priority ksoftirqd runs after the packet that
//! pktgen is at, since pktgen asks after each whether it should give way.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use lb_tests::proc;

/// The VM has one CPU.
const THREAD: &str = "ksoftirqd/0";

/// For as long as the VM runs.
pub fn before_all_else() -> Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &pid()?]);
    proc::run(command)?.ok()?;
    Ok(())
}

fn pid() -> Result<String> {
    let processes = fs::read_dir("/proc")?.flatten();
    let named = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == THREAD)
    };
    let found = processes.filter_map(|entry| entry.file_name().into_string().ok()).find(named);
    found.with_context(|| format!("no kernel thread {THREAD} in /proc"))
}
