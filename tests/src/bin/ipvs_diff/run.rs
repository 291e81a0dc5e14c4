//! One script on both directors, compared after every step.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb::model::{Protocol, Timeouts};
use lb_common::tcp::flag::{ACK, RST, SYN};
use lb_tests::{clock, packet::Packet};

use crate::{
    ipvs::Ipvs,
    lab,
    ours::Ours,
    script::{Config, Script, Step, Sysctl},
    ties,
    view::{self, FlowKey, View},
};

/// A connection of IPVS with less left than this is waited for: it may be gone, or not, when the next packet comes.
/// IPVS shows whole seconds, so a listed 2 is more than two.
pub const NEAR: f64 = 2.0;
/// A template of IPVS with less left than this has run out, or is about to: ours is swept when it is gone or armed
/// again.
const DUE: f64 = 1.0;
/// Looks at connections about to end: the timer wheel lets a timeout of 15 minutes be 16 s late.
const LOOKS: u32 = 2000;
const LOOK: Duration = Duration::from_millis(500);
/// So often templates are looked after while a script waits.
const ROUND: Duration = Duration::from_secs(3);

pub struct Directors {
    pub ipvs: Ipvs,
    pub ours: Ours,
    config: Config,
    /// Since when the sweeper has been kept waiting, and the longest time of this script.
    held: Option<Instant>,
    longest_held: Duration,
    /// Packets of this script that keep it from ties.
    parting: usize,
}

/// A SYN with ACK or RST: to IPVS it is as good as a SYN alone where no connection stands, or one that is over
/// (docs/ipvs-differences.md). And a service is deleted only when none of its templates is left: whether one ends
/// before the last of its connections is a tie that a packet parts ([`ties`]), and a deleted service's do not.
fn is_compared(step: Step, before: &View, config: &Config) -> bool {
    if let Step::DeleteService(endpoint) = step {
        return !before.flows.iter().any(|(key, flow)| flow.template.is_some() && key.to == endpoint);
    }
    let Step::Packet { to, client, flags } = step else { return true };
    if to.protocol != Protocol::Tcp || flags & SYN == 0 || flags & (ACK | RST) == 0 {
        return true;
    }
    if config.has(Sysctl::ExpireNodest) {
        // There to one of a backend of weight 0, too.
        return false;
    }
    let key = FlowKey { to, client: SocketAddr::new(client.address(to.address), client.port) };
    before.flows.get(&key).is_some_and(|flow| !["TIME_WAIT", "CLOSE"].contains(&flow.state.as_str()))
}

/// How a script went.
#[derive(Default)]
pub struct Outcome {
    /// Steps after which all was compared.
    pub steps: usize,
    /// Steps that were left out: see [`is_compared`].
    pub left_out: usize,
    /// Steps after which a template's timer was held to less, because our sweeper had been kept waiting.
    pub widened: usize,
    /// For how long it was kept waiting, in seconds.
    pub held: f64,
    /// Packets that no script has: see [`ties`].
    pub parting: usize,
    /// Connections that both had.
    pub flows: usize,
    /// Persistence templates that both had.
    pub templates: usize,
    pub packets: usize,
    pub difference: Option<Difference>,
}

/// The first step after which the two were not alike.
pub struct Difference {
    pub step: usize,
    pub found: Vec<String>,
}

impl Directors {
    pub fn new(ipvs: Ipvs, ours: Ours) -> Self {
        Self { ipvs, ours, config: Config::default(), held: None, longest_held: Duration::ZERO, parting: 0 }
    }

    /// Runs a script from empty tables up to the first difference.
    pub fn run(&mut self, script: &Script) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut before = View::default();
        for (at, step) in script.steps.iter().enumerate() {
            if !is_compared(*step, &before, &self.config) {
                outcome.left_out += 1;
                continue;
            }
            let mut found = self.step(*step)?;
            let ipvs = self.settle(&mut found)?;
            outcome.held = self.longest_held.as_secs_f64();
            let compared = view::views(&ipvs, &self.ours.view()?, outcome.held);
            found.extend(compared.found);
            outcome.steps += 1;
            outcome.widened += usize::from(compared.widened > 0);
            outcome.packets += usize::from(matches!(step, Step::Packet { .. }));
            let new = ipvs.flows.iter().filter(|(key, _)| !before.flows.contains_key(key));
            let (templates, flows): (Vec<_>, Vec<_>) = new.partition(|(_, flow)| flow.template.is_some());
            outcome.flows += flows.len();
            outcome.templates += templates.len();
            before = ipvs;
            if !found.is_empty() {
                outcome.difference = Some(Difference { step: at, found });
                break;
            }
        }
        outcome.parting = std::mem::take(&mut self.parting);
        self.clear()?;
        Ok(outcome)
    }

    /// Does one step on both: what differs between their answers.
    pub fn step(&mut self, step: Step) -> Result<Vec<String>> {
        if !self.config.apply(step) {
            return Ok(Vec::new());
        }
        match step {
            Step::Packet { to, client, flags } => self.send(&lab::packet(client, to, flags)),
            Step::Wait { seconds } => self.wait(Duration::from_secs(u64::from(seconds))),
            _ => {
                self.ipvs.configure(step)?;
                self.ours.configure(&self.config)?;
                Ok(Vec::new())
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<Vec<String>> {
        let before = (self.ipvs.counters()?, self.ours.counters()?);
        let mut found = view::answers(&self.ipvs.send(packet)?, &self.ours.send(packet)?);
        found.extend(view::counts(
            view::since(self.ipvs.counters()?, before.0),
            view::since(self.ours.counters()?, before.1),
        ));
        Ok(found)
    }

    fn wait(&mut self, time: Duration) -> Result<Vec<String>> {
        let (start, mut found) = (clock::now(), Vec::new());
        loop {
            let left = time.saturating_sub(start.elapsed());
            let has_templates = self.settle(&mut found)?.flows.values().any(|flow| flow.template.is_some());
            if left.is_zero() || !found.is_empty() {
                return Ok(found);
            }
            thread::sleep(if has_templates { left.min(ROUND) } else { left });
        }
    }

    /// Waits until nothing of IPVS is about to end; then what it shows. What differs on the way goes to `found`.
    fn settle(&mut self, found: &mut Vec<String>) -> Result<View> {
        let mut ending = Vec::new();
        for _ in 0..LOOKS {
            let view = self.ipvs.view()?;
            let breakers = ties::breakers(&view, &self.config);
            self.parting += breakers.len();
            for packet in &breakers {
                found.extend(self.send(packet)?);
            }
            let within = |view: &View, seconds: f64| -> Vec<FlowKey> {
                let flows = view.flows.iter().filter(|(key, flow)| {
                    flow.seconds < seconds || self.config.is_ended(key.to, flow.backend)
                });
                flows.map(|(key, _)| *key).collect()
            };
            ending = within(&view, NEAR);
            if within(&view, DUE).iter().any(FlowKey::is_template) {
                self.held.get_or_insert_with(clock::now);
            } else {
                let held = self.held.take().map_or(Duration::ZERO, |since| since.elapsed());
                self.longest_held = self.longest_held.max(held);
                self.ours.sweep()?;
                let ours = within(&self.ours.view()?, DUE).into_iter();
                ending.extend(ours.filter(FlowKey::is_template));
            }
            if ending.is_empty() && breakers.is_empty() {
                return Ok(view);
            }
            thread::sleep(LOOK);
        }
        bail!("connections do not end: {ending:?}")
    }

    pub fn clear(&mut self) -> Result<()> {
        (self.held, self.longest_held) = (None, Duration::ZERO);
        self.ipvs.clear(&self.config)?;
        self.config = Config { timeouts: Timeouts::default(), ..Config::default() };
        self.ours.clear()
    }
}
