//! Attempts that are not due yet, and what is common to those that are.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, mpsc::UnboundedSender},
    time::{Instant, sleep_until},
};

use super::{Common, Tally, attempt};
use crate::{
    clock::monotonic,
    health::{Outcome, Pass, Probe, ProbeId, Wanted},
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

    /// There is nobody any more to make what is waiting.
    pub fn end(self, maker: &Maker) {
        self.waiting.into_keys().for_each(|(_, id)| maker.not_made(id, ENDED));
    }
}

/// What every attempt needs.
#[derive(Clone, Debug)]
pub struct Maker {
    results: UnboundedSender<(ProbeId, Outcome)>,
    tally: Tally,
    common: Arc<Common>,
    /// Permits for all that may be under way at once.
    room: Arc<Semaphore>,
}

impl Maker {
    pub fn new(results: UnboundedSender<(ProbeId, Outcome)>) -> Self {
        let room = Arc::new(Semaphore::new(take_descriptors()));
        Self { results, tally: Tally::default(), common: Arc::default(), room }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes an attempt on.
    pub fn owe(self, id: ProbeId) -> Owed {
        Owed { maker: self, id, is_told: false }
    }

    /// The result of one that is not made.
    pub fn not_made(&self, id: ProbeId, why: &str) {
        self.tell(id, Outcome { took: Duration::ZERO, result: Ok(Pass::not_made(why)) });
    }

    pub fn tell(&self, id: ProbeId, outcome: Outcome) {
        // The agent is ending.
        let _ = self.results.send((id, outcome));
    }
}

/// An attempt whose result somebody waits for: also if the thread ends that makes it.
#[derive(Debug)]
pub struct Owed {
    maker: Maker,
    id: ProbeId,
    is_told: bool,
}

impl Owed {
    /// Makes it, which has been due since then, and tells its result. Where there is no room for it, it begins later: a
    /// director that lacks descriptors must not say that a backend fails.
    pub async fn make(mut self, due: Duration, probe: &Probe) {
        // It is never closed.
        let _room = self.maker.room.clone().acquire_owned().await;
        self.maker.tally.begun(probe, monotonic().saturating_sub(due));
        let outcome = attempt(probe, &self.maker.common).await;
        self.maker.tally.ended(probe, outcome.result.is_err());
        self.is_told = true;
        self.maker.tell(self.id, outcome);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.is_told {
            self.maker.not_made(self.id, ENDED);
        }
    }
}

/// Why an attempt is not made that was wanted of a thread that ends.
const ENDED: &str = "its way was taken down";

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

    /// The way through the VIP may be made anew at any time.
    #[tokio::test]
    async fn who_asked_hears_of_attempts_that_a_thread_leaves_behind() {
        let (results, mut told) = tokio::sync::mpsc::unbounded_channel();
        let maker = Maker::new(results);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let http = CheckKind::Http(crate::model::check::HttpCheck::default());
        let probe = Arc::new(probe(http, silent.local_addr().expect("it has one").port()));
        let mut queue = Queue::default();
        queue.extend([Wanted { due: Duration::MAX, id: 1.into(), probe: probe.clone() }]);
        queue.end(&maker);
        let mut begun = Box::pin(maker.clone().owe(2.into()).make(Duration::ZERO, &probe));
        assert!(futures::poll!(&mut begun).is_pending());
        drop(begun);
        drop(maker.clone().owe(3.into()).make(Duration::ZERO, &probe));
        for id in [1, 2, 3] {
            let (of, outcome) = told.recv().await.expect("a result");
            assert_eq!((of, outcome.words()), (id.into(), "not made: its way was taken down"));
        }
    }
}
