//! Which backends are healthy, and when to look again. PURE.
//!
//! One [`Machine`] for each check of each backend; a backend is healthy if all of them say so. The agent
//! makes the attempts that are asked for (`checks`), and hands the results back; what [`Health::weights`]
//! says goes into the plan.

mod attempt;
mod flap;
mod machine;
mod ongoing;
mod opinion;
mod passive;
mod pool;
mod returning;
mod saved;
#[cfg(test)]
pub(super) mod tests;
mod view;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use attempt::Wanted;
use flap::Damping;
pub use machine::{Failure, Machine, Outcome, Pass, State, Weight};
pub use ongoing::{Clocks, Ongoing};
use opinion::Opinion;
pub use passive::{Figures, Passive, Turn};
pub use pool::{Condition, Instead, Pool};
use returning::{STEPS, Start};
pub use saved::{Saved, SavedCheck, SavedStates};
pub use view::CheckView;

use crate::{
    model::{
        Backend, BackendKey, Model, Service, ServiceName,
        check::{Check, CheckKind, PassiveMode, ProbePorts, Timing},
    },
    plan::Weights,
};

/// One attempt to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub service: ServiceName,
    pub backend: BackendKey,
    pub kind: CheckKind,
    pub target: SocketAddr,
    pub source: Option<IpAddr>,
    pub interface: Option<String>,
    /// `target` is the VIP, and the backend has to be reached by its MAC.
    pub via_vip: bool,
    /// Of such an attempt, once it is to be made.
    pub way: Option<Way>,
    pub connect_timeout: Duration,
    /// For the whole attempt.
    pub timeout: Duration,
}

/// How an attempt through the VIP gets to its backend, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What its packets are marked with: the backend's index in `HOSTS`.
    pub mark: u32,
    /// What it may come from.
    pub ports: ProbePorts,
    /// Which of them to try first: each attempt another one.
    pub turn: u32,
}

/// Whose attempt it is. No two machines ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(u64);

/// What happens.
#[derive(Clone, Debug)]
pub enum Input {
    Time,
    Done(ProbeId, Outcome),
    /// What the data plane has counted of the backends of a service; whether its guard is active.
    Counted(ServiceName, bool, Vec<(BackendKey, Figures)>),
}

/// Attempts are asked for so long before they are due. Who makes them keeps the time, so what else the agent does for so
/// long delays none.
const AHEAD: Duration = Duration::from_millis(250);

/// How the label of a check says that it goes through the VIP.
pub const THROUGH_VIP: &str = " through the VIP ";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this attempt when it is due, not before.
    Attempt(Wanted),
    Changed(Transition),
    /// A backend of this service that is healthy shall have another weight.
    Reweighted(Reweighting),
    /// A slow start goes on.
    Step,
    /// A backend has failed so often that it stays out for so long, also if its checks pass.
    Held(ServiceName, BackendKey, Duration),
    /// That is over, and its checks pass.
    Released(ServiceName, BackendKey),
    /// Its connections fare worse than those of the others: until when at least, and why.
    Suspect(ServiceName, BackendKey, Duration, String),
    /// That is over.
    Trusted(ServiceName, BackendKey),
}

/// The weight that a check gives has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reweighting {
    pub service: ServiceName,
    pub backend: BackendKey,
    pub check: String,
    pub why: String,
}

/// A check's state has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub service: ServiceName,
    pub backend: BackendKey,
    /// The check, as in [`CheckView`].
    pub check: String,
    pub state: State,
    /// What it was, by its word.
    pub why: String,
    /// How long the attempt took that decided.
    pub took: Option<Duration>,
    /// Whether the backend as a whole is healthy now, if that has changed.
    pub healthy: Option<bool>,
}

/// The machines of all backends.
#[derive(Debug, Default)]
pub struct Health {
    /// So that two directors do not check in step.
    seed: u64,
    /// Ids given out so far.
    given: u64,
    entries: BTreeMap<ProbeId, Entry>,
    /// Of every backend of the model, in the order of its checks; also of those that have none.
    backends: BTreeMap<ServiceName, BTreeMap<BackendKey, Vec<ProbeId>>>,
    deadlines: BTreeSet<(Duration, ProbeId)>,
    /// The backends that have come back lately.
    starting: BTreeMap<(ServiceName, BackendKey), Start>,
    /// How long that takes, of services that want it.
    slow: BTreeMap<ServiceName, Duration>,
    /// The backends that have failed lately, of services that want it.
    damped: BTreeMap<(ServiceName, BackendKey), Damping>,
    /// The first hold of those that flap.
    holds: BTreeMap<ServiceName, Duration>,
    /// Somebody works on them: their failures are none.
    maintained: BTreeSet<(ServiceName, BackendKey)>,
    /// What their connections show, of services that want it.
    opinions: BTreeMap<ServiceName, Opinion>,
    /// Services whose backends have no quorum.
    without_quorum: BTreeSet<ServiceName>,
    /// What an earlier agent knew, until the first model comes; read at this time.
    saved: Saved,
    began: Clocks,
}

#[derive(Debug)]
struct Entry {
    service: ServiceName,
    backend: BackendKey,
    /// What it does, by which it is known again.
    label: String,
    /// The same to the backend's own address.
    own: String,
    probe: Arc<Probe>,
    timing: Timing,
    machine: Machine,
}

impl Health {
    /// `saved`: what an earlier agent knew. A backend that it names is not new.
    pub fn new(seed: u64, saved: Saved, began: Clocks) -> Self {
        Self { seed, saved, began, ..Self::default() }
    }

    /// Which backends and checks there are. What was known of others is forgotten; a check that is still
    /// there keeps its state.
    pub fn watch(&mut self, now: Duration, model: &Model) {
        let mut before = std::mem::take(&mut self.backends);
        let saved = std::mem::take(&mut self.saved);
        let mut backends: BTreeMap<ServiceName, BTreeMap<BackendKey, Vec<ProbeId>>> = BTreeMap::new();
        for service in &model.services {
            for backend in &service.backends {
                let old = before.get_mut(&service.name).and_then(|of| of.remove(&backend.key));
                let earlier = saved.backend(&service.name, backend.key);
                let is_new = old.is_none() && earlier.is_none();
                let mut old = old.unwrap_or_default();
                let mut earlier = earlier.cloned().unwrap_or_default();
                let is_out = saved.out.contains(&(service.name.clone(), backend.key));
                let presumed = self.presumed(is_new, is_out, &old, &earlier);
                let mut ids = Vec::new();
                for (check, vip) in service.attempts(backend) {
                    let own = check.label();
                    let label = match vip {
                        Some(vip) => format!("{own}{THROUGH_VIP}{vip}"),
                        None => own.clone(),
                    };
                    let probe = probe(&service.name, backend, check, vip);
                    let kept = old.iter().position(|id| self.entries[id].label == label);
                    if let Some(at) = kept {
                        ids.push(self.keep(now, old.remove(at), probe, check.timing));
                        continue;
                    }
                    let id = ProbeId(self.given);
                    self.given += 1;
                    let phase = self.phase(id);
                    let mut machine = Machine::new(now, check.timing, phase);
                    if let Some(at) = earlier.iter().position(|saved| saved.check == label) {
                        let saved = earlier.remove(at);
                        machine = machine.resume(saved.state(), saved.outcome(), saved.weight);
                    } else {
                        machine = machine.resume(presumed, None, Weight::Configured);
                    }
                    let (service, backend) = (service.name.clone(), backend.key);
                    self.deadlines.extend(machine.deadline().map(|at| (at, id)));
                    let probe = Arc::new(probe);
                    let timing = check.timing;
                    let entry = Entry { service, backend, label, own, probe, timing, machine };
                    self.entries.insert(id, entry);
                    ids.push(id);
                }
                old.into_iter().for_each(|id| self.forget(id));
                backends.entry(service.name.clone()).or_default().insert(backend.key, ids);
            }
        }
        for id in before.into_values().flat_map(BTreeMap::into_values).flatten() {
            self.forget(id);
        }
        self.backends = backends;
        let slow = model.services.iter();
        let slow = slow.filter_map(|it| Some((it.name.clone(), it.health.slow_start?.duration())));
        self.slow = slow.collect();
        let (slow, backends) = (&self.slow, &self.backends);
        self.starting.retain(|(service, key), _| {
            slow.contains_key(service) && backends.get(service).is_some_and(|of| of.contains_key(key))
        });
        let holds = model.services.iter();
        let holds = holds.filter_map(|it| Some((it.name.clone(), it.health.flap_hold?.duration())));
        self.holds = holds.collect();
        let holds = &self.holds;
        self.damped.retain(|(service, key), _| {
            holds.contains_key(service) && backends.get(service).is_some_and(|of| of.contains_key(key))
        });
        self.without_quorum.retain(|service| self.backends.contains_key(service));
        self.ask(model);
        self.go_on(now, self.began, model, saved.ongoing);
        self.maintain(now, model);
        self.settle(model);
    }

    /// Takes in what the present states mean for quorums. To be called after every change.
    pub fn settle(&mut self, model: &Model) {
        for service in &model.services {
            if self.pool(service).has_quorum {
                self.without_quorum.remove(&service.name);
            } else {
                self.without_quorum.insert(service.name.clone());
            }
        }
    }

    /// A check that was there before; its new id, if what it does is another thing now.
    fn keep(&mut self, now: Duration, id: ProbeId, probe: Probe, timing: Timing) -> ProbeId {
        let Some(mut entry) = self.entries.remove(&id) else { return id };
        entry.machine.deadline().map(|at| self.deadlines.remove(&(at, id)));
        let mut kept = id;
        if *entry.probe != probe {
            // The result of an attempt that is under way is of another question.
            kept = ProbeId(self.given);
            self.given += 1;
            let last = entry.machine.last().cloned();
            entry.machine = Machine::new(now, timing, self.phase(kept)).resume(
                entry.machine.state(),
                last,
                entry.machine.weight(),
            );
            entry.probe = Arc::new(probe);
        } else if entry.timing != timing {
            entry.machine.retime(now, timing);
        }
        entry.timing = timing;
        self.deadlines.extend(entry.machine.deadline().map(|at| (at, kept)));
        self.entries.insert(kept, entry);
        kept
    }

    fn forget(&mut self, id: ProbeId) {
        if let Some(at) = self.entries.remove(&id).and_then(|entry| entry.machine.deadline()) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// At random, 0 to 1.
    fn phase(&self, id: ProbeId) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, id).hash(&mut hasher);
        hasher.finish() as f64 / u64::MAX as f64
    }

    pub fn handle(&mut self, now: Duration, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Time => {
                let horizon = now + AHEAD;
                while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= horizon) {
                    self.step(horizon, id, machine::Input::Time, actions);
                }
                self.start_on(now, actions);
                self.release(now, actions);
            }
            // Of a check that is gone meanwhile: nobody's.
            Input::Done(id, outcome) => {
                let outcome = self.believed(id, outcome);
                self.step(now, id, machine::Input::Done(outcome), actions);
            }
            Input::Counted(service, guarded, figures) => {
                self.counted(now, service, guarded, figures, actions);
            }
        }
    }

    fn step(&mut self, now: Duration, id: ProbeId, input: machine::Input, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let machine = &mut entry.machine;
        let (before, served, weighed) = (machine.deadline(), machine.serves(), machine.weight());
        let mut wanted = Vec::new();
        machine.handle(now, input, &mut wanted);
        let after = machine.deadline();
        if before != after {
            before.map(|at| self.deadlines.remove(&(at, id)));
            self.deadlines.extend(after.map(|at| (at, id)));
        }
        if entry.machine.weight() != weighed {
            let reweighting = self.reweighting(id);
            actions.extend(reweighting.map(Action::Reweighted));
        }
        for action in wanted {
            match action {
                machine::Action::Attempt(due) => {
                    let probe = self.entries.get(&id).map(|entry| entry.probe.clone());
                    actions.extend(probe.map(|probe| Action::Attempt(Wanted { due, id, probe })));
                }
                machine::Action::Changed(state) => self.changed(now, id, served, state, actions),
            }
        }
    }

    /// A check that `served` before has another state now. Only here all checks of its backend are looked at:
    /// most results change nothing.
    fn changed(&mut self, now: Duration, id: ProbeId, served: bool, state: State, actions: &mut Vec<Action>) {
        let (Some(entry), Some(told)) = (self.entries.get(&id), self.reweighting(id)) else { return };
        let took = self.last(entry).map(|last| last.took);
        let Entry { service, backend, .. } = entry;
        let ids = self.backends.get(service).and_then(|of| of.get(backend)).into_iter().flatten();
        let mut others = ids.filter(|other| **other != id).filter_map(|other| self.entries.get(other));
        let others = others.all(|other| other.machine.serves());
        let (was, is) = (others && served, others && entry.machine.serves());
        // Who gets no connections neither fails nor comes back.
        let is_kept_back = self.maintained.contains(&(service.clone(), *backend));
        let healthy = (was != is && !is_kept_back).then_some(is);
        let Reweighting { service, backend, check, why } = told;
        match healthy {
            Some(true) if self.held(&service, backend).is_none() => self.begin_slowly(now, &service, backend),
            Some(false) => {
                self.starting.remove(&(service.clone(), backend));
                actions.extend(self.damp(now, &service, backend));
            }
            _ => {}
        }
        actions.push(Action::Changed(Transition { service, backend, check, state, why, took, healthy }));
    }

    /// When [`Input::Time`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        // With what the following ones are due then they come as one handful.
        let checks = self.deadlines.first().map(|(at, _)| at.saturating_sub(AHEAD / 2));
        let held = self.damped.values().filter_map(Damping::until);
        self.starting.values().map(|start| start.next).chain(held).chain(checks).min()
    }

    /// Whether a backend may get new connections; one that is not checked, or not known, may.
    pub fn healthy(&self, service: &ServiceName, backend: BackendKey) -> bool {
        self.machines(service, backend).all(|entry| entry.machine.serves())
    }

    /// Whether a backend has come back lately and has not all of its weight yet.
    pub fn is_starting(&self, service: &ServiceName, backend: BackendKey) -> bool {
        self.starting.contains_key(&(service.clone(), backend))
    }

    /// Whether somebody's first result may still be on its way.
    pub fn is_pending(&self) -> bool {
        self.entries.values().any(|entry| entry.machine.state() == State::Unproven)
    }

    /// The checks of one backend, in their order.
    pub fn checks(&self, service: &ServiceName, backend: BackendKey) -> Vec<CheckView> {
        let view = |entry: &Entry| CheckView {
            check: entry.label.clone(),
            state: entry.machine.state(),
            last: self.last(entry),
            against: entry.machine.against(),
            weight: entry.machine.weight(),
        };
        self.machines(service, backend).map(view).collect()
    }

    /// Whether any check goes through the VIP.
    pub fn takes_the_vip(&self) -> bool {
        self.entries.values().any(|entry| entry.probe.via_vip)
    }

    fn machines(&self, service: &ServiceName, backend: BackendKey) -> impl Iterator<Item = &Entry> {
        let ids = self.backends.get(service).and_then(|of| of.get(&backend)).into_iter().flatten();
        ids.filter_map(|id| self.entries.get(id))
    }

    /// The weights of the backends that shall not have the configured one.
    pub fn weights(&self, model: &Model) -> Weights {
        let given = model.services.iter().map(|service| (service, self.pool(service).given));
        let other = given.filter(|(_, given)| !given.is_empty());
        Weights(other.map(|(service, given)| (service.name.clone(), given)).collect())
    }

    /// What the backends of one service get.
    pub fn pool(&self, service: &Service) -> Pool {
        let had_quorum = !self.without_quorum.contains(&service.name);
        pool::pool(service, |key| self.condition(&service.name, key), had_quorum)
    }

    fn condition(&self, service: &ServiceName, backend: BackendKey) -> Condition {
        let starting = self.starting.get(&(service.clone(), backend)).map(|start| start.step * (100 / STEPS));
        let suspect = self.suspicion(service, backend).map(|(mode, ..)| mode);
        let held = self.held(service, backend).is_some() || suspect == Some(PassiveMode::Out);
        let lowered = suspect == Some(PassiveMode::Lower);
        let mut condition =
            Condition { healthy: true, proven: true, weights: Vec::new(), starting, held, lowered };
        for entry in self.machines(service, backend) {
            condition.healthy &= entry.machine.serves();
            condition.proven &= entry.machine.state() != State::Unproven;
            condition.weights.push(entry.machine.weight());
        }
        condition
    }

    /// What the next agent has to know.
    pub fn saved(&self, clocks: Clocks) -> Saved {
        let mut saved = Saved { ongoing: self.ongoing(clocks), ..Saved::default() };
        for (service, backends) in &self.backends {
            for key in backends.keys() {
                let checks = self.machines(service, *key);
                let checks = checks.filter(|entry| entry.machine.state() != State::Unproven);
                let checks = checks.map(|entry| SavedCheck::new(&entry.label, &entry.machine));
                saved.insert(service.clone(), *key, checks.collect());
            }
        }
        saved
    }
}

fn probe(service: &ServiceName, backend: &Backend, check: &Check, vip: Option<IpAddr>) -> Probe {
    let own = check.target(backend);
    Probe {
        service: service.clone(),
        backend: backend.key,
        kind: check.kind.clone(),
        target: vip.map_or(own, |vip| SocketAddr::new(vip, own.port())),
        source: check.source,
        interface: check.interface.clone(),
        via_vip: vip.is_some(),
        way: None,
        connect_timeout: check.timing.connect_timeout().duration(),
        timeout: check.timing.timeout().duration(),
    }
}

#[cfg(test)]
impl From<u64> for ProbeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}
