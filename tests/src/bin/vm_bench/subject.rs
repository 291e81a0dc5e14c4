//! What stands in the director's place, one after the other.

use std::{fs, net::Ipv4Addr, ops::Sub};

use anyhow::{Result, ensure};
use lb_tests::{agent::Agent, config::Config, netns::Netns, topo::Node, xdp_pass};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::{
    bare::Bare,
    lab::{BACKENDS, ETH1_MAC, Lab, PORT, SINK_MAC, VIP, received},
    measure::Feed,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bare XDP drop.
    Drop,
    /// New MACs and a redirect, in XDP.
    Rewrite,
    Lb,
    /// The kernel as a router.
    Forward,
    Ipvs,
    /// With GRO off on the director's interface, which saves it the search for packets to merge.
    IpvsWithoutGro,
}

/// A director that does one thing.
pub struct Subject<'a> {
    kind: Kind,
    lab: &'a Lab,
    holds: Holds,
}

enum Holds {
    Nothing,
    #[expect(dead_code, reason = "dropping it takes the program off")]
    Program(Bare),
    Agent(Agent),
}

/// What was seen to be done.
#[derive(Clone, Copy)]
pub struct Done {
    /// Packets that came to the sink, or to the director if it drops them.
    pub packets: u64,
    /// Connections that were opened.
    pub connections: u64,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Drop, Self::Rewrite, Self::Lb, Self::Forward, Self::Ipvs, Self::IpvsWithoutGro];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "bare XDP drop",
            Self::Rewrite => "bare MAC rewrite and redirect",
            Self::Lb => "lb",
            Self::Forward => "kernel forwarding",
            Self::Ipvs => "IPVS, DR, rr",
            Self::IpvsWithoutGro => "IPVS, DR, rr, without GRO",
        }
    }

    /// Whom packets are for.
    pub fn address(self) -> Ipv4Addr {
        if self == Self::Forward { BACKENDS[0] } else { VIP }
    }

    /// Whether it knows connections.
    pub fn is_balancer(self) -> bool {
        self == Self::Lb || self.is_ipvs()
    }

    fn is_ipvs(self) -> bool {
        matches!(self, Self::Ipvs | Self::IpvsWithoutGro)
    }
}

impl<'a> Subject<'a> {
    pub fn start(kind: Kind, lab: &'a Lab) -> Result<Self> {
        let holds = match kind {
            Kind::Drop => Holds::Program(Bare::drop_on(&lab.director, "eth0")?),
            Kind::Rewrite => {
                Holds::Program(Bare::rewrite(&lab.director, "eth0", "eth1", SINK_MAC, ETH1_MAC)?)
            }
            Kind::Lb => Holds::Agent(lb(lab)?),
            Kind::Forward => Holds::Nothing,
            Kind::Ipvs => ipvs(lab)?,
            Kind::IpvsWithoutGro => ipvs(lab)?,
        };
        Ok(Self { kind, lab, holds })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Before packets come in this way.
    pub fn expect(&self, feed: Feed) -> Result<()> {
        if self.kind != Kind::IpvsWithoutGro {
            return Ok(());
        }
        let Lab { director, scope, .. } = self.lab;
        match feed {
            // A veth without GRO takes redirected frames only if it has a program.
            Feed::Frames => xdp_pass::attach(director, "eth0", &scope.bpffs(), "pass", &xdp_pass::PASS)?,
            // For which skbs would be copied.
            Feed::Skbs => xdp_pass::detach(director, "eth0")?,
        }
        set_gro(self.lab, "off")
    }

    /// Does something while only the kernel works: no agent's timers.
    pub fn quietly<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Holds::Agent(agent) = &self.holds else { return work() };
        agent.signal(Signal::SIGSTOP)?;
        let outcome = work();
        agent.signal(Signal::SIGCONT)?;
        outcome
    }

    /// Since ever.
    pub fn done(&self) -> Result<Done> {
        let Lab { director, sink, .. } = self.lab;
        let packets = match self.kind {
            Kind::Drop => received(director, "eth0")?,
            _ => received(sink, "eth0")?,
        };
        let connections = match &self.holds {
            Holds::Agent(agent) => agent.stats()?.total.connections,
            _ if self.kind.is_ipvs() => ipvs_connections(director)?,
            _ => 0,
        };
        Ok(Done { packets, connections })
    }

    pub fn end(self) -> Result<()> {
        if let Holds::Agent(agent) = self.holds {
            return agent.detach();
        }
        if self.kind.is_ipvs() {
            self.lab.director.run("ipvsadm", &["-C"])?.ok()?;
        }
        if self.kind == Kind::IpvsWithoutGro {
            set_gro(self.lab, "on")?;
        }
        Ok(())
    }
}

impl Sub for Done {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let (packets, connections) = (self.packets - before.packets, self.connections - before.connections);
        Self { packets, connections }
    }
}

/// The agent and its program, as an operator would start it.
fn lb(lab: &Lab) -> Result<Agent> {
    let director =
        Node { role: "director".to_owned(), netns: Netns::open(lab.director.name())?, links: Vec::new() };
    let agent = Agent::prepare(&lab.scope, &director, &Config::on_eth0("bench", Vec::new()))?;
    let [first, second] = BACKENDS;
    let socket = agent.socket();
    // Without a guard: a new flow for every packet would be called a flood, and cost less.
    agent.write_config(&format!(
        "instance: bench\n\
         interfaces: [{{name: eth0, mode: native}}, {{name: eth1, mode: native}}]\n\
         flows: {{ipv4: 1M, wide: 16k}}\n\
         control: {{socket: {}}}\n\
         services:\n  - {{name: bench, address: {VIP}, port: {PORT}, protocol: udp, scheduler: rr, persistence: 0,\n     \
         guard: off, backends: [{{address: {first}}}, {{address: {second}}}]}}\n",
        socket.display()
    ))?;
    agent.start()?;
    Ok(agent)
}

/// Direct routing, round robin, connection tracking off as it is by default: IPVS's cheapest way.
fn ipvs(lab: &Lab) -> Result<Holds> {
    let service = format!("{VIP}:{PORT}");
    let ipvsadm = |args: &[&str]| lab.director.run("ipvsadm", args)?.ok();
    ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
    for backend in BACKENDS {
        ipvsadm(&["-a", "-u", &service, "-r", &format!("{backend}:{PORT}"), "-g"])?;
    }
    Ok(Holds::Nothing)
}

fn set_gro(lab: &Lab, to: &str) -> Result<()> {
    lab.director.run("ethtool", &["-K", "eth0", "gro", to])?.ok()?;
    Ok(())
}

/// Lines `CPU CONNECTIONS ..` in hexadecimal, below two of headings. What follows the CPUs, and `ip_vs_stats`, are the
/// estimator's totals, up to two seconds old.
fn ipvs_connections(director: &Netns) -> Result<u64> {
    let text = director.enter(|| fs::read_to_string("/proc/thread-self/net/ip_vs_stats_percpu"))??;
    let of_cpu = |line: &str| {
        let mut words = line.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok());
        words.next()??;
        words.next()?
    };
    let connections: Vec<_> = text.lines().skip(2).map_while(of_cpu).collect();
    ensure!(!connections.is_empty(), "no CPU in\n{text}");
    Ok(connections.iter().sum())
}
