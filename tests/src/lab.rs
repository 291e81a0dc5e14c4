//! A lab as the tests see it: the network, the agents on it, and the report when something fails.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::{
    agent::{self, Agent},
    capture::Capture,
    config::Config,
    scope::Scope,
    topo::{Network, Node, Topology},
};

/// Everything of one test. Dropping it takes all down; dropping it unfinished prints the report first.
pub struct Lab {
    // In the order of their taking down.
    agents: Mutex<Vec<Arc<Agent>>>,
    /// Nodes in the order of [`Network::nodes`], then the switch.
    captures: Mutex<Vec<Capture>>,
    pub net: Network,
    pub scope: Scope,
    finished: bool,
}

impl Lab {
    /// Runs a test in a lab of its own. Its error, or a panic, fails the test after the report.
    ///
    /// # Panics
    /// If the lab cannot be built, the test fails, or it leaves pins behind.
    pub fn test(topology: Topology, body: impl FnOnce(&Self) -> Result<()>) {
        let mut lab = Scope::unique().and_then(|scope| Self::build(topology, scope)).expect("build the lab");
        if Capture::wanted() {
            lab.record().expect("record the lab's packets");
        }
        let outcome = body(&lab).and_then(|()| lab.detach_agents());
        lab.finished = outcome.is_ok();
        drop(lab);
        if let Err(error) = outcome {
            panic!("{error:?}");
        }
    }

    /// A lab for the bins, which tell themselves what failed.
    pub fn build(topology: Topology, scope: Scope) -> Result<Self> {
        let net = topology.build(&scope)?;
        Ok(Self { agents: Mutex::default(), captures: Mutex::default(), net, scope, finished: false })
    }

    /// Records what every node sees, for the report. The switch too: what XDP sends again never shows on the
    /// director itself.
    fn record(&self) -> Result<()> {
        let nodes = self.net.nodes().map(|node| (&node.netns, node.role.as_str()));
        let all = nodes.chain([(&self.net.switch, "switch")]);
        for (netns, role) in all {
            self.captures().push(Capture::start(&self.scope, netns, role)?);
        }
        Ok(())
    }

    /// No report when dropped.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Writes the configuration and starts the agent on the director.
    pub fn start_agent(&self, config: &Config) -> Result<Arc<Agent>> {
        let agent = self.prepare_agent(config)?;
        agent.start()?;
        Ok(agent)
    }

    /// The same on another host.
    pub fn start_agent_on(&self, director: &Node, config: &Config) -> Result<Arc<Agent>> {
        let agent = self.keep(Agent::prepare(&self.scope, director, config)?);
        agent.start()?;
        Ok(agent)
    }

    /// Writes the configuration only.
    pub fn prepare_agent(&self, config: &Config) -> Result<Arc<Agent>> {
        Ok(self.keep(Agent::prepare(&self.scope, &self.net.director, config)?))
    }

    /// The same with a mount point of its own for the BPF file system, below the lab's directory.
    pub fn prepare_agent_on(&self, config: &Config, bpffs: &str) -> Result<Arc<Agent>> {
        let bpffs = self.scope.dir().join(bpffs);
        Ok(self.keep(Agent::prepare_on(&self.scope, &self.net.director, config, bpffs)?))
    }

    fn keep(&self, agent: Agent) -> Arc<Agent> {
        let agent = Arc::new(agent);
        self.agents().push(Arc::clone(&agent));
        agent
    }

    /// `lb realserver start VIP...` on every backend.
    pub fn start_realservers(&self, vips: &[std::net::IpAddr]) -> Result<()> {
        let vips: Vec<_> = vips.iter().map(ToString::to_string).collect();
        let vips: Vec<_> = vips.iter().map(String::as_str).collect();
        for backend in &self.net.backends {
            agent::realserver(&self.scope, backend, "start", &vips)?.ok()?;
        }
        Ok(())
    }

    fn detach_agents(&self) -> Result<()> {
        self.agents().iter().try_for_each(|agent| agent.detach().context("at the end of the test"))
    }

    fn captures(&self) -> MutexGuard<'_, Vec<Capture>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agents(&self) -> MutexGuard<'_, Vec<Arc<Agent>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a failure prints: the agents' logs and views, the maps, the nodes, the packets.
    pub fn report(&self) -> String {
        let mut text = format!("\n===== report of the lab {} =====\n", self.scope.name());
        self.agents().iter().for_each(|agent| agent.describe(&mut text));
        self.net.nodes().for_each(|node| node.describe(&mut text));
        self.net.describe_switch(&mut text);
        let nodes = self.net.nodes().map(|node| &node.netns).chain([&self.net.switch]);
        for (capture, netns) in self.captures().iter_mut().zip(nodes) {
            capture.describe(netns, &mut text);
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("{}", self.report());
        }
    }
}
