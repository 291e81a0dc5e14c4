//! The lab: a director, and a backend with many addresses, whose servers accept and close.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use lb::api::{
    client::Client,
    types::{Stats, Status},
};
use lb_tests::{
    agent::Agent,
    config::Config,
    lab::Lab,
    proc,
    scope::Scope,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Runtime, sync::oneshot};

/// The first of those that are listened on.
pub const PORT: u16 = 7000;
pub const PORTS: u16 = 10;
/// The agent's. This program is on the first one.
const CPU: usize = 1;

/// What ends it, and its thread.
type Server = (oneshot::Sender<()>, JoinHandle<Result<Result<()>>>);

pub struct World {
    pub lab: Lab,
    pub addresses: Vec<IpAddr>,
    accepted: Arc<AtomicU64>,
    server: Option<Server>,
    agent: Option<(Arc<Agent>, u32)>,
    runtime: Runtime,
}

pub fn vip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 8, 0, n + 1).into()
}

impl World {
    pub fn build(backends: u8) -> Result<Self> {
        to_the_front(std::process::id())?;
        let lab = Lab::build(Topology::one_segment(1), Scope::unique()?)?;
        let addresses: Vec<IpAddr> = (1..=backends).map(|n| Ipv4Addr::new(10, 9, 0, n).into()).collect();
        lab.net.director.netns.ip("addr add 10.9.255.1/16 dev eth0")?;
        let backend = &lab.net.backends[0].netns;
        backend.ip(&addresses.iter().map(|it| format!("addr add {it}/16 dev eth0\n")).collect::<String>())?;
        let accepted = Arc::<AtomicU64>::default();
        let (stop, stopped) = oneshot::channel();
        let count = accepted.clone();
        let listeners = backend.enter(|| (PORT..PORT + PORTS).map(listen).collect::<Result<Vec<_>>>())??;
        let server = backend.spawn(move || accept(listeners, &count, stopped))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { lab, addresses, accepted, server: Some((stop, server)), agent: None, runtime })
    }

    /// Starts the agent on its CPU, and waits until every check has passed.
    pub fn start(&mut self, vips: &[IpAddr], config: &Config) -> Result<()> {
        self.lab.start_realservers(vips)?;
        let agent = self.lab.start_agent(config)?;
        let pid = agent.json::<Status>(&["status"])?.pid;
        self.agent = Some((agent, pid));
        to_the_front(pid)?;
        for thread in self.threads()? {
            stay_on(thread, CPU)?;
        }
        self.all_pass()
    }

    pub fn reload(&self, config: &Config) -> Result<()> {
        let agent = self.agent()?;
        agent.write_config(&config.to_yaml(&agent.socket()))?;
        agent.hang_up()?;
        self.all_pass()
    }

    fn all_pass(&self) -> Result<()> {
        eventually(PATIENCE, "every check to have passed", || {
            let Status { unhealthy_backends: pending, backends, .. } = self.ask(Client::status)?;
            Ok(if pending == 0 {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{pending} of {backends} not yet"))
            })
        })
    }

    pub fn stop(&mut self) -> Result<()> {
        let Some((agent, _)) = self.agent.take() else { return Ok(()) };
        agent.detach()
    }

    pub fn finish(mut self) {
        if let Some((stop, server)) = self.server.take() {
            // Both have no way to fail but by having ended.
            let _ = (stop.send(()), server.join());
        }
        self.lab.finish();
    }

    pub fn agent(&self) -> Result<&Agent> {
        Ok(&self.agent.as_ref().context("the agent is not running")?.0)
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("the agent is not running")?.1)
    }

    pub fn threads(&self) -> Result<Vec<i32>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()?))?;
        tasks.map(|task| Ok(task?.file_name().to_string_lossy().parse()?)).collect()
    }

    /// Connections that the servers have accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> Result<Stats> {
        self.ask(Client::stats)
    }

    /// Asks the agent on its socket.
    pub fn ask<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        question: impl AsyncFn(&Client) -> Result<T, E>,
    ) -> Result<T> {
        let client = Client::new(self.agent()?.socket());
        Ok(self.runtime.block_on(question(&client))?)
    }
}

/// A process and those of its session, before all that is not urgent: a machine with other work measures that. Nice
/// values count within an autogroup alone (sched(7)), so it is the group that gets one, where there are some.
fn to_the_front(pid: u32) -> Result<()> {
    let group = format!("/proc/{pid}/autogroup");
    if Path::new(&group).exists() {
        return Ok(fs::write(group, "-20")?);
    }
    let mut renice = Command::new("renice");
    renice.args(["-n", "-20", "-p", &pid.to_string()]);
    proc::run(renice)?.ok()?;
    Ok(())
}

pub fn stay_on(thread: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// Does `work` on a thread of the director's, on the agent's CPU.
pub fn on_the_agents_cpu<T: Send>(world: &World, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    world.lab.net.director.netns.enter(|| {
        stay_on(nix::unistd::gettid().as_raw(), CPU)?;
        work()
    })?
}

/// With room for as many as come while this thread has no CPU: that of std is 128.
fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Accepts and closes, as fast as they come.
fn accept(listeners: Vec<TcpListener>, count: &Arc<AtomicU64>, stopped: oneshot::Receiver<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for listener in listeners {
            let (listener, count) = (tokio::net::TcpListener::from_std(listener)?, count.clone());
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // An error means that its sender is gone: as well.
        let _ = stopped.await;
        Ok(())
    })
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((stop, server)) = self.server.take() {
            drop(stop);
            let _: thread::Result<_> = server.join();
        }
    }
}
