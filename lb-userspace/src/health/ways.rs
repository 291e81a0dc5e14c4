//! The two ways to a backend: what a check to its own address says of the same one through the VIP.

use super::{Entry, Failure, Health, Outcome, Pass, ProbeId};

impl Entry {
    /// Whether it is the same check to the backend's own address, which passes.
    fn is_own_of(&self, other: &Self) -> bool {
        !self.probe.via_vip
            && self.label == other.own
            && self.machine.last().is_some_and(|last| last.result.is_ok())
    }
}

impl Health {
    /// How the last attempt ended. That the same passes at the backend's own address is half of the cause.
    pub(super) fn last(&self, entry: &Entry) -> Option<Outcome> {
        let mut last = entry.machine.last().cloned()?;
        if let Err(Failure { why }) = &mut last.result
            && entry.probe.via_vip
            && self.machines(&entry.service, entry.backend).any(|other| other.is_own_of(entry))
        {
            *why = format!("it answers on its own address, but not here: {why}");
        }
        Some(last)
    }

    /// Silence may pass, but not through the VIP while the backend's own address answers the same.
    pub(super) fn believed(&self, id: ProbeId, outcome: Outcome) -> Outcome {
        let is_silent = |result: &Result<Pass, Failure>| result.as_ref().is_ok_and(Pass::is_silence);
        let entry = self.entries.get(&id).filter(|it| it.probe.via_vip && is_silent(&outcome.result));
        let Some(entry) = entry else { return outcome };
        let own = self.machines(&entry.service, entry.backend).find(|other| other.is_own_of(entry));
        match own.and_then(|own| own.machine.last()) {
            Some(own) if !is_silent(&own.result) => {
                let why =
                    format!("no reply (is {} on its lo? does rp_filter drop it?)", entry.probe.target.ip());
                Outcome { result: Err(Failure { why }), ..outcome }
            }
            _ => outcome,
        }
    }
}
