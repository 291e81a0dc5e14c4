//! A check as it is shown.

use super::{Entry, Health, Outcome, ProbeId, Reweighting, State, Weight};

/// One check of a backend as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckView {
    /// What it does: `tcp`, `tcp to port 8080`.
    pub check: String,
    pub state: State,
    /// How the last attempt ended.
    pub last: Option<Outcome>,
    /// Results in a row that speak against the state, and how many change it.
    pub against: Option<(u16, u16)>,
    pub weight: Weight,
}

impl CheckView {
    /// What there is to say if it does not simply pass: `tcp: connection refused after 0.3 ms (1 of 3)`.
    pub fn trouble(&self) -> Option<String> {
        let Self { check, state, last, against, weight } = self;
        let told = match last {
            Some(outcome) => outcome.told(),
            None => "not checked yet".to_owned(),
        };
        let so_far = against.map(|(so_far, needed)| format!(" ({so_far} of {needed})")).unwrap_or_default();
        let is_plain = *weight == Weight::Configured
            && *state == State::Up
            && against.is_none()
            && last.as_ref().is_none_or(|it| it.result.is_ok());
        (!is_plain).then(|| format!("{check}: {told}{so_far}"))
    }
}

impl Health {
    /// What there is to say of a check.
    pub(super) fn reweighting(&self, id: ProbeId) -> Option<Reweighting> {
        let entry = self.entries.get(&id)?;
        let why = self.last(entry).map(|last| last.told()).unwrap_or_default();
        let Entry { service, backend, label, .. } = entry;
        Some(Reweighting { service: service.clone(), backend: *backend, check: label.clone(), why })
    }
}
