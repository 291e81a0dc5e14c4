//! What is known of the backends' health, for the agent that comes after.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Health, Machine, Ongoing, Outcome, ProbeId, State, Weight};
use crate::model::{BackendKey, ServiceName};

/// What an agent leaves to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub states: SavedStates,
    /// Of the services where anything is in progress.
    pub ongoing: BTreeMap<ServiceName, Ongoing>,
    /// Backends that nothing else is known of, and that the kernel keeps new connections from.
    pub out: BTreeSet<(ServiceName, BackendKey)>,
}

/// By service and backend. A backend that is named here is not new, also without a check.
pub type SavedStates = BTreeMap<ServiceName, BTreeMap<BackendKey, Vec<SavedCheck>>>;

/// One check that has a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedCheck {
    /// What it does, by which it is known again.
    pub check: String,
    up: bool,
    /// How its last attempt ended, if there was one: whether it passed, what was found, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<(bool, String, u64)>,
    #[serde(default)]
    pub weight: Weight,
}

impl Saved {
    /// The checks of a backend; none if it is not known.
    pub fn backend(&self, service: &ServiceName, key: BackendKey) -> Option<&Vec<SavedCheck>> {
        self.states.get(service)?.get(&key)
    }

    pub fn insert(&mut self, service: ServiceName, key: BackendKey, checks: Vec<SavedCheck>) {
        self.states.entry(service).or_default().insert(key, checks);
    }

    /// Makes a backend known, as one without a result, unless it is known already; whether it `is_out` counts only if
    /// there is none.
    pub fn add(&mut self, service: ServiceName, key: BackendKey, is_out: bool) {
        let checks = self.states.entry(service.clone()).or_default().entry(key).or_default();
        if is_out && checks.is_empty() {
            self.out.insert((service, key));
        }
    }
}

impl SavedCheck {
    pub fn new(check: &str, machine: &Machine) -> Self {
        let last = machine.last().map(|outcome| {
            let took = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
            (outcome.result.is_ok(), outcome.words().to_owned(), took)
        });
        let (up, weight) = (machine.state() == State::Up, machine.weight());
        Self { check: check.to_owned(), up, last, weight }
    }

    pub fn state(&self) -> State {
        if self.up { State::Up } else { State::Down }
    }

    pub fn outcome(&self) -> Option<Outcome> {
        let (passed, words, took) = self.last.as_ref()?;
        let took = Duration::from_micros(*took);
        Some(if *passed { Outcome::passed(took, words) } else { Outcome::failed(took, words) })
    }
}

impl Health {
    /// What a check of a backend counts as that was not made before. Of one that serves its first failure is not enough
    /// to take it out; of one that is out, whose checks may just have other words now, its first pass is not enough to
    /// bring it back.
    pub(super) fn presumed(
        &self,
        is_new: bool,
        is_out: bool,
        old: &[ProbeId],
        earlier: &[SavedCheck],
    ) -> State {
        let old = || old.iter().filter_map(|id| self.entries.get(id)).map(|entry| &entry.machine);
        let mut known = old().map(Machine::state).chain(earlier.iter().map(SavedCheck::state));
        if is_out || known.any(|state| state == State::Down) {
            State::Down
        } else if is_new || !old().all(Machine::serves) {
            State::Unproven
        } else {
            State::Up
        }
    }
}
