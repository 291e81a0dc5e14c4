//! What connections show of backends, and what becomes of that.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Action, Figures, Health, Passive, Turn,
    passive::{Grounds, Terms},
};
use crate::model::{BackendKey, Model, Scheduler, Service, ServiceName, check::PassiveMode};

/// Of one service.
#[derive(Debug)]
pub(super) struct Opinion {
    mode: PassiveMode,
    is_aimed: bool,
    spread: Spread,
    pub hold: Duration,
    pub passive: Passive,
}

/// What decides how connections are spread, as configured.
#[derive(Debug, PartialEq, Eq)]
struct Spread {
    scheduler: Scheduler,
    is_persistent: bool,
    weights: BTreeMap<BackendKey, u16>,
}

impl Health {
    /// Takes in which services want it.
    pub(super) fn ask(&mut self, model: &Model) {
        let mut before = std::mem::take(&mut self.opinions);
        let asked = model.services.iter().filter(|service| service.health.passive != PassiveMode::Off);
        let opinions = asked.map(|service| {
            let (mut passive, spread) = (Passive::default(), Spread::of(service));
            if let Some(before) = before.remove(&service.name) {
                passive = before.passive;
                if before.spread != spread {
                    passive.learn_anew();
                }
            }
            let (mode, hold) = (service.health.passive, service.health.passive_hold.duration());
            (service.name.clone(), Opinion { mode, is_aimed: spread.is_aimed(), spread, hold, passive })
        });
        self.opinions = opinions.collect();
    }

    /// What connections show. Who fails by its checks, or is worked on, is judged by that alone.
    pub(super) fn counted(
        &mut self,
        now: Duration,
        service: ServiceName,
        guarded: bool,
        figures: Vec<(BackendKey, Figures)>,
        actions: &mut Vec<Action>,
    ) {
        let Some(mut opinion) = self.opinions.remove(&service) else { return };
        let is_judged =
            |key| self.healthy(&service, key) && !self.maintained.contains(&(service.clone(), key));
        let (mut turns, is_out) = (Vec::new(), opinion.mode == PassiveMode::Out);
        let terms = Terms { hold: opinion.hold, is_aimed: opinion.is_aimed, guarded };
        opinion.passive.read(now, terms, &figures, is_judged, &mut turns);
        self.opinions.insert(service.clone(), opinion);
        for turn in turns {
            match turn {
                Turn::Suspect(key, until, why) => {
                    let left = until.saturating_sub(now);
                    actions.push(Action::Suspect(service.clone(), key, left, why));
                }
                Turn::Trusted(key, grounds) => {
                    if is_out && grounds == Grounds::Handshakes && self.held(&service, key).is_none() {
                        self.begin_slowly(now, &service, key);
                    }
                    actions.push(Action::Trusted(service.clone(), key));
                }
            }
        }
    }

    /// What becomes of a backend whose connections fare worse than the others', until when at least, and why.
    pub fn suspicion(&self, service: &ServiceName, key: BackendKey) -> Option<(PassiveMode, Duration, &str)> {
        let opinion = self.opinions.get(service)?;
        let (grounds, until, why) = opinion.passive.suspicion(key)?;
        let mode = if grounds == Grounds::Resets { PassiveMode::Lower } else { opinion.mode };
        Some((mode, until, why))
    }
}

impl Spread {
    fn of(service: &Service) -> Self {
        let weights = service.backends.iter().map(|backend| (backend.key, backend.weight)).collect();
        let is_persistent = service.options.persistence.is_some_and(|it| it.is_on());
        Self { scheduler: service.scheduler, is_persistent, weights }
    }

    /// Whether the backend follows from a client's address or from what it connects to, so that a flood can be aimed at
    /// one.
    fn is_aimed(&self) -> bool {
        use Scheduler::{Dh, Lblc, Lblcr, Mh, Sh};
        self.is_persistent || matches!(self.scheduler, Sh(_) | Mh(_) | Dh | Lblc | Lblcr)
    }
}
