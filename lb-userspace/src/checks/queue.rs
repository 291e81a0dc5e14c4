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
    health::{Failure, Outcome, Pass, Probe, ProbeId, Wanted},
};

/// So many begin in a millisecond at most. What has become late, while this process had no CPU, must not come as one burst:
/// the rings of network cards and virtual devices have room for 256 frames and more, and a SYN that is lost is missed for
/// a second.
const AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// By when they are due.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<(Duration, ProbeId), Arc<Probe>>,
    /// None begins before.
    pause_until: Duration,
}

impl Queue {
    pub fn extend(&mut self, wanted: impl IntoIterator<Item = Wanted>) {
        self.waiting.extend(wanted.into_iter().map(|it| ((it.due, it.id), it.probe)));
    }

    /// When [`Queue::take_due`] has some.
    fn deadline(&self) -> Option<Duration> {
        let ((due, _), _) = self.waiting.first_key_value()?;
        Some(self.pause_until.max(*due))
    }

    /// Waits until then.
    pub async fn next_due(&self) {
        let Some(deadline) = self.deadline() else { return pending().await };
        sleep_until(Instant::now() + deadline.saturating_sub(monotonic())).await;
    }

    /// Those that are to begin now.
    pub fn take_due(&mut self, now: Duration) -> Vec<Wanted> {
        let mut due = Vec::new();
        while due.len() < AT_ONCE && self.deadline().is_some_and(|deadline| deadline <= now) {
            let first = self.waiting.pop_first();
            due.extend(first.map(|((due, id), probe)| Wanted { due, id, probe }));
        }
        if due.len() == AT_ONCE {
            self.pause_until = now + PAUSE;
        }
        due
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
        self.tally.ended(probe, outcome.result.is_err());
        self.tell(id, outcome);
    }

    /// The result of one that is not made.
    pub fn not_made(&self, id: ProbeId, result: Result<Pass, Failure>) {
        self.tell(id, Outcome { took: Duration::ZERO, result });
    }

    fn tell(&self, id: ProbeId, outcome: Outcome) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checks::tests::probe, model::check::CheckKind};

    #[test]
    fn what_is_late_does_not_come_as_a_burst() {
        let probe = Arc::new(probe(CheckKind::Tcp, 80));
        let second = Duration::from_secs(1);
        let wanted = |id: u64| Wanted { due: second * id as u32, id: id.into(), probe: probe.clone() };
        let mut queue = Queue::default();
        queue.extend((0..100).map(wanted));
        assert_eq!(queue.take_due(Duration::ZERO).len(), 1);
        assert_eq!(queue.deadline(), Some(second));
        // The process had no CPU for so long.
        let now = 1000 * second;
        let first = queue.take_due(now);
        assert_eq!(first.len(), AT_ONCE);
        assert!(first.is_sorted_by_key(|it| it.due), "the latest first");
        assert_eq!((queue.take_due(now).len(), queue.deadline()), (0, Some(now + PAUSE)));
        assert_eq!(queue.take_due(now + PAUSE).len(), 99 - AT_ONCE);
        assert_eq!(queue.deadline(), None);
    }
}
