//! What happens is said here, and only here: numbered, stored, logged, and given to who listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::Agent;
use crate::{
    api::server::Feed,
    clock::{monotonic, realtime},
    events::{Around, BackendPicture, Draft, Event, EventFile, Level, Picture, Ring, ServicePicture},
    health::{CheckView, Health, Instead},
    model::{Model, Service},
    notify::{Notifier, Settings},
    plan::{ByHealth, Snapshot, name_of},
};

/// The event log of the running agent.
pub struct EventLog {
    feed: Feed,
    file: EventFile,
    notifier: Notifier,
    pools: Picture,
    around: Around,
    /// Why events are not in the file.
    pub warning: Option<String>,
}

impl EventLog {
    /// Goes on where an earlier agent was. The second is a warning.
    pub fn open(state: &Path, notifier: Notifier) -> (Self, Option<String>) {
        let (file, events, warning) = EventFile::open(state);
        let feed = Feed::new(Ring::resume(events));
        let (pools, around) = (Picture::default(), Around::default());
        (Self { feed, file, notifier, pools, around, warning: None }, warning)
    }

    /// For who follows.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// All that happened at once, in this order. It is stored before anybody hears of it: an agent that is
    /// killed meanwhile leaves no number that its successor would give to something else.
    pub fn say(&mut self, drafts: impl IntoIterator<Item = Draft>) {
        let events = self.feed.number(realtime(), drafts);
        if events.is_empty() {
            return;
        }
        self.store(&events);
        for event in &events {
            log(event);
            self.notifier.tell(event);
        }
        self.feed.publish(&events);
    }

    fn store(&mut self, events: &[Arc<Event>]) {
        let warning = self
            .file
            .append(events)
            .err()
            .map(|(error, missing)| format!("{missing} events are not in the event log's file: {error}"));
        if let Some(warning) = warning.as_ref().filter(|_| self.warning.is_none()) {
            tracing::error!("{warning}; trying again with the next one");
        }
        self.warning = warning;
    }

    /// Other people are to be told, or in another way.
    pub fn follow(&mut self, settings: Settings) {
        self.notifier.follow(settings);
    }

    /// The agent's last words are said: gives them time to be heard.
    pub fn finish(self) {
        self.notifier.finish();
    }

    /// Takes the pools as they are, without a word: so they were found.
    pub fn begin(&mut self, model: &Model, health: &Health) {
        self.pools = picture(model, health);
    }

    fn see_pools(&mut self, model: &Model, health: &Health) {
        let now = picture(model, health);
        let drafts = now.since(&self.pools);
        self.pools = now;
        self.say(drafts);
    }
}

impl Agent {
    pub(super) fn say(&mut self, draft: Draft) {
        self.events.say([draft]);
    }

    /// What checks have shown, and what that or a change of the model has made of the pools.
    pub(super) fn see_pools(&mut self) {
        let drafts = std::mem::take(&mut self.monitor.said);
        self.events.say(drafts);
        self.events.see_pools(&self.model, &self.monitor.health);
    }

    /// Backends' MACs.
    pub(super) fn see_neighbours(&mut self) {
        let known = self.network.known(&self.model);
        let services = self.model.services.iter();
        let backends =
            services.flat_map(|service| service.backends.iter().map(|backend| (&service.name, backend.key)));
        let drafts = self.events.around.neighbours(known, backends);
        self.events.say(drafts);
    }

    /// What nobody tells us about: the timer looks.
    pub(super) fn look_around(&mut self, snapshot: &Snapshot) {
        let now = self.clock.now();
        let guarded = snapshot.services.iter().filter(|(id, _)| self.pins.maps.is_guarded(**id, now));
        let flooded: BTreeSet<_> =
            guarded.filter_map(|(_, record)| name_of(&record.name).parse().ok()).collect();
        let mut drafts = self.events.around.floods(monotonic(), &flooded);
        let resizing = self.pins.meta.is_migrating();
        // While it goes on, its warning counts.
        let growth = self.growth.warning.iter().filter(|_| !resizing);
        let problems = self
            .warnings
            .iter()
            .cloned()
            .chain(self.interfaces.warnings().cloned())
            .chain(growth.cloned())
            .chain(self.probe_warnings());
        drafts.extend(self.events.around.problems(problems.collect()));
        self.events.say(drafts);
    }
}

fn picture(model: &Model, health: &Health) -> Picture {
    Picture(model.services.iter().map(|service| (service.name.clone(), pictured(service, health))).collect())
}

fn pictured(service: &Service, health: &Health) -> ServicePicture {
    let pool = health.pool(service);
    let has_backups = service.backends.iter().any(|backend| backend.health.backup);
    let backends: BTreeMap<_, _> = (service.backends.iter())
        .map(|backend| {
            let weight = match pool.given.get(&backend.key) {
                Some(ByHealth::Weight(weight)) => *weight,
                Some(ByHealth::Out) if !pool.reserve.contains(&backend.key) => 0,
                None | Some(ByHealth::Out) => backend.weight,
            };
            // Only who has not all of its weight has something to say.
            let checks = pool.given.get(&backend.key).map(|_| health.checks(&service.name, backend.key));
            let starting = health.is_starting(&service.name, backend.key).then(|| "slow start".to_owned());
            let suspect = health.suspicion(&service.name, backend.key).map(|_| "suspect".to_owned());
            let why: Vec<_> = starting
                .into_iter()
                .chain(suspect)
                .chain(checks.iter().flatten().filter_map(CheckView::trouble))
                .collect();
            let picture = BackendPicture {
                drained: backend.drained,
                maintenance: backend.maintenance.as_ref().map(ToString::to_string),
                healthy: health.healthy(&service.name, backend.key),
                configured: backend.weight,
                weight,
                why: why.join("; "),
            };
            (backend.key, picture)
        })
        .collect();
    ServicePicture {
        has_quorum: pool.has_quorum,
        backups_serve: has_backups && !pool.has_quorum && pool.instead != Some(Instead::StandBys),
        primary_serves: pool.instead == Some(Instead::StandBys),
        all_kept: pool.panics,
        backends,
    }
}

/// The event's line in the agent's log.
fn log(event: &Event) {
    let Draft { kind, service, backend, .. } = &event.what;
    let (service, backend) =
        (service.as_ref().map(tracing::field::display), backend.map(tracing::field::display));
    let (seq, what) = (event.seq, &event.what);
    match kind.level() {
        Level::Info => tracing::info!(service, backend, event = %kind, seq, "{what}"),
        Level::Warning => tracing::warn!(service, backend, event = %kind, seq, "{what}"),
        Level::Error => tracing::error!(service, backend, event = %kind, seq, "{what}"),
    }
}
