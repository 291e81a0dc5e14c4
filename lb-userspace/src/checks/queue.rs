//! Attempts that are not due yet, and what is common to those that are.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, mpsc::UnboundedSender},
    time::{Instant, sleep_until},
};

use super::{Tally, attempt, tls::Tls};
use crate::{
    clock::monotonic,
    health::{Outcome, Probe, ProbeId, Wanted},
};

/// By when they are due.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<(Duration, ProbeId), Arc<Probe>>,
}

impl Queue {
    pub fn add(&mut self, wanted: Wanted) {
        self.waiting.insert((wanted.due, wanted.id), wanted.probe);
    }

    /// Waits until one is due.
    pub async fn next_due(&self) {
        let Some(((due, _), _)) = self.waiting.first_key_value() else { return pending().await };
        sleep_until(Instant::now() + due.saturating_sub(monotonic())).await;
    }

    /// The next one that is.
    pub fn take_due(&mut self, now: Duration) -> Option<Wanted> {
        let ((due, id), probe) =
            self.waiting.first_entry().filter(|first| first.key().0 <= now)?.remove_entry();
        Some(Wanted { due, id, probe })
    }
}

/// What every attempt needs.
#[derive(Clone, Debug)]
pub struct Maker {
    results: UnboundedSender<(ProbeId, Outcome)>,
    tally: Tally,
    tls: Arc<Tls>,
    /// Permits for all that may be under way at once.
    room: Arc<Semaphore>,
}

impl Maker {
    pub fn new(results: UnboundedSender<(ProbeId, Outcome)>) -> Self {
        let room = Arc::new(Semaphore::new(take_descriptors()));
        Self { results, tally: Tally::default(), tls: Arc::default(), room }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Makes an attempt, which has been due since then, and tells its result. Where there is no room for it, it begins
    /// later: a director that lacks descriptors must not say that a backend fails.
    pub async fn make(self, id: ProbeId, due: Duration, probe: &Probe) {
        // It is never closed.
        let _room = self.room.acquire().await;
        self.tally.begun(probe, monotonic().saturating_sub(due));
        let outcome = attempt(probe, &self.tls).await;
        self.tell(id, probe, outcome);
    }

    /// The same of one that need not be made.
    pub fn tell(&self, id: ProbeId, probe: &Probe, outcome: Outcome) {
        self.tally.ended(probe, outcome.result.is_err());
        // The agent is ending.
        let _ = self.results.send((id, outcome));
    }
}

/// Most descriptors of an attempt.
const DESCRIPTORS: u64 = 2;
/// What else the agent has open: maps, programs, sockets, clients.
const OTHERS: u64 = 512;

/// Each attempt may hold a descriptor or two until its timeout, and systemd's soft limit is 1024 (systemd.exec(5)):
/// takes all that the hard one allows. How many attempts there is room for.
fn take_descriptors() -> usize {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard).inspect_err(|error| {
            tracing::warn!(
                "the limit of open files ({soft}) cannot be raised: {error}; many checks at once may be late"
            );
        })
    });
    let limit = raised.or_else(|_| getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft)).unwrap_or(1024);
    let room = limit.saturating_sub(OTHERS) / DESCRIPTORS;
    usize::try_from(room).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}
