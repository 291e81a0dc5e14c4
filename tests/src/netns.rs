//! Named network namespaces (`ip netns list` shows them) and running things inside them.
//!
//! A child enters with setns(2) between fork and exec, not through `ip netns exec`: that one makes a new mount
//! namespace with a fresh /sys, where pinned BPF objects are invisible.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, sethostname},
};

use crate::proc::{self, Finished, Lifetime};
use crate::wait::PATIENCE;

/// Where iproute2 keeps the names.
const NETNS_DIR: &str = "/run/netns";

/// A namespace; dropping it kills what still runs inside and deletes it, unless it was made to be kept.
pub struct Netns {
    name: String,
    handle: File,
    lifetime: Lifetime,
}

impl Netns {
    /// Makes the namespace, with `lo` up. Fails if the name is taken.
    pub fn create(name: &str, lifetime: Lifetime) -> Result<Self> {
        let mut add = Command::new("ip");
        add.args(["netns", "add", name]);
        proc::run(add)?.ok()?;
        let made = Self { name: name.to_owned(), handle: File::open(path_of(name))?, lifetime };
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// Opens an existing one; dropping it then changes nothing.
    pub fn open(name: &str) -> Result<Self> {
        let handle = File::open(path_of(name)).with_context(|| format!("no network namespace {name}"))?;
        Ok(Self { name: name.to_owned(), handle, lifetime: Lifetime::Kept })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether what is started inside should end with its guard.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let handle = self.handle.try_clone()?;
        let mut command = Command::new(program);
        let hook = move || setns(&handle, CloneFlags::CLONE_NEWNET).map_err(Into::into);
        // SAFETY: the hook makes one system call on a file that it owns, which is async-signal-safe.
        unsafe { command.pre_exec(hook) };
        Ok(command)
    }

    /// Runs a program inside, to its end.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Result<Finished> {
        let mut command = self.command(program)?;
        command.args(args);
        proc::run(command).with_context(|| format!("in {}", self.name))
    }

    /// Runs `ip -batch` inside: one iproute2 command per line of `batch`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut command = self.command("ip")?;
        command.args(["-batch", "-"]);
        let ran = proc::run_with(command, batch, PATIENCE).and_then(Finished::ok);
        ran.with_context(|| format!("in {}, the batch was:\n{batch}", self.name))?;
        Ok(())
    }

    /// Writes a setting below /proc/sys/net, `ipv4/conf/all/arp_ignore`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value).with_context(|| format!("{} := {value}", path.display())))?
    }

    /// Runs `work` on a thread inside and waits for it. Sockets made there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }

    /// Starts a thread that lives inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let handle = self.handle.try_clone()?;
        Ok(thread::spawn(move || {
            setns(&handle, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        }))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Guarded
            && let Err(error) = delete(&self.name)
        {
            eprintln!("could not delete network namespace {}: {error:#}", self.name);
        }
    }
}

/// Gives the child a host name of its own, as a real server on a host of its own would have.
pub fn with_hostname(command: &mut Command, hostname: &str) {
    let hostname = hostname.to_owned();
    let hook = move || {
        unshare(CloneFlags::CLONE_NEWUTS)?;
        Ok(sethostname(&hostname)?)
    };
    // SAFETY: two system calls on a string made before the fork; both are async-signal-safe.
    unsafe { command.pre_exec(hook) };
}

/// Names of the existing namespaces that begin with `prefix`.
pub fn names(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| n.starts_with(prefix)).collect()
}

/// Kills what runs in the namespace and removes its name. Gone already is success.
pub fn delete(name: &str) -> Result<()> {
    let path = path_of(name);
    let Ok(namespace) = fs::metadata(&path) else { return Ok(()) };
    for pid in pids_in(&namespace) {
        // It may have ended since; then there is nothing to kill.
        let _ = kill(pid, Signal::SIGKILL);
    }
    // A name whose namespace is not mounted any more is only a file.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Processes inside, never this one (one of its threads may be inside, which is its own business).
fn pids_in(namespace: &fs::Metadata) -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    let inside = pids.filter(|pid| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|seen| seen.ino() == namespace.ino() && seen.dev() == namespace.dev())
    });
    inside.map(|pid| Pid::from_raw(pid.cast_signed())).collect()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}
