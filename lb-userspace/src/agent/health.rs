//! The backends' health: attempts out, results in, and what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_common::dest;

use super::Agent;
use crate::{
    api::types::{CheckStats, LateCount},
    checks::{self, Checks, LATE_UP_TO, Results, SavedFile},
    clock::{monotonic, realtime},
    events::{Draft, Kind},
    health::{Action, Clocks, Figures, Health, Input, Instead, Outcome, ProbeId, Saved},
    model::{BackendKey, Model, ServiceName, check::PassiveMode},
    plan::{Snapshot, dest_address, name_of},
};

/// The machines, and what they need of the world.
pub struct Monitor {
    pub health: Health,
    pub(super) checks: Checks,
    results: Results,
    file: SavedFile,
    /// What checks have shown since it was said last.
    pub said: Vec<Draft>,
}

/// Of each service by its id, its name and backends: a destination's id, and its connections so far.
pub(super) type Looked = BTreeMap<u16, (ServiceName, Vec<(u32, BackendKey, u64)>)>;

impl Monitor {
    /// Goes on where an earlier agent was. A backend that the kernel serves already is not new, also if
    /// nobody has checked it yet. The second is a warning.
    pub fn start(state: &Path, model: &Model, kernel: &Snapshot) -> Result<(Self, Option<String>)> {
        let (file, mut saved, warning) = SavedFile::open(state);
        remember(&mut saved, kernel);
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        let mut health = Health::new(u64::from_ne_bytes(seed), saved, now());
        health.watch(monotonic(), model);
        let (checks, results) = checks::start().context("starting the thread of the health checks")?;
        let mut monitor = Self { health, checks, results, file, said: Vec::new() };
        monitor.save();
        Ok((monitor, warning))
    }

    /// Follows a change of the model.
    pub fn watch(&mut self, model: &Model) {
        self.health.watch(monotonic(), model);
        self.save();
    }

    /// Waits for results.
    pub async fn next(&mut self) -> Vec<(ProbeId, Outcome)> {
        let mut results = Vec::new();
        if !self.results.next(&mut results).await {
            // The thread never ends before us; if it did, there is nothing to wait for.
            std::future::pending::<()>().await;
        }
        results
    }

    /// Makes what is due, or takes results in; whether any check's state has changed.
    pub fn handle(&mut self, model: &Model, inputs: impl IntoIterator<Item = Input>) -> bool {
        let (now, mut actions) = (monotonic(), Vec::new());
        for input in inputs {
            self.health.handle(now, input, &mut actions);
        }
        let (mut changed, mut wanted) = (false, Vec::new());
        for action in actions {
            match action {
                Action::Attempt(attempt) => wanted.push(attempt),
                Action::Changed(transition) => {
                    self.said.push(Draft::transition(&transition));
                    changed = true;
                }
                Action::Held(service, backend, hold) => {
                    let reason = format!("it stays out for {} s (flap_hold)", hold.as_secs());
                    self.said.push(Draft::new(Kind::Flaps).of(&service).at(backend).because(reason));
                    changed = true;
                }
                Action::Released(service, backend) => {
                    self.said.push(Draft::new(Kind::Settled).of(&service).at(backend));
                    changed = true;
                }
                Action::Suspect(service, backend, hold, why) => {
                    let reason = format!("{why}; for {} s at least (passive)", hold.as_secs());
                    self.said.push(Draft::new(Kind::Suspect).of(&service).at(backend).because(reason));
                    changed = true;
                }
                Action::Trusted(service, backend) => {
                    self.said.push(Draft::new(Kind::Trusted).of(&service).at(backend));
                    changed = true;
                }
                // What it makes of the weight is seen in the pool.
                Action::Step | Action::Reweighted(_) => changed = true,
            }
        }
        self.checks.attempt(wanted);
        if changed {
            self.health.settle(model);
            self.save();
        }
        changed
    }

    /// Waits until every backend has had its first result, or `limit` is over: a director that starts
    /// before it knows whom it may use would drop the first connections. Whether any check's state has changed.
    pub async fn await_results(&mut self, model: &Model, limit: Duration) -> bool {
        let (until, mut changed) = (monotonic() + limit, false);
        while self.health.is_pending() && monotonic() < until {
            changed |= self.handle(model, [Input::Time]);
            let left = self.health.deadline().map_or(until, |deadline| deadline.min(until));
            let pause = left.saturating_sub(monotonic());
            if let Ok(results) = tokio::time::timeout(pause, self.next()).await {
                let results = results.into_iter().map(|(id, outcome)| Input::Done(id, outcome));
                changed |= self.handle(model, results);
            }
        }
        changed
    }

    /// What there is to say of services as a whole, one sentence each.
    pub fn troubled(&self, model: &Model) -> BTreeSet<String> {
        let sentences = model.services.iter().map(|service| {
            let pool = self.health.pool(service);
            let has_backups = service.backends.iter().any(|backend| backend.health.backup);
            let name = &service.name;
            let panics = pool.panics.then(|| {
                format!("service {name}: so many backends fail that all are kept (minimum_healthy)")
            });
            let instead = match pool.instead {
                Some(Instead::StandBys) => {
                    Some(format!("service {name}: its primary serves, since too few replicas can (fallback)"))
                }
                _ if has_backups && !pool.has_quorum => {
                    Some(format!("service {name} has no quorum: its backups serve, as far as they can"))
                }
                _ => None,
            };
            [panics, instead]
        });
        sentences.flatten().flatten().collect()
    }

    /// How many checks were made, and how late.
    pub fn made(&self) -> Vec<CheckStats> {
        let classes = || LATE_UP_TO.iter().copied().map(Some).chain([None]);
        let shown = |((kind, via_vip), counts): (checks::Sort, checks::Counts)| CheckStats {
            kind: kind.to_owned(),
            via_vip,
            begun: counts.begun,
            ended: counts.ended,
            failed: counts.failed,
            late: classes()
                .zip(counts.late)
                .map(|(up_to_us, checks)| LateCount { up_to_us, checks })
                .collect(),
            latest_us: u64::try_from(counts.latest.as_micros()).unwrap_or(u64::MAX),
        };
        self.checks.tally().read().into_iter().map(shown).collect()
    }

    fn save(&mut self) {
        if let Err(error) = self.file.store(self.health.saved(now())) {
            tracing::error!("saving the health of the backends failed: {error}; the next change tries again");
        }
    }
}

impl Agent {
    /// Makes the checks that are due.
    pub(super) fn check_health(&mut self) {
        if self.monitor.health.deadline().is_some_and(|deadline| deadline <= monotonic()) {
            self.follow_health([Input::Time]);
        }
    }

    /// Takes in how checks ended. A rack that dies is one change.
    pub(super) fn heard_health(&mut self, results: Vec<(ProbeId, Outcome)>) {
        self.follow_health(results.into_iter().map(|(id, outcome)| Input::Done(id, outcome)));
    }

    /// The first look: what was counted until now is nothing recent.
    pub(super) fn begin_to_look(&mut self) {
        if let Some(looked) = self.look_before_round() {
            self.sweep.half_open = self.pins.maps.sweep(self.clock.now(), &self.sweep).half_open;
            self.look_at_connections(looked);
        }
    }

    /// Where connections are to be looked at, with their number before a round of the sweeper counts those that are
    /// half-open. None: nobody wants it.
    pub(super) fn look_before_round(&self) -> Option<Looked> {
        let asked = self.model.services.iter().filter(|service| service.health.passive != PassiveMode::Off);
        let asked: BTreeSet<_> = asked.map(|service| &service.name).collect();
        if asked.is_empty() {
            return None;
        }
        let looked = self.looked_at(&asked);
        looked.inspect_err(|error| tracing::error!("reading the counters of backends failed: {error:#}")).ok()
    }

    fn looked_at(&self, asked: &BTreeSet<&ServiceName>) -> Result<Looked> {
        let snapshot = self.pins.maps.without_rules()?;
        let mut looked = Looked::new();
        for (id, record) in &snapshot.services {
            let name = name_of(&record.name).parse().ok().filter(|name| asked.contains(name));
            looked.extend(name.map(|name| (*id, (name, Vec::new()))));
        }
        for (id, record) in &snapshot.dests {
            let gone = record.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
            if let Some((_, of)) = looked.get_mut(&record.service).filter(|_| !gone) {
                let key = BackendKey { address: dest_address(record), port: u16::from_be_bytes(record.port) };
                of.push((*id, key, self.pins.maps.dest_counters(*id)?.served.connections));
            }
        }
        Ok(looked)
    }

    /// Gives the machines what the data plane has counted, after the round.
    pub(super) fn look_at_connections(&mut self, looked: Looked) {
        match self.counted(looked) {
            Ok(counted) => self.follow_health(counted),
            Err(error) => tracing::error!("reading the counters of backends failed: {error:#}"),
        }
    }

    fn counted(&self, looked: Looked) -> Result<Vec<Input>> {
        let maps = &self.pins.maps;
        // Handshakes that give way to others are not counted as incomplete.
        let is_pressed = self.pressure.narrow.0.is_on() || self.pressure.wide.0.is_on();
        let inputs = looked.into_iter().map(|(service, (name, of))| {
            let figures = of.into_iter().map(|(id, key, connections)| {
                let counters = maps.dest_counters(id)?;
                let figures = Figures {
                    connections,
                    meanwhile: counters.served.connections.saturating_sub(connections),
                    half_open: self.sweep.half_open.get(&id).copied().unwrap_or_default(),
                    incomplete: maps.conn_counts(id).incomplete,
                    retransmissions: counters.retransmissions,
                    resets: counters.resets,
                };
                Ok((key, figures))
            });
            let guarded = is_pressed || maps.is_guarded(service, self.clock.now());
            Ok(Input::Counted(name, guarded, figures.collect::<Result<_>>()?))
        });
        inputs.collect()
    }

    fn follow_health(&mut self, inputs: impl IntoIterator<Item = Input>) {
        if !self.monitor.handle(&self.model, inputs) {
            return;
        }
        if let Err(error) = self.reconcile() {
            tracing::error!("following a change of health failed: {error:#}; trying again");
            self.unfinished = true;
        }
        // After the maps: writing it down takes its time.
        self.see_pools();
    }
}

fn now() -> Clocks {
    Clocks { monotonic: monotonic(), wall: realtime() }
}

/// Makes the backends known that the kernel has.
fn remember(saved: &mut Saved, kernel: &Snapshot) {
    for record in kernel.dests.values() {
        let gone = record.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
        let name = kernel.services.get(&record.service).map(|service| name_of(&service.name));
        if let Some(name) = name.filter(|_| !gone).and_then(|name| ServiceName::new(name).ok()) {
            let key = BackendKey { address: dest_address(record), port: u16::from_be_bytes(record.port) };
            saved.add(name, key, record.flags & dest::flag::OUT != 0);
        }
    }
}
