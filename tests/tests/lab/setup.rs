//! What most tests begin with: servers that say their name behind one service.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, BackendView, ServiceView, Stats},
    events::{Event, Kind},
};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    netns::Netns,
    topo::{Network, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

/// Port of the servers that say their name.
pub const PORT: u16 = 7000;

/// Where the clients connect.
pub const HELLO: SocketAddr = SocketAddr::new(VIP4, PORT);

/// Name of the service.
pub const SERVICE: &str = "hello";

/// A director in front of servers that say their name.
pub struct HelloLab<'lab> {
    pub agent: Arc<Agent>,
    /// One for each backend of the lab, also for those the service does not have.
    pub servers: Vec<Hello>,
    pub net: &'lab Network,
}

impl<'lab> HelloLab<'lab> {
    /// Servers on every backend; the service has the first `backends` of them, rr, weight 1.
    pub fn start(lab: &'lab Lab, backends: usize) -> Result<Self> {
        Self::start_with(lab, &config(lab, backends))
    }

    /// The same with a configuration of one's own.
    pub fn start_with(lab: &'lab Lab, config: &Config) -> Result<Self> {
        let prepared = Self::prepare(lab, config)?;
        prepared.agent.start()?;
        Ok(prepared)
    }

    /// Everything but the agent's start.
    pub fn prepare(lab: &'lab Lab, config: &Config) -> Result<Self> {
        let servers = lab.net.backends.iter().map(|b| Hello::start(b, PORT)).collect::<Result<_>>()?;
        let mut vips: Vec<_> = config.services.iter().map(|s| s.address).collect();
        vips.dedup();
        lab.start_realservers(&vips)?;
        Ok(Self { agent: lab.prepare_agent(config)?, servers, net: &lab.net })
    }

    pub fn client(&self) -> &Netns {
        &self.net.client().netns
    }

    /// The address by which the service knows the backend `slaveN`.
    pub fn address(&self, n: usize) -> String {
        self.net.backends[n - 1].ipv4().to_string()
    }

    /// `ADDRESS:PORT` of `slaveN`.
    pub fn key(&self, n: usize) -> String {
        format!("{}:{PORT}", self.address(n))
    }
}

/// The service of the first `backends` backends.
pub fn config(lab: &Lab, backends: usize) -> Config {
    Config::on_eth0("lab", vec![service(VIP4, lab.net.backends[..backends].iter().map(|b| b.ipv4()))])
}

/// rr, weights 1.
pub fn service(vip: IpAddr, backends: impl IntoIterator<Item = IpAddr>) -> Service {
    Service::tcp(SERVICE, vip, PORT, backends)
}

/// Waits until a backend is in this state.
pub fn backend_is(agent: &Agent, service: &str, key: &str, state: BackendState) -> Result<()> {
    backend_until(agent, service, key, &format!("{key} to be {state:?}"), |backend| backend.state == state)
}

/// Waits until this is so of a backend.
pub fn backend_until(
    agent: &Agent,
    service: &str,
    key: &str,
    what: &str,
    is_so: impl Fn(&BackendView) -> bool,
) -> Result<()> {
    eventually(PATIENCE, what, || {
        let backend = agent.backend(service, key)?;
        Ok(if is_so(&backend) { Seen::Yes(()) } else { Seen::NotYet(format!("{backend:?}")) })
    })
}

/// Waits until a backend is down, and the reason told.
pub fn backend_is_down(agent: &Agent, service: &str, key: &str, why: &str) -> Result<()> {
    backend_is(agent, service, key, BackendState::Down)?;
    backend_until(agent, service, key, why, |backend| {
        backend.detail.as_deref().unwrap_or_default().contains(why)
    })
}

/// Waits until the backend's check of this number has found this: of several, each has its result by itself.
pub fn check_finds(agent: &Agent, service: &str, key: &str, check: usize, found: &str) -> Result<()> {
    backend_until(agent, service, key, found, |backend| {
        backend.checks.get(check).is_some_and(|it| it.result.as_deref() == Some(found))
    })
}

/// What `lb events` lists.
pub fn events(agent: &Agent) -> Result<Vec<Event>> {
    let listed = agent.lb(&["events", "--last", "1000", "--output", "json"])?.ok()?;
    Ok(listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Waits until `lb events` has one of this kind, and gives the newest.
pub fn happened(agent: &Agent, kind: Kind) -> Result<Event> {
    eventually(PATIENCE, &format!("the event {kind}"), || {
        let events = events(agent)?;
        let found = events.iter().rfind(|event| event.what.kind == kind).cloned();
        Ok(found.map_or_else(|| Seen::NotYet(format!("{events:?}")), Seen::Yes))
    })
}

/// Packets that ended this way.
pub fn verdict(stats: &Stats, name: &str) -> Result<u64> {
    let found = stats.verdicts.iter().find(|verdict| verdict.name == name);
    Ok(found.with_context(|| format!("no verdict {name} in {stats:#?}"))?.packets)
}

/// Waits until so many packets ended this way.
pub fn until_verdict(agent: &Agent, name: &str, packets: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{packets} packets {name}"), || {
        let seen = verdict(&agent.stats()?, name)?;
        Ok(if seen >= packets { Seen::Yes(()) } else { Seen::NotYet(format!("{seen}")) })
    })
}

/// What an operator has decided: everything of a listing that traffic does not change.
pub fn decided(services: &[ServiceView]) -> Vec<ServiceView> {
    let mut services = services.to_vec();
    for service in &mut services {
        service.counters = Default::default();
        for backend in &mut service.backends {
            (backend.active, backend.inactive, backend.counters) = (0, 0, Default::default());
        }
    }
    services
}

/// All `words` are in the text, which is one paragraph of an error and no panic.
pub fn said(error: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<_> = words.iter().filter(|word| !error.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in the error:\n{error}");
    ensure!(!error.contains("panicked"), "{error}");
    Ok(())
}

/// Waits until a device has no XDP program: when the last descriptor of a link is closed, the kernel takes the program
/// off in a worker of its own (`bpf_link_put`).
pub fn until_no_program(netns: &Netns, device: &str) -> Result<()> {
    eventually(PATIENCE, &format!("{device} to have no XDP program"), || {
        let left = xdp_program_of(netns, device)?;
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(left) })
    })
}

/// What `ip -d link` says about the XDP program of eth0; empty if there is none.
pub fn xdp_program(netns: &Netns) -> Result<String> {
    xdp_program_of(netns, "eth0")
}

/// The same of another device.
pub fn xdp_program_of(netns: &Netns, device: &str) -> Result<String> {
    let link = netns.run("ip", &["-d", "link", "show", "dev", device])?.ok()?;
    Ok(link.lines().filter(|line| line.contains("prog/xdp")).collect())
}
