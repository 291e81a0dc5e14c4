//! The lab, and the configurations that the agent gets.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use lb::api::types::Status;
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    scope::Scope,
    topo::{Segment, Topology},
};

pub const SERVICES: u16 = 4096;
pub const BACKENDS: u8 = 16;
/// Hosts of their own for the backends. The kernel's table of neighbours holds 1,024, of the whole machine, unless it
/// is told otherwise (`gc_thresh3`).
pub const HOSTS: u16 = 768;
/// Addresses that are all one host's.
const ADDRESSES: u8 = 101;
/// Services of one VIP.
const PORTS: u16 = 32;
pub const PORT: u16 = 7000;
const LIMITS: &str = "limits: {services: 8192, destinations: 131072}\nservices:\n";

pub struct World {
    lab: Lab,
    pub agent: Arc<Agent>,
    pub addresses: Vec<IpAddr>,
    /// Behind the first service's port, and behind the last one's.
    servers: [Hello; 2],
}

impl World {
    pub fn build() -> Result<Self> {
        let lab = Lab::build(Topology::one_segment(1), Scope::unique()?)?;
        lab.net.director.netns.ip("addr add 10.9.255.1/16 dev eth0")?;
        let backend = &lab.net.backends[0];
        let addresses: Vec<IpAddr> = (1..=ADDRESSES).map(|n| Ipv4Addr::new(10, 9, 0, n).into()).collect();
        backend.netns.ip(&own(addresses.iter()))?;
        let ends = [endpoint(0), endpoint(SERVICES - 1)];
        let servers = [Hello::start(backend, ends[0].port())?, Hello::start(backend, ends[1].port())?];
        lab.start_realservers(&ends.map(|end| end.ip()))?;
        // The client knows where the VIPs are before they are there: what is measured is the director alone.
        let director = lab.net.director.link(Segment::Front).mac.clone();
        for end in ends {
            let vip = end.ip();
            let way = format!(
                "route add {vip} dev eth0\nneigh add {vip} lladdr {director} dev eth0 nud permanent\n"
            );
            lab.net.client().netns.ip(&way)?;
        }
        let agent = lab.prepare_agent(&Config::on_eth0("lab", Vec::new()))?;
        Ok(Self { lab, agent, addresses, servers })
    }

    /// Backends of hosts of their own, of which one of so many is not there.
    pub fn hosts(&self, dead: usize) -> Result<Vec<IpAddr>> {
        let host = |number: u16| -> IpAddr {
            let [high, low] = (256 + number).to_be_bytes();
            Ipv4Addr::new(10, 9, high, low).into()
        };
        let hosts: Vec<IpAddr> = (0..HOSTS).map(host).collect();
        let there = hosts.iter().enumerate().filter(|(n, _)| n % dead != 0).map(|(_, address)| address);
        self.lab.net.backends[0].netns.ip(&own(there))?;
        Ok(hosts)
    }

    pub fn small(&self, services: u16, backends: usize) -> Config {
        config((0..services).map(|n| service(n, &self.addresses[..backends], 1)))
    }

    /// `weight` is that of the first service's first backend; of the others it is 1.
    pub fn large(&self, weight: u16, addresses: &[IpAddr]) -> Config {
        let some = |n: u16| {
            let first = usize::from(n) % (addresses.len() - usize::from(BACKENDS));
            let mine = &addresses[first..first + usize::from(BACKENDS)];
            service(n, mine, if n == 0 { weight } else { 1 })
        };
        config((0..SERVICES).map(some))
    }

    pub fn write(&self, config: &Config) -> Result<()> {
        let yaml = config.to_yaml(&self.agent.socket());
        self.agent.write_config(&yaml.replacen("services:\n", LIMITS, 1))
    }

    /// Takes the agent down, with what was changed by command: it is not to come again.
    pub fn detach(&self) -> Result<()> {
        self.agent.detach()?;
        Ok(fs::remove_dir_all(self.agent.state())?)
    }

    pub fn status(&self) -> Result<Status> {
        self.agent.json(&["status"])
    }

    /// Does it where the client is.
    pub fn as_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.lab.net.client().netns.enter(work)
    }

    /// Whether a backend has accepted a connection of this client's.
    pub fn has_accepted(&self, client: SocketAddr) -> bool {
        self.servers.iter().any(|server| server.accepted().iter().any(|it| same(it, &client)))
    }

    pub fn finish(mut self) {
        drop(self.servers);
        self.lab.finish();
    }
}

/// A listener of both families says `::ffff:` before an IPv4 address.
fn same(accepted: &SocketAddr, client: &SocketAddr) -> bool {
    (accepted.ip().to_canonical(), accepted.port()) == (client.ip(), client.port())
}

fn own<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses.map(|address| format!("addr add {address}/16 dev eth0\n")).collect()
}

/// Of the service with this number.
pub fn endpoint(number: u16) -> SocketAddr {
    let [high, low] = (number / PORTS).to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, 8, high, low + 1).into(), port(number))
}

pub fn port(number: u16) -> u16 {
    PORT + number % PORTS
}

pub fn name(number: u16) -> String {
    format!("s{number}")
}

/// Weight is the first backend's.
fn service(number: u16, addresses: &[IpAddr], weight: u16) -> Service {
    let at = endpoint(number);
    let mut service = Service::tcp(&name(number), at.ip(), at.port(), addresses.iter().copied());
    service.backends[0].1 = weight;
    service
}

fn config(services: impl Iterator<Item = Service>) -> Config {
    Config::on_eth0("lab", services.collect())
}
