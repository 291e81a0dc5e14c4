//! What connections show of backends, and what becomes of that.

use std::time::Duration;

use super::{Action, Figures, Health, Passive, Turn};
use crate::model::{BackendKey, Model, ServiceName, check::PassiveMode};

/// Of one service.
#[derive(Debug)]
pub(super) struct Opinion {
    mode: PassiveMode,
    pub hold: Duration,
    pub passive: Passive,
}

impl Health {
    /// Takes in which services want it.
    pub(super) fn ask(&mut self, model: &Model) {
        let mut before = std::mem::take(&mut self.opinions);
        let asked = model.services.iter().filter(|service| service.health.passive != PassiveMode::Off);
        let opinions = asked.map(|service| {
            let passive = before.remove(&service.name).map(|it| it.passive).unwrap_or_default();
            let (mode, hold) = (service.health.passive, service.health.passive_hold.duration());
            (service.name.clone(), Opinion { mode, hold, passive })
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
        opinion.passive.read(now, opinion.hold, guarded, &figures, is_judged, &mut turns);
        self.opinions.insert(service.clone(), opinion);
        for turn in turns {
            match turn {
                Turn::Suspect(key, until, why) => {
                    let left = until.saturating_sub(now);
                    actions.push(Action::Suspect(service.clone(), key, left, why));
                }
                Turn::Trusted(key) => {
                    if is_out && self.held(&service, key).is_none() {
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
        let (until, why) = opinion.passive.suspicion(key)?;
        Some((opinion.mode, until, why))
    }
}
