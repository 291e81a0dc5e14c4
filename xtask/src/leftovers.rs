//! What a lab could leave behind: found by its name, compared with what was there before the run.
//!
//! A lab of lb-tests called `lb<pid>-<n>` (or `lb-lab`, the developer's) owns the namespaces
//! `<lab>-<role>` and the directory `lb-labs/<lab>` with a BPF file system of its own in it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::Stopwatch;
use crate::cmd::Cmd;
use crate::processes;
use crate::sys;

pub const NETNS_DIR: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";
/// A killed process is gone when its memory is unmapped; the kernel does not need longer for that.
const DYING: Duration = Duration::from_secs(5);

/// One thing that a lab or an agent left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    Directory(PathBuf),
    Interface(String),
    Mount(PathBuf),
    Namespace(String),
    /// All pins of one instance: its directory.
    Pin(PathBuf),
    Process {
        pid: u32,
        command: String,
    },
}

/// What was there before a run that has to leave everything as it was.
pub struct Before {
    found: BTreeSet<Leftover>,
    bpffs_was_mounted: bool,
}

impl Before {
    pub fn look() -> Self {
        Self { found: things(), bpffs_was_mounted: is_mounted(Path::new(BPFFS)) }
    }

    /// Fails, naming each thing that is there now and was not before.
    pub fn compare(&self) -> Result<()> {
        self.unmount_bpffs()?;
        let watch = Stopwatch::start();
        let mut left = self.new_things();
        // Only processes go away by themselves.
        while left.iter().any(|it| matches!(it, Leftover::Process { .. })) && watch.elapsed() < DYING {
            std::thread::sleep(Duration::from_millis(20));
            left = self.new_things();
        }
        if left.is_empty() {
            return Ok(());
        }
        for thing in &left {
            println!("left behind: {thing}");
            if let Leftover::Process { pid, .. } = thing {
                // Named it is; alive it would hold our caller's output open.
                sys::kill(*pid, libc::SIGKILL);
            }
        }
        bail!("{} things are left behind (named above); `cargo xtask clean` removes them", left.len())
    }

    fn new_things(&self) -> Vec<Leftover> {
        let own = std::process::id();
        let processes = processes::marked().into_iter().filter(|process| process.run == own);
        let processes = processes.map(|it| Leftover::Process { pid: it.pid, command: it.command });
        things().difference(&self.found).cloned().chain(processes).collect()
    }

    /// An agent that finds no BPF file system mounts one, as it should; then taking it away again is
    /// the part of whoever started that agent. Pins in it keep it, and are reported.
    fn unmount_bpffs(&self) -> Result<()> {
        let empty = fs::read_dir(BPFFS).is_ok_and(|mut entries| entries.next().is_none());
        if self.bpffs_was_mounted || !is_mounted(Path::new(BPFFS)) || !empty {
            return Ok(());
        }
        eprintln!("xtask: {BPFFS} was not mounted before this run: unmounting it");
        Cmd::new("umount").arg(BPFFS).run()
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "directory {}", path.display()),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Namespace(name) => write!(f, "network namespace {name}"),
            Self::Pin(path) => write!(f, "BPF pins {}", path.display()),
            Self::Process { pid, command } => write!(f, "process {pid}: {command}"),
        }
    }
}

/// Every lab namespace, directory, mount, interface and pin on this machine, except those of labs
/// whose process still runs: somebody else's test run.
pub fn things() -> BTreeSet<Leftover> {
    let namespaces = names(Path::new(NETNS_DIR)).filter(|name| is_ours(name)).map(Leftover::Namespace);
    let interfaces = names(Path::new("/sys/class/net")).filter(|name| is_ours(name)).map(Leftover::Interface);
    let bases = ["/dev/shm/lb-labs", "/tmp/lb-labs"].map(PathBuf::from);
    let labs = bases.iter().flat_map(|base| {
        names(base).filter(|name| is_ours(name)).map(|name| Leftover::Directory(base.join(name)))
    });
    let mounts = mounts().into_iter().filter(|mount| {
        let lab =
            bases.iter().find_map(|base| mount.strip_prefix(base).ok()).and_then(|rest| rest.iter().next());
        lab.is_some_and(|name| is_ours(&name.to_string_lossy()))
    });
    let mounts = mounts.map(Leftover::Mount);
    let instances = Path::new(BPFFS).join("lb");
    let pins = names(&instances).map(|name| Leftover::Pin(instances.join(name)));
    namespaces.chain(interfaces).chain(labs).chain(mounts).chain(pins).collect()
}

/// Names of labs are `lb-...`, or `lb<pid>-...` and then in use while that process lives.
/// Nothing shorter: a host may well have a bridge called lbr0.
fn is_ours(name: &str) -> bool {
    let Some((owner, _)) = name.strip_prefix("lb").and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let is_dead = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    owner.is_empty() || owner.parse().is_ok_and(is_dead)
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn is_mounted(point: &Path) -> bool {
    mounts().iter().any(|mount| mount == point)
}

/// proc(5), mountinfo: field 5 is the mount point.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_labs_without_a_living_process() {
        let living = format!("lb{}-1-client", std::process::id());
        assert!(!is_ours(&living));
        // Beyond PID_MAX_LIMIT (2^22): never a living process.
        for name in ["lb99999999-1-client", "lb-lab-director"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["lo", "eth0", "lbr0", "lbr0-up", "lb99999999"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
    }
}
