//! `lb run` on a director, and the `lb` command line that talks to it.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use lb::{
    api::types::{BackendView, ServiceView, Stats},
    dataplane::Layout,
};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::{
    config::Config,
    netns::Netns,
    pins,
    proc::{self, Finished, Lifetime, Proc, tail},
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, Seen, eventually},
};

/// Loading and verifying the program takes seconds on a busy machine, and half a minute for each interface in one that a
/// busy machine emulates.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A director's agent with its files. Dropping it detaches: nothing of the instance is left in the kernel.
pub struct Agent {
    netns: Netns,
    instance: String,
    bpffs: PathBuf,
    /// Holds config.yaml, lb.sock, lb.log, state/.
    dir: PathBuf,
    lifetime: Lifetime,
    running: Mutex<Option<Running>>,
}

/// The agent's process, and the socket on which it tells systemd, as it thinks, how it is.
struct Running {
    proc: Proc,
    notify: UnixDatagram,
}

impl Agent {
    /// Writes the configuration and the directories; starts nothing yet.
    pub fn prepare(scope: &Scope, director: &Node, config: &Config) -> Result<Self> {
        Self::prepare_on(scope, director, config, scope.bpffs())
    }

    /// The same with another mount point for the BPF file system; nothing need be mounted there.
    pub fn prepare_on(scope: &Scope, director: &Node, config: &Config, bpffs: PathBuf) -> Result<Self> {
        let dir = scope.dir().join(&config.instance);
        fs::create_dir_all(dir.join("state"))?;
        let agent = Self {
            netns: Netns::open(director.netns.name())?,
            instance: config.instance.clone(),
            bpffs,
            dir,
            lifetime: scope.lifetime(),
            running: Mutex::new(None),
        };
        agent.write_config(&config.to_yaml(&agent.socket()))?;
        Ok(agent)
    }

    /// Runs `lb run` and waits until it says READY=1. Fails with the end of its log if it ends instead.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// [`Agent::start`] with more arguments for `lb run`.
    pub fn start_with(&self, extra: &[&str]) -> Result<()> {
        self.begin(extra)?;
        self.said("READY=1").inspect_err(|_| *self.running() = None)
    }

    /// Starts `lb run` and does not wait.
    pub fn begin(&self, extra: &[&str]) -> Result<()> {
        self.spawn(self.run_command(extra)?)
    }

    fn spawn(&self, mut command: Command) -> Result<()> {
        let notify = self.dir.join("notify.sock");
        // Left by an earlier start, or not there.
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        socket.set_nonblocking(true)?;
        command.env("NOTIFY_SOCKET", &notify);
        let proc = Proc::spawn("lb run", command, &self.log_path(), self.lifetime)?;
        *self.running() = Some(Running { proc, notify: socket });
        Ok(())
    }

    /// Waits until it tells systemd this.
    pub fn said(&self, line: &str) -> Result<()> {
        self.running().as_mut().context("the agent is not running")?.said(line)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running().as_ref().context("the agent is not running")?.proc.signal(signal)
    }

    /// Waits for its end by itself.
    pub fn ended(&self) -> Result<ExitStatus> {
        let mut running = self.running().take().context("the agent is not running")?;
        running.proc.wait(PATIENCE)
    }

    /// SIGHUP, and waits until the agent says that it is done with it.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)?;
        self.said("RELOADING=1")?;
        self.said("READY=1")
    }

    /// Runs an `lb run` that is expected to end by itself soon, refusing its configuration or its surroundings.
    pub fn start_refused(&self, extra: &[&str]) -> Result<String> {
        proc::run_with(self.run_command(extra)?, "", START_LIMIT)?.failed()
    }

    /// The same with a root that may do only what `capabilities` says, as setpriv(1) writes it.
    pub fn start_refused_with(&self, capabilities: &str) -> Result<Finished> {
        proc::run_with(self.run_command_with(capabilities)?, "", START_LIMIT)
    }

    /// [`Agent::start`] by a root that may do only what `capabilities` says, as setpriv(1) writes it.
    pub fn start_with_capabilities(&self, capabilities: &str) -> Result<()> {
        self.spawn(self.run_command_with(capabilities)?)?;
        self.said("READY=1").inspect_err(|_| *self.running() = None)
    }

    fn run_command_with(&self, capabilities: &str) -> Result<Command> {
        let lb = self.run_command(&[])?;
        let mut command = self.netns.command("setpriv")?;
        command.args(["--bounding-set", capabilities]).arg(lb.get_program()).args(lb.get_args());
        Ok(command)
    }

    fn run_command(&self, extra: &[&str]) -> Result<Command> {
        let mut command = self.netns.command(lb_binary()?)?;
        command.args(["run", "--config"]).arg(self.config_path());
        command.arg("--state-dir").arg(self.dir.join("state")).arg("--bpffs").arg(&self.bpffs);
        command.args(extra);
        Ok(command)
    }

    /// Runs `lb --socket SOCKET ARGS` on the director.
    pub fn lb(&self, args: &[&str]) -> Result<Finished> {
        proc::run(self.lb_command(args)?)
    }

    /// `lb --socket SOCKET ARGS`, to be run.
    pub fn lb_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.netns.command(lb_binary()?)?;
        command.arg("--socket").arg(self.socket()).args(args);
        Ok(command)
    }

    /// `lb --socket SOCKET ARGS`, which must fail with this exit code; what it said on stderr.
    pub fn lb_fails(&self, code: i32, args: &[&str]) -> Result<String> {
        let Finished { command, status, stdout, stderr } = self.lb(args)?;
        ensure!(status.code() == Some(code), "`{command}` ended with {status}, not {code}\n{stdout}{stderr}");
        ensure!(stdout.is_empty(), "an answer although it failed: {stdout}");
        Ok(stderr)
    }

    /// `BINARY --socket SOCKET ARGS` as another user of the host, in this group only (numbers).
    pub fn lb_as(&self, (user, group): (u32, u32), binary: &Path, args: &[&str]) -> Result<Finished> {
        let mut command = self.netns.command("setpriv")?;
        command.args([format!("--reuid={user}"), format!("--regid={group}")]).arg("--clear-groups");
        command.arg(binary).arg("--socket").arg(self.socket()).args(args);
        proc::run(command)
    }

    /// `lb --output json ARGS`, which must succeed.
    pub fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let text = self.lb(&[&["--output", "json"], args].concat())?.ok()?;
        serde_json::from_str(&text)
            .with_context(|| format!("`lb --output json {}` printed:\n{text}", args.join(" ")))
    }

    /// `lb service list`
    pub fn services(&self) -> Result<Vec<ServiceView>> {
        self.json(&["service", "list"])
    }

    /// `lb stats`
    pub fn stats(&self) -> Result<Stats> {
        self.json(&["stats"])
    }

    /// One backend of the listing, by its service's name and `ADDRESS:PORT`.
    pub fn backend(&self, service: &str, key: &str) -> Result<BackendView> {
        let services = self.services()?;
        let found = services.iter().find(|s| s.name.to_string() == service);
        let found = found.and_then(|s| s.backends.iter().find(|b| b.key.to_string() == key));
        found.cloned().with_context(|| format!("no backend {key} of {service} in {services:#?}"))
    }

    /// Replaces the configuration file.
    pub fn write_config(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.config_path(), text)?)
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("lb.sock")
    }

    /// The instance's state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state").join(&self.instance)
    }

    /// Where the BPF file system is, or will be, mounted.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Everything that `lb run` has logged, in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Ids of the link that holds the program on an interface, and of the program.
    pub fn link(&self, interface: &str) -> Result<(u32, u32)> {
        let pin = self.pins().join(format!("link_{}", interface.replace('.', "@")));
        let link = FdLink::from(PinnedLink::from_pin(&pin)?).info()?;
        Ok((link.id(), link.program_id()))
    }

    /// What the kernel makes of the instructions of the program on an interface: the same for the same build of it.
    pub fn program_tag(&self, interface: &str) -> Result<u64> {
        loop {
            let (_, id) = self.link(interface)?;
            let programs = aya::programs::loaded_programs().filter_map(|program| program.ok());
            if let Some(program) = programs.into_iter().find(|program| program.id() == id) {
                return Ok(program.tag());
            }
            // It was swapped for another one between the two looks, or something is wrong.
            ensure!(self.link(interface)?.1 != id, "there is no program {id}");
        }
    }

    /// Where the instance's links and maps are pinned.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join("lb").join(&self.instance)
    }

    /// `kill -9`: a crash.
    pub fn kill9(&self) -> Result<()> {
        let mut running = self.running().take().context("the agent is not running")?;
        running.proc.kill9()
    }

    /// SIGTERM, and waits for the end, which must be a success.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.ended()?;
        ensure!(status.success(), "lb run ended with {status} on SIGTERM");
        Ok(())
    }

    /// `lb detach`, with or without a running agent; a running one must end by itself, and no pin may be left.
    pub fn detach(&self) -> Result<()> {
        let running = self.running().take();
        if running.is_none() && !self.pins().exists() {
            return Ok(());
        }
        self.detach_again()?.ok()?;
        if let Some(mut running) = running {
            running.proc.wait(PATIENCE).context("lb run must end after `lb detach`")?;
        }
        ensure!(!self.pins().exists(), "`lb detach` left pins in {}", self.pins().display());
        Ok(())
    }

    /// `lb detach` wherever it leads.
    pub fn detach_again(&self) -> Result<Finished> {
        proc::run(self.detach_command()?)
    }

    fn detach_command(&self) -> Result<Command> {
        let mut command = self.netns.command(lb_binary()?)?;
        command.args(["--instance", &self.instance, "--socket"]).arg(self.socket()).arg("detach");
        command.arg("--state-dir").arg(self.dir.join("state")).arg("--bpffs").arg(&self.bpffs);
        Ok(command)
    }

    /// For a failure report: the log's end, what `lb` says, and what the maps hold.
    pub fn describe(&self, into: &mut String) {
        into.push_str(&format!("--- agent {}, end of its log\n{}\n", self.instance, tail(&self.log(), 80)));
        for args in [&["service", "list"][..], &["backend", "list"], &["stats"], &["conn", "list"]] {
            let text = match self.lb(args) {
                Ok(Finished { stdout, stderr, .. }) => tail(&stdout, 60) + &stderr,
                Err(error) => format!("{error:#}"),
            };
            into.push_str(&format!("--- lb {}\n{text}\n", args.join(" ")));
        }
        let layout = Layout::new(&self.bpffs, &self.instance);
        let maps = pins::describe(&layout).unwrap_or_else(|error| format!("{error:#}\n"));
        into.push_str(&format!("--- maps in {}\n{maps}", layout.maps().display()));
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("lb.log")
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Waits for a line that sd_notify(3) sends.
    fn said(&mut self, line: &str) -> Result<()> {
        let Self { proc, notify } = self;
        eventually(START_LIMIT, &format!("{line} of lb run"), || {
            if received(notify, line)? {
                return Ok(Seen::Yes(()));
            }
            proc.check_alive()?;
            Ok(Seen::NotYet(format!("its log ends:\n{}", tail(&proc.log(), 20))))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The labs check by `detach` themselves; after a failure the scope unmounts the pins in any case.
        if self.lifetime == Lifetime::Guarded {
            let _ = self.detach();
        }
    }
}

/// `lb realserver ACTION VIP...` on a backend, with its record of former values in the lab's directory.
pub fn realserver(scope: &Scope, backend: &Node, action: &str, vips: &[&str]) -> Result<Finished> {
    let mut command = backend.netns.command(lb_binary()?)?;
    command.args(["realserver", action]).args(vips);
    command.arg("--state").arg(scope.dir().join(format!("realserver-{}.json", backend.role)));
    proc::run(command)
}

/// `$LB_BIN`, or `lb` beside this executable (a test runs one directory deeper, in `deps`).
pub fn lb_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LB_BIN") {
        return Ok(path.into());
    }
    let path = build_dir()?.join("lb");
    ensure!(
        path.is_file(),
        "there is no {}: build it (`cargo build -p lb-userspace`) or name another one in LB_BIN",
        path.display()
    );
    Ok(path)
}

/// Cargo's directory of this profile, `target/debug`. A test's executable is one deeper, in `deps`.
pub fn build_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().filter(|dir| !dir.ends_with("deps")).or_else(|| own.parent()?.parent());
    Ok(dir.context("this executable is in no directory")?.to_owned())
}

/// Whether the next message, if there is one, has this line.
fn received(socket: &UnixDatagram, line: &str) -> Result<bool> {
    let mut message = [0; 4096];
    match socket.recv(&mut message) {
        Ok(length) => Ok(String::from_utf8_lossy(&message[..length]).lines().any(|said| said == line)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}
