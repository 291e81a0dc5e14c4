//! The kernel, this process's capabilities, the state directory's disk, the flow table's clock.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lb_common::tick::Reading;
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::{
    clock::{is_synchronised, kernel_hz, monotonic},
    doctor::{
        Place,
        judge::machine::{Clock, Disk, Facts},
    },
    net::sysctl::Sysctl,
};

/// `include/uapi/linux/capability.h`, and what of the doctor needs it.
const NEEDED: [(&str, u32, &str); 3] = [
    ("CAP_NET_RAW", 13, "asking backends"),
    ("CAP_SYS_ADMIN", 21, "opening pinned maps"),
    ("CAP_NET_ADMIN", 12, "reading firewall rules"),
];

/// `reading`: of the pinned map `CLOCK`.
pub fn gather(place: &Place, reading: Option<Reading>) -> Facts {
    let core = |key| Sysctl::net(&["core", key]).and_then(|it| it.read_number()).ok();
    Facts {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: core("bpf_jit_enable"),
        jit_harden: core("bpf_jit_harden"),
        lacking: fs::read_to_string("/proc/self/status").map(|text| lacking(&text)).unwrap_or_default(),
        state: disk(place),
        clock: reading.and_then(clock),
        synchronised: is_synchronised(),
    }
}

fn lacking(status: &str) -> Vec<(&'static str, &'static str)> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(bits) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Vec::new();
    };
    let missing = NEEDED.into_iter().filter(|(_, bit, _)| bits >> bit & 1 == 0);
    missing.map(|(name, _, what)| (name, what)).collect()
}

/// None before the first start of an agent.
fn disk(place: &Place) -> Option<Disk> {
    let path: PathBuf = place.state_dir.join(&place.instance);
    let found = statvfs(&path).ok()?;
    Some(Disk {
        path,
        read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        bytes: found.f_bfree.saturating_mul(found.f_frsize),
        // Some file systems have no fixed number of them, and say 0 of 0.
        inodes: if found.f_files == 0 { u64::MAX } else { found.f_ffree },
    })
}

fn clock(reading: Reading) -> Option<Clock> {
    let jiffies = jiffies(&fs::read_to_string("/proc/timer_list").ok()?)?;
    let hz = kernel_hz();
    let since = u64::try_from(monotonic().as_nanos()).ok()?.saturating_sub(reading.monotonic_ns);
    let expected = u64::try_from(u128::from(since) * u128::from(hz) / 1_000_000_000).ok()?;
    Some(Clock { expected, passed: jiffies.wrapping_sub(reading.jiffies), hz })
}

/// `jiffies: 4298522491`, once for each CPU (`kernel/time/timer_list.c`).
fn jiffies(timers: &str) -> Option<u64> {
    timers.lines().rev().find_map(|line| line.strip_prefix("jiffies:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_jiffies_are_read() {
        assert_eq!(lacking("Name:\tlb\nCapEff:\t000001ffffffffff\n"), []);
        assert_eq!(lacking("CapEff:\t000001ffffffdfff\n"), [("CAP_NET_RAW", "asking backends")]);
        assert_eq!(lacking("CapEff:\t0000000000000000\n").len(), 3);
        assert_eq!(
            jiffies("  .idle_jiffies   : 7\njiffies: 4298522491\n\nTick Device\n"),
            Some(4_298_522_491)
        );
    }
}
