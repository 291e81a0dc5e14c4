//! What was in progress, for the agent that comes after: holds, suspicions, slow starts, quorums.
//!
//! Times are saved by the wall clock, as CLOCK_MONOTONIC begins anew with each boot. None is believed beyond what
//! the options of today allow, so neither a clock that jumped nor a stale file keeps a backend out for longer.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Health, flap::SavedDamping, passive::SavedSuspicion, returning::SavedStart};
use crate::model::{BackendKey, Model, ServiceName};

/// Two clocks at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC, by which the machines go.
    pub monotonic: Duration,
    /// CLOCK_REALTIME.
    pub wall: Timestamp,
}

/// Of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ongoing {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    without_quorum: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    backends: BTreeMap<BackendKey, OfBackend>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfBackend {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    damping: Option<SavedDamping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspicion: Option<SavedSuspicion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<SavedStart>,
}

impl Clocks {
    /// When it is `at` by the machines' clock.
    pub fn wall_at(&self, at: Duration) -> Timestamp {
        let time = match at.checked_sub(self.monotonic) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.monotonic - at),
        };
        time.unwrap_or(self.wall)
    }

    /// The same the other way; of what was before the boot, the boot.
    pub fn monotonic_at(&self, at: Timestamp) -> Duration {
        let ahead = at.duration_since(self.wall);
        match ahead.is_negative() {
            true => self.monotonic.saturating_sub(ahead.unsigned_abs()),
            false => self.monotonic.saturating_add(ahead.unsigned_abs()),
        }
    }

    /// How long ago it was; nothing of what is to come.
    pub fn since(&self, at: Timestamp) -> Duration {
        self.wall.duration_since(at).try_into().unwrap_or_default()
    }
}

impl Health {
    /// What is in progress, of the services where anything is.
    pub(super) fn ongoing(&self, clocks: Clocks) -> BTreeMap<ServiceName, Ongoing> {
        let all = self.backends.iter().map(|(service, backends)| {
            let of = backends.keys().map(|key| (*key, self.ongoing_of(clocks, service, *key)));
            let backends = of.filter(|(_, it)| *it != OfBackend::default()).collect();
            (service.clone(), Ongoing { without_quorum: self.without_quorum.contains(service), backends })
        });
        all.filter(|(_, it)| *it != Ongoing::default()).collect()
    }

    fn ongoing_of(&self, clocks: Clocks, service: &ServiceName, key: BackendKey) -> OfBackend {
        let of = (service.clone(), key);
        OfBackend {
            damping: self.damped.get(&of).map(|damping| damping.saved(clocks)),
            suspicion: self.opinions.get(service).and_then(|opinion| opinion.passive.saved(clocks, key)),
            start: self.starting.get(&of).map(|start| start.saved(clocks)),
        }
    }

    /// Goes on with it, where the backend is still there and the option still set.
    pub(super) fn go_on(
        &mut self,
        now: Duration,
        clocks: Clocks,
        model: &Model,
        ongoing: BTreeMap<ServiceName, Ongoing>,
    ) {
        if ongoing.is_empty() {
            return;
        }
        for (service, Ongoing { without_quorum, backends }) in ongoing {
            let Some(there) = model.services.iter().find(|it| it.name == service) else { continue };
            if without_quorum {
                self.without_quorum.insert(service.clone());
            }
            for (key, OfBackend { damping, suspicion, start }) in backends {
                if !there.backends.iter().any(|backend| backend.key == key) {
                    continue;
                }
                let of = (service.clone(), key);
                if let (Some(saved), Some(hold)) = (damping, self.holds.get(&service)) {
                    self.damped.extend(saved.resume(clocks, *hold).map(|damping| (of.clone(), damping)));
                }
                if let (Some(saved), Some(opinion)) = (suspicion, self.opinions.get_mut(&service)) {
                    opinion.passive.resume(clocks, key, opinion.hold, saved);
                }
                if let (Some(saved), Some(slow)) = (start, self.slow.get(&service)) {
                    self.starting.insert(of, saved.resume(clocks, *slow));
                }
            }
        }
        // Nobody has to be told of steps that are to be seen in the first pool.
        self.start_on(now, &mut Vec::new());
    }
}
