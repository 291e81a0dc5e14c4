//! Child processes that cannot outlive their guard, and commands that cannot hang.
//!
//! Children get a process group of their own, so that a Ctrl-C at the terminal reaches only us and we decide the
//! order of the taking down, and a parent-death signal, so that even `kill -9` of the harness leaves none behind.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill, killpg},
    },
    unistd::Pid,
};

use crate::wait::{PATIENCE, Seen, eventually};

/// Whether what is started ends with its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Killed when the guard is dropped or this process dies.
    Guarded,
    /// Left running; [`crate::scope::teardown`] ends it.
    Kept,
}

/// A running child.
pub struct Proc {
    name: String,
    child: Child,
    log: PathBuf,
    lifetime: Lifetime,
}

/// What a command that has ended left behind.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Proc {
    /// Starts `command`; both its outputs are appended to the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path, lifetime: Lifetime) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdout(out.try_clone()?).stderr(out);
        prepare(&mut command, lifetime);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), lifetime })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard input, if it was started with a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Everything written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails, with the end of the log, if the child has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended ({status}); its log ends:\n{}", self.name, tail(&self.log(), 40))
            }
        }
    }

    /// Sends `signal` to the child alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(group(&self.child), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// SIGKILL to the child alone, as a crash would be, and waits for its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the child to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let Self { name, child, log, .. } = self;
        wait_child(child, limit, name).with_context(|| {
            format!("its log ends:\n{}", tail(&fs::read_to_string(log).unwrap_or_default(), 40))
        })
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Guarded {
            end_group(&mut self.child);
        }
    }
}

/// Runs `command` to its end and captures its outputs; kills it and fails after [`PATIENCE`].
pub fn run(command: Command) -> Result<Finished> {
    run_with(command, "", PATIENCE)
}

/// [`run`] with `input` on standard input (it must fit a pipe, 64 KiB) and a limit of its own.
pub fn run_with(mut command: Command, input: &str, limit: Duration) -> Result<Finished> {
    let text = shown(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command, Lifetime::Guarded);
    let mut child = command.spawn().with_context(|| format!("cannot start {text}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let readers = [out.map(|o| thread::spawn(|| slurp(o))), err.map(|e| thread::spawn(|| slurp(e)))];
    let ended = wait_child(&mut child, limit, &text);
    if ended.is_err() {
        end_group(&mut child);
    }
    let [stdout, stderr] = readers.map(|r| r.and_then(|r| r.join().ok()).unwrap_or_default());
    let status = ended.with_context(|| format!("it had printed:\n{stdout}{stderr}"))?;
    Ok(Finished { command: text, status, stdout, stderr })
}

impl Finished {
    /// Standard output of a command that must have succeeded.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}` failed ({})\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }

    /// Standard error of a command that must have failed by itself, not by a signal.
    pub fn failed(self) -> Result<String> {
        match self.status.code() {
            Some(0) => {
                bail!("`{}` succeeded but should have failed; it printed:\n{}", self.command, self.stdout)
            }
            Some(_) => Ok(self.stderr),
            None => bail!("`{}` was killed ({})\n{}", self.command, self.status, self.stderr),
        }
    }
}

/// Lets this process have as many files and sockets as it may: a thousand connections of both sides need more than
/// the 1,024 that most shells begin with.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The last `lines` lines.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn prepare(command: &mut Command, lifetime: Lifetime) {
    command.process_group(0);
    if lifetime == Lifetime::Guarded {
        die_with_parent(command);
    }
}

/// Note that the signal comes when the spawning *thread* ends, so guards stay on the thread that made them.
fn die_with_parent(command: &mut Command) {
    let hook = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into);
    // SAFETY: the hook makes one system call, which is async-signal-safe, and touches no memory of the parent.
    unsafe { command.pre_exec(hook) };
}

fn wait_child(child: &mut Child, limit: Duration, name: &str) -> Result<ExitStatus> {
    eventually(limit, &format!("the end of {name}"), || {
        Ok(match child.try_wait()? {
            Some(status) => Seen::Yes(status),
            None => Seen::NotYet("still running".to_owned()),
        })
    })
}

fn end_group(child: &mut Child) {
    // Both fail only when there is nothing left to kill or to reap.
    let _ = killpg(group(child), Signal::SIGKILL);
    let _ = child.wait();
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn slurp(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is still worth showing.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
