//! Running commands: echoed, without stdin, within a time limit.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock::Stopwatch;
use crate::processes;
use crate::repo;
use crate::sys;

/// Set for every command that we run, to our process id: whatever still carries it afterwards is ours.
pub const RUN_MARK: &str = "LB_XTASK_RUN";

/// No command of ours takes longer than this on the slowest machine that we know.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// How long an interrupted command may clean up before it is killed.
const GRACE: Duration = Duration::from_secs(20);
/// How long the output of a command that has ended may still be coming.
const DRAIN: Duration = Duration::from_secs(3);
/// For a shell: as long as a user may stay in it.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A command to run in the workspace's root.
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(String, OsString)>,
    dir: PathBuf,
    /// None: interactive.
    limit: Option<Duration>,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_owned();
        Self { program, args: Vec::new(), envs: Vec::new(), dir: repo::root().to_owned(), limit: Some(LIMIT) }
    }

    /// `cargo` through rustup's proxy (not `$CARGO`, which knows no `+toolchain`).
    pub fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::new("cargo").args(args)
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs elsewhere than in the workspace's root.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    /// After this time the command is interrupted, then killed with all its descendants.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Keeps our stdin and waits for ever: for a shell.
    pub fn interactive(mut self) -> Self {
        self.limit = None;
        self
    }

    /// Runs it in sight of the user and fails if it fails.
    pub fn run(self) -> Result<()> {
        let shown = self.to_string();
        match self.status()? {
            status if status.success() => Ok(()),
            status => bail!("`{shown}` failed: {status}"),
        }
    }

    /// Runs it in sight of the user.
    pub fn status(self) -> Result<ExitStatus> {
        self.echo();
        let child = self.spawn(Stdio::inherit(), Stdio::inherit())?;
        self.wait(child, None, |_| ())
    }

    /// Runs it, both its outputs line by line through `each`, which prints what it wants seen. One pipe for
    /// both keeps their order; and ours stay closed to a process that outlives the command.
    pub fn lines(self, each: impl FnMut(&str)) -> Result<ExitStatus> {
        self.echo();
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let copy = writer.try_clone().context("cannot make a pipe")?;
        let child = self.spawn(copy.into(), writer.into())?;
        self.wait(child, Some(reader), each)
    }

    /// Runs it quietly and returns what it prints; stderr goes into the error.
    pub fn output(self) -> Result<String> {
        let child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let output = child.wait_with_output().with_context(|| format!("cannot wait for `{self}`"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`{self}` failed: {}: {}", output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn echo(&self) {
        eprintln!("+ {self}");
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).stdout(stdout).stderr(stderr);
        // `cargo run` set these for xtask; an inner cargo would take them for a change and build anew.
        for (key, _) in env::vars_os() {
            if key
                .to_str()
                .is_some_and(|key| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| key.starts_with(own)))
            {
                command.env_remove(key);
            }
        }
        if io::stderr().is_terminal() {
            // cargo cannot see the terminal through a pipe of ours.
            command.env("CARGO_TERM_COLOR", "always");
        }
        command.env(RUN_MARK, std::process::id().to_string());
        command.envs(self.envs.iter().map(|(key, value)| (key, value)));
        if self.limit.is_some() {
            command.stdin(Stdio::null());
        }
        command.spawn().with_context(|| format!("cannot start `{self}`"))
    }

    fn wait(
        &self,
        mut child: Child,
        output: Option<PipeReader>,
        mut each: impl FnMut(&str),
    ) -> Result<ExitStatus> {
        let pid = child.id();
        let (sender, events) = mpsc::channel();
        let mut open = output.map(|output| read_lines(output, sender.clone())).is_some();
        thread::spawn(move || sender.send(Event::Exited(child.wait())));
        let watch = Stopwatch::start();
        let mut stopping = None;
        let mut exited = None;
        while open || exited.is_none() {
            let patience = match (&exited, &stopping) {
                (Some(_), _) => DRAIN,
                (None, Some(since)) => GRACE.saturating_sub(Stopwatch::elapsed(since)),
                (None, None) => self.limit.unwrap_or(FOR_EVER).saturating_sub(watch.elapsed()),
            };
            match events.recv_timeout(patience) {
                Ok(Event::Line(line)) => each(&line),
                Ok(Event::End) => open = false,
                Ok(Event::Exited(status)) => exited = Some(status),
                // Its own descendants outlive it and hold its output; the check for what is left names them.
                Err(_) if exited.is_some() => break,
                Err(_) if stopping.is_none() => {
                    eprintln!("xtask: `{self}` reached its time limit, interrupting it");
                    signal_family(pid, libc::SIGINT);
                    stopping = Some(Stopwatch::start());
                }
                Err(_) => signal_family(pid, libc::SIGKILL),
            }
        }
        if stopping.is_some() {
            bail!("`{self}` was stopped: it took longer than {} s", self.limit.unwrap_or(FOR_EVER).as_secs());
        }
        match exited {
            Some(status) => status.with_context(|| format!("cannot wait for `{self}`")),
            None => bail!("`{self}` was lost"),
        }
    }
}

enum Event {
    Line(String),
    /// The output is at its end.
    End,
    Exited(io::Result<ExitStatus>),
}

fn read_lines(output: PipeReader, events: Sender<Event>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if events.send(Event::Line(line.trim_end_matches('\r').to_owned())).is_err() {
                return;
            }
        }
        // Nobody listens any more: then nobody needs to know.
        let _ = events.send(Event::End);
    });
}

/// Signals `pid`, its descendants, and what carries our mark: orphans are nobody's descendants.
fn signal_family(pid: u32, signal: libc::c_int) {
    let own = std::process::id();
    let marked =
        processes::marked().into_iter().filter(|process| process.run == own).map(|process| process.pid);
    let family: BTreeSet<u32> = processes::descendants(pid).into_iter().chain(marked).chain([pid]).collect();
    family.into_iter().for_each(|member| sys::kill(member, signal));
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}
