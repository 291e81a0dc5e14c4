//! One script on both directors, compared after every step.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, bail};
use lb::model::Timeouts;
use lb_common::tcp::flag::{ACK, RST, SYN};

use crate::{
    ipvs::Ipvs,
    lab,
    ours::Ours,
    script::{Config, Script, Step},
    view::{self, FlowKey, View},
};

/// A connection of IPVS with less left than this is waited for: it may be gone, or not, when the next packet comes.
/// IPVS shows whole seconds, so a listed 2 is more than two.
const NEAR: f64 = 2.0;
/// Looks at connections about to end, half a second apart: the timer wheel lets a timeout of 15 minutes be 16 s late.
const LOOKS: u32 = 2000;

pub struct Directors {
    pub ipvs: Ipvs,
    pub ours: Ours,
    config: Config,
}

/// A SYN with ACK or RST: to IPVS it is as good as a SYN alone where no connection stands, or one that is over
/// (docs/ipvs-differences.md).
fn is_compared(step: Step, before: &View) -> bool {
    let Step::Packet { to, client, flags } = step else { return true };
    if flags & SYN == 0 || flags & (ACK | RST) == 0 {
        return true;
    }
    let key = FlowKey { to, client: SocketAddr::new(client.address(to.address), client.port) };
    before.flows.get(&key).is_some_and(|flow| !["TIME_WAIT", "CLOSE"].contains(&flow.state.as_str()))
}

/// How a script went.
#[derive(Default)]
pub struct Outcome {
    /// Connections that both had.
    pub flows: usize,
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
        Self { ipvs, ours, config: Config::default() }
    }

    /// Runs a script from empty tables up to the first difference.
    pub fn run(&mut self, script: &Script) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut before = View::default();
        for (at, step) in script.steps.iter().enumerate() {
            let mut found = if is_compared(*step, &before) { self.step(*step)? } else { continue };
            let ipvs = self.settle()?;
            found.extend(view::views(&ipvs, &self.ours.view()?));
            outcome.packets += usize::from(matches!(step, Step::Packet { .. }));
            outcome.flows += ipvs.flows.keys().filter(|key| !before.flows.contains_key(key)).count();
            before = ipvs;
            if !found.is_empty() {
                outcome.difference = Some(Difference { step: at, found });
                break;
            }
        }
        self.clear()?;
        Ok(outcome)
    }

    /// Does one step on both: what differs between their answers.
    fn step(&mut self, step: Step) -> Result<Vec<String>> {
        if !self.config.apply(step) {
            return Ok(Vec::new());
        }
        match step {
            Step::Packet { to, client, flags } => {
                let packet = lab::packet(client, to, flags);
                return Ok(view::answers(&self.ipvs.send(&packet)?, &self.ours.send(&packet)?));
            }
            Step::Wait { seconds } => thread::sleep(Duration::from_secs(u64::from(seconds))),
            _ => {
                self.ipvs.configure(step)?;
                self.ours.configure(&self.config)?;
            }
        }
        Ok(Vec::new())
    }

    /// Waits until no connection of IPVS is about to end; then what it shows.
    fn settle(&mut self) -> Result<View> {
        let mut ending = Vec::new();
        for _ in 0..LOOKS {
            let view = self.ipvs.view()?;
            ending = view.flows.iter().filter(|(_, flow)| flow.seconds < NEAR).map(|(key, _)| *key).collect();
            if ending.is_empty() {
                return Ok(view);
            }
            thread::sleep(Duration::from_millis(500));
        }
        bail!("connections of IPVS do not end: {ending:?}")
    }

    fn clear(&mut self) -> Result<()> {
        self.ipvs.clear(&self.config)?;
        self.config = Config { timeouts: Timeouts::default(), ..Config::default() };
        self.ours.clear()
    }
}
