//! Two pictures of the state, and what has happened between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Draft, Kind};
use crate::{
    model::{BackendKey, ServiceName},
    neigh::Known,
};

/// Pools, as health and operators have made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(pub BTreeMap<ServiceName, ServicePicture>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePicture {
    pub has_quorum: bool,
    /// Backups get the connections.
    pub backups_serve: bool,
    /// A primary that stood by gets them.
    pub primary_serves: bool,
    /// All are kept, since too many fail.
    pub all_kept: bool,
    pub backends: BTreeMap<BackendKey, BackendPicture>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendPicture {
    pub drained: bool,
    /// Who works on it, why and until when.
    pub maintenance: Option<String>,
    pub healthy: bool,
    pub configured: u16,
    /// What health makes of the configured weight; 0 if it is out. One that serves in the place of
    /// others has its own, whether it is needed or not.
    pub weight: u16,
    /// What its checks have to say.
    pub why: String,
}

impl Picture {
    /// What happened since `before`. Of services and backends that are new there is nothing to say yet.
    pub fn since(&self, before: &Self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for (name, service) in &self.0 {
            let Some(old) = before.0.get(name) else { continue };
            for (key, backend) in &service.backends {
                let Some(old) = old.backends.get(key) else { continue };
                drafts.extend(backend.since(old).map(|draft| draft.of(name).at(*key)));
            }
            let mut turned = |was: bool, is: bool, begin: Kind, end: Kind| {
                if was != is {
                    drafts.push(Draft::new(if is { begin } else { end }).of(name));
                }
            };
            turned(old.all_kept, service.all_kept, Kind::AllKept, Kind::AllKeptEnd);
            turned(old.has_quorum, service.has_quorum, Kind::QuorumUp, Kind::QuorumDown);
            turned(old.backups_serve, service.backups_serve, Kind::BackupsServe, Kind::BackupsRest);
            turned(old.primary_serves, service.primary_serves, Kind::PrimaryServes, Kind::PrimaryRests);
        }
        drafts
    }
}

impl BackendPicture {
    fn since(&self, old: &Self) -> impl Iterator<Item = Draft> + use<> {
        let drained = (self.drained != old.drained)
            .then(|| Draft::new(if self.drained { Kind::Drained } else { Kind::Undrained }));
        // Going and coming are said by other events, and what an operator configures is no news to him.
        let weight = match (old.weight, self.weight) {
            (before, after)
                if before != after && self.configured == old.configured && old.healthy && self.healthy =>
            {
                let draft = Draft::new(Kind::Weight).because(&self.why);
                Some(Draft { weight: Some((before, after)), ..draft })
            }
            _ => None,
        };
        let maintenance = match (&old.maintenance, &self.maintenance) {
            (old, new) if old == new => None,
            (_, Some(new)) => Some(Draft::new(Kind::Maintenance).because(new)),
            // What fails meanwhile is no news; what still fails afterwards is.
            (Some(old), None) if !self.healthy => {
                Some(Draft::new(Kind::MaintenanceEnd).because(format!("{old}; it is down: {}", self.why)))
            }
            (old, None) => old.as_ref().map(|old| Draft::new(Kind::MaintenanceEnd).because(old)),
        };
        drained.into_iter().chain(maintenance).chain(weight)
    }
}

/// What surrounds the pools; some of it flickers, so it has a memory.
#[derive(Debug, Default)]
pub struct Around {
    problems: BTreeSet<String>,
    /// Services under a flood, and when that was seen last.
    floods: BTreeMap<ServiceName, Duration>,
    neighbours: BTreeMap<IpAddr, Known>,
}

/// A flood that has not been seen for so long is over.
const CALM: Duration = Duration::from_secs(10);

impl Around {
    /// Sentences of what needs attention now.
    pub fn problems(&mut self, now: BTreeSet<String>) -> Vec<Draft> {
        let begun = now.difference(&self.problems).map(|text| Draft::new(Kind::Problem).because(text));
        let over = self.problems.difference(&now).map(|text| Draft::new(Kind::ProblemEnd).because(text));
        let drafts = begun.chain(over).collect();
        self.problems = now;
        drafts
    }

    /// Services whose guard holds new connections back at this moment.
    pub fn floods(&mut self, now: Duration, flooded: &BTreeSet<ServiceName>) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for name in flooded {
            if self.floods.insert(name.clone(), now).is_none() {
                drafts.push(Draft::new(Kind::FloodBegin).of(name));
            }
        }
        self.floods.retain(|name, seen| {
            let goes_on = now < *seen + CALM;
            if !goes_on {
                drafts.push(Draft::new(Kind::FloodEnd).of(name));
            }
            goes_on
        });
        drafts
    }

    /// Which neighbours are known, and the backends behind each address. Of who is new there is nothing to say
    /// until it is lost.
    pub fn neighbours<'a>(
        &mut self,
        known: BTreeMap<IpAddr, Known>,
        backends: impl Iterator<Item = (&'a ServiceName, BackendKey)>,
    ) -> Vec<Draft> {
        let mut drafts = Vec::new();
        if known == self.neighbours {
            return drafts;
        }
        for (service, key) in backends {
            let (Some(old), Some(new)) = (self.neighbours.get(&key.address), known.get(&key.address)) else {
                continue;
            };
            let draft = match (old.answers, new.answers) {
                _ if old.mac != new.mac => Draft::new(Kind::NeighbourChanged).because(format!(
                    "{} instead of {}",
                    shown(new.mac),
                    shown(old.mac)
                )),
                (true, false) => Draft::new(Kind::NeighbourLost).because(shown(new.mac)),
                (false, true) => Draft::new(Kind::NeighbourFound).because(shown(new.mac)),
                _ => continue,
            };
            drafts.push(draft.of(service).at(key));
        }
        self.neighbours = known;
        drafts
    }
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ServiceName {
        "web".parse().expect("a name")
    }

    fn key() -> BackendKey {
        "10.0.0.1:80".parse().expect("a key")
    }

    fn picture(service: ServicePicture) -> Picture {
        Picture([(name(), service)].into())
    }

    fn kinds(drafts: &[Draft]) -> Vec<Kind> {
        drafts.iter().map(|draft| draft.kind).collect()
    }

    fn with(backend: BackendPicture) -> Picture {
        picture(ServicePicture {
            has_quorum: true,
            backends: [(key(), backend)].into(),
            ..Default::default()
        })
    }

    #[test]
    fn pools_turn() {
        let calm = ServicePicture { has_quorum: true, ..Default::default() };
        let bad = ServicePicture { all_kept: true, backups_serve: true, ..Default::default() };
        let (calm, bad) = (picture(calm), picture(bad));
        assert_eq!(kinds(&bad.since(&calm)), [Kind::AllKept, Kind::QuorumDown, Kind::BackupsServe]);
        assert_eq!(kinds(&calm.since(&bad)), [Kind::AllKeptEnd, Kind::QuorumUp, Kind::BackupsRest]);
        assert!(bad.since(&bad).is_empty() && bad.since(&Picture::default()).is_empty());
    }

    #[test]
    fn a_weight_is_news_only_if_health_made_it() {
        let full = BackendPicture { healthy: true, configured: 10, weight: 10, ..Default::default() };
        let half = BackendPicture { weight: 5, why: "5 s behind".to_owned(), ..full.clone() };
        let drafts = with(half.clone()).since(&with(full.clone()));
        assert_eq!(drafts.len(), 1);
        assert_eq!((drafts[0].weight, drafts[0].reason.as_str()), (Some((10, 5)), "5 s behind"));
        assert_eq!((drafts[0].service.clone(), drafts[0].backend), (Some(name()), Some(key())));
        let other = BackendPicture { configured: 5, ..half.clone() };
        assert!(with(other).since(&with(full.clone())).is_empty());
        let down = BackendPicture { healthy: false, weight: 0, ..full.clone() };
        assert!(with(down.clone()).since(&with(full.clone())).is_empty(), "another event says so");
        assert!(with(full.clone()).since(&with(down)).is_empty());
        let drained = BackendPicture { drained: true, ..full.clone() };
        assert_eq!(kinds(&with(drained.clone()).since(&with(full.clone()))), [Kind::Drained]);
        assert_eq!(kinds(&with(full.clone()).since(&with(drained))), [Kind::Undrained]);
        let works = |by: &str| BackendPicture { maintenance: Some(by.to_owned()), ..full.clone() };
        assert_eq!(kinds(&with(works("a")).since(&with(full.clone()))), [Kind::Maintenance]);
        assert_eq!(kinds(&with(works("b")).since(&with(works("a")))), [Kind::Maintenance]);
        let fails = BackendPicture { healthy: false, why: "tcp: refused".to_owned(), ..full.clone() };
        let over = with(fails).since(&with(works("a")));
        assert_eq!(kinds(&over), [Kind::MaintenanceEnd]);
        assert_eq!(over[0].reason, "a; it is down: tcp: refused");
    }

    #[test]
    fn a_flood_that_flickers_is_one() {
        let mut around = Around::default();
        let (on, off) = (BTreeSet::from([name()]), BTreeSet::new());
        let mut at = |seconds, flooded| kinds(&around.floods(Duration::from_secs(seconds), flooded));
        assert_eq!(at(1, &on), [Kind::FloodBegin]);
        assert_eq!(at(2, &off), []);
        assert_eq!(at(9, &on), []);
        assert_eq!(at(18, &off), []);
        assert_eq!(at(19, &off), [Kind::FloodEnd]);
        assert_eq!(at(20, &on), [Kind::FloodBegin]);
    }

    #[test]
    fn problems_come_and_go_once() {
        let mut around = Around::default();
        let lro: BTreeSet<String> = ["eth0: LRO is on".to_owned()].into();
        assert_eq!(kinds(&around.problems(lro.clone())), [Kind::Problem]);
        assert_eq!(kinds(&around.problems(lro)), []);
        let over = around.problems(BTreeSet::new());
        assert_eq!((kinds(&over), over[0].reason.as_str()), (vec![Kind::ProblemEnd], "eth0: LRO is on"));
    }

    #[test]
    fn neighbours_are_lost_found_and_change() {
        let mut around = Around::default();
        let service = name();
        let mut seen = |mac: u8, answers| {
            let known = BTreeMap::from([(key().address, Known { mac: [2, 0, 0, 0, 0, mac], answers })]);
            around.neighbours(known, [(&service, key())].into_iter())
        };
        assert_eq!(kinds(&seen(1, true)), [], "it is new");
        assert_eq!(kinds(&seen(1, false)), [Kind::NeighbourLost]);
        assert_eq!(kinds(&seen(1, false)), []);
        assert_eq!(kinds(&seen(1, true)), [Kind::NeighbourFound]);
        let changed = seen(2, true);
        assert_eq!(kinds(&changed), [Kind::NeighbourChanged]);
        assert_eq!(changed[0].reason, "02:00:00:00:00:02 instead of 02:00:00:00:00:01");
    }
}
