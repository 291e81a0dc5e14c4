//! How backends that have failed come back: slowly, and those that flap later.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, Clocks, Health};
use crate::model::{BackendKey, Model, ServiceName};

/// A backend's way to its whole weight, in [`STEPS`].
#[derive(Debug)]
pub(super) struct Start {
    pub step: u8,
    /// When the next step is due.
    pub next: Duration,
}

/// The same in the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedStart {
    step: u8,
    next: Timestamp,
}

/// Of a slow start.
pub(super) const STEPS: u8 = 10;

impl Start {
    pub fn saved(&self, clocks: Clocks) -> SavedStart {
        SavedStart { step: self.step, next: clocks.wall_at(self.next) }
    }
}

impl SavedStart {
    /// Goes on with it. No step takes longer than if it began now.
    pub fn resume(self, clocks: Clocks, slow: Duration) -> Start {
        let latest = clocks.monotonic + slow / u32::from(STEPS);
        Start { step: self.step.clamp(1, STEPS), next: clocks.monotonic_at(self.next).min(latest) }
    }
}

impl Health {
    /// The slow starts whose next step is due.
    pub(super) fn start_on(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let before = actions.len();
        let slow = &self.slow;
        self.starting.retain(|(service, _), start| {
            while start.next <= now && start.step < STEPS {
                start.step += 1;
                start.next += slow.get(service).copied().unwrap_or_default() / u32::from(STEPS);
                actions.truncate(before);
                actions.push(Action::Step);
            }
            start.step < STEPS
        });
    }

    /// The backends that have been kept out for long enough.
    pub(super) fn release(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let ended = self.damped.iter_mut().filter_map(|(of, damping)| damping.ended(now).then(|| of.clone()));
        for (service, key) in ended.collect::<Vec<_>>() {
            if self.healthy(&service, key) {
                self.begin_slowly(now, &service, key);
                actions.push(Action::Released(service, key));
            }
        }
    }

    /// The backend gets connections again.
    pub(super) fn begin_slowly(&mut self, now: Duration, service: &ServiceName, key: BackendKey) {
        if let Some(slow) = self.slow.get(service) {
            let start = Start { step: 1, next: now + *slow / u32::from(STEPS) };
            self.starting.insert((service.clone(), key), start);
        }
    }

    /// Takes in whom somebody works on. Who comes out of that has come back.
    pub(super) fn maintain(&mut self, now: Duration, model: &Model) {
        let all =
            model.services.iter().flat_map(|service| service.backends.iter().map(move |it| (service, it)));
        let kept_back = all.filter(|(_, backend)| backend.maintenance.is_some());
        let maintained = kept_back.map(|(service, backend)| (service.name.clone(), backend.key)).collect();
        let before = std::mem::replace(&mut self.maintained, maintained);
        for (service, key) in before.difference(&self.maintained.clone()) {
            let is_there = self.backends.get(service).is_some_and(|of| of.contains_key(key));
            if is_there && self.healthy(service, *key) && self.held(service, *key).is_none() {
                self.begin_slowly(now, service, *key);
            }
        }
    }

    /// The backend has failed.
    pub(super) fn damp(&mut self, now: Duration, service: &ServiceName, key: BackendKey) -> Option<Action> {
        let hold = *self.holds.get(service)?;
        let until = self.damped.entry((service.clone(), key)).or_default().failed(now, hold)?;
        Some(Action::Held(service.clone(), key, until.saturating_sub(now)))
    }

    /// How often a backend has failed lately and until when it is kept out for that, if it is.
    pub fn held(&self, service: &ServiceName, backend: BackendKey) -> Option<(u32, Duration)> {
        let damping = self.damped.get(&(service.clone(), backend))?;
        damping.until().map(|until| (damping.failures(), until))
    }
}
