//! The director's kernel, the doctor's own privileges, and the agent's disk.

use std::path::PathBuf;

use crate::{
    dataplane::kernel,
    doctor::finding::{Finding, Id},
};

#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`
    pub release: String,
    /// The kernel has type information of its own (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// `net.core.bpf_jit_enable`, `bpf_jit_harden`; not shown in a network namespace of one's own.
    pub jit: Option<i64>,
    pub jit_harden: Option<i64>,
    /// Capabilities that looking needs and the caller lacks, with what they are needed for.
    pub lacking: Vec<(&'static str, &'static str)>,
    pub state: Option<Disk>,
    pub clock: Option<Clock>,
    /// Something keeps CLOCK_REALTIME right; none: the kernel does not tell.
    pub synchronised: Option<bool>,
}

/// The file system of the instance's state directory.
#[derive(Clone, Debug)]
pub struct Disk {
    pub path: PathBuf,
    pub read_only: bool,
    /// Bytes and inodes that are left, for root.
    pub bytes: u64,
    pub inodes: u64,
}

/// Two readings of the kernel's ticks against CLOCK_MONOTONIC: the flow table's (`CLOCK`) and one made now.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Jiffies that must have passed by CLOCK_MONOTONIC, and that have, since the flow table's reading.
    pub expected: u64,
    pub passed: u64,
    /// CONFIG_HZ.
    pub hz: u32,
}

/// A journal of thousands of changes is smaller, and is written beside the one before.
const ROOM: u64 = 4 << 20;

/// Seconds by which the clocks may differ: a reading is made within a tick or two of the other.
const APART: u64 = 5;

pub fn judge(facts: &Facts) -> Vec<Finding> {
    kernel_of(facts)
        .into_iter()
        .chain(privilege(facts))
        .chain(facts.state.as_ref().and_then(disk))
        .chain(facts.clock.and_then(clock))
        .chain(facts.synchronised.and_then(wall_clock))
        .collect()
}

fn kernel_of(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if kernel::is_too_old(&facts.release) {
        findings.push(Finding::new(
            Id::KernelTooOld,
            "kernel",
            format!("its release is {}", facts.release),
            "`lb run` refuses to start: what its program needs of the kernel is not there",
            format!("boot a kernel of {}", kernel::NEEDED),
        ));
    }
    if !facts.btf {
        findings.push(Finding::new(
            Id::NoBtf,
            "kernel",
            "there is no /sys/kernel/btf/vmlinux",
            "tools that look into the data path (bpftool, pwru) show no names and types; forwarding is the same",
            "a kernel with CONFIG_DEBUG_INFO_BTF=y, as every distribution has it",
        ));
    }
    if facts.jit == Some(0) {
        findings.push(Finding::new(
            Id::JitOff,
            "net.core.bpf_jit_enable",
            "it is 0: the kernel interprets the program",
            "each packet costs many times as much",
            "sysctl -w net.core.bpf_jit_enable=1, then lb detach and start the agent: a loaded program stays as it is",
        ));
    }
    if facts.jit_harden == Some(2) {
        findings.push(Finding::new(
            Id::JitHardened,
            "net.core.bpf_jit_harden",
            "it is 2: constants are blinded for root's programs too",
            "each packet costs more",
            "sysctl -w net.core.bpf_jit_harden=1, then restart the agent, which loads its program anew",
        ));
    }
    findings
}

fn privilege(facts: &Facts) -> Option<Finding> {
    let lacking: Vec<String> = facts.lacking.iter().map(|(name, what)| format!("{name} ({what})")).collect();
    (!lacking.is_empty()).then(|| {
        Finding::new(
            Id::NoPrivilege,
            "lb doctor",
            format!("this process lacks {}", lacking.join(", ")),
            "no finding says nothing about what could not be looked at",
            "run it as root: sudo lb doctor",
        )
    })
}

fn disk(disk: &Disk) -> Option<Finding> {
    let effect = "changes by command are refused and health states are not kept, for both are written before they hold";
    let path = disk.path.display();
    if disk.read_only {
        return Some(Finding::new(
            Id::StateReadOnly,
            path,
            "its file system is read-only",
            effect,
            "mount -o remount,rw; dmesg says whether the disk has failed; or lb run --state-dir elsewhere",
        ));
    }
    let what = match disk {
        Disk { bytes, .. } if *bytes < ROOM => format!("{bytes} bytes are left"),
        Disk { inodes: 0, .. } => "no inode is left".to_owned(),
        _ => return None,
    };
    Some(Finding::new(
        Id::DiskFull,
        path,
        format!("{what} on its file system"),
        effect,
        "make room: df -h, df -i",
    ))
}

fn clock(clock: Clock) -> Option<Finding> {
    let Clock { expected, passed, hz } = clock;
    let apart = expected.abs_diff(passed) / u64::from(hz.max(1));
    (apart > APART).then(|| {
        Finding::new(
            Id::ClockApart,
            "flow table",
            format!("since the agent compared them, jiffies and CLOCK_MONOTONIC have gone {apart} s apart"),
            "connections are shown with, and the sweeper ends them at, wrong times",
            "systemctl restart lb: it compares them anew",
        )
    })
}

fn wall_clock(synchronised: bool) -> Option<Finding> {
    (!synchronised).then(|| {
        Finding::new(
            Id::ClockUnsynchronised,
            "CLOCK_REALTIME",
            "the kernel says that nothing synchronises it (adjtimex: STA_UNSYNC; `timedatectl` shows it too)",
            "times in the log, in lb events and in mails go wrong, and checks over TLS may take a certificate for \
             expired; connections, persistence and the times of checks are not concerned: they go by CLOCK_MONOTONIC",
            "an NTP client: timedatectl set-ntp true, or chrony, whose `rtcsync` lets the kernel know",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let disk =
            Disk { path: "/var/lib/lb/default".into(), read_only: false, bytes: 1 << 30, inodes: 1000 };
        let clock = Clock { expected: 1_000_000, passed: 1_000_100, hz: 250 };
        let (jit, jit_harden) = (Some(1), Some(0));
        Facts {
            release: "6.1.0-56-amd64".to_owned(),
            btf: true,
            jit,
            jit_harden,
            lacking: Vec::new(),
            state: Some(disk),
            clock: Some(clock),
            synchronised: Some(true),
        }
    }

    #[track_caller]
    fn finds(facts: Facts, ids: &[Id]) {
        let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{facts:?}");
    }

    #[test]
    fn kernel_settings() {
        finds(facts(), &[]);
        finds(Facts { release: "5.15.0-generic".to_owned(), ..facts() }, &[Id::KernelTooOld]);
        finds(Facts { btf: false, ..facts() }, &[Id::NoBtf]);
        finds(Facts { jit: Some(0), ..facts() }, &[Id::JitOff]);
        finds(Facts { jit_harden: Some(2), ..facts() }, &[Id::JitHardened]);
        finds(Facts { jit: None, jit_harden: None, state: None, clock: None, ..facts() }, &[]);
        finds(Facts { lacking: vec![("CAP_NET_RAW", "asking backends")], ..facts() }, &[Id::NoPrivilege]);
    }

    #[test]
    fn disks() {
        let with = |change: fn(&mut Disk)| {
            let mut facts = facts();
            facts.state.as_mut().map(change).expect("a disk");
            facts
        };
        finds(with(|disk| disk.bytes = 0), &[Id::DiskFull]);
        finds(with(|disk| disk.inodes = 0), &[Id::DiskFull]);
        finds(with(|disk| (disk.read_only, disk.bytes) = (true, 0)), &[Id::StateReadOnly]);
    }

    #[test]
    fn clocks() {
        let with = |expected, passed| Facts { clock: Some(Clock { expected, passed, hz: 250 }), ..facts() };
        finds(with(0, 1250), &[]);
        finds(with(0, 1500), &[Id::ClockApart]);
        finds(with(1500, 0), &[Id::ClockApart]);
        finds(Facts { synchronised: Some(false), ..facts() }, &[Id::ClockUnsynchronised]);
        finds(Facts { synchronised: None, ..facts() }, &[]);
    }
}
