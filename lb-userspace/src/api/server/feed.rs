//! The event log as the API reads it. The agent writes; a follower waits here and not in the agent's loop.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::timeout};

use crate::events::{Draft, Event, Filter, Listed, Ring};

/// Longest wait of one request, in seconds: below the client's patience.
const LONGEST_WAIT: u64 = 25;

/// The newest events, shared with those who follow them.
#[derive(Clone, Debug)]
pub struct Feed {
    ring: Arc<Mutex<Ring>>,
    /// The newest event's number.
    news: watch::Sender<u64>,
}

impl Feed {
    pub fn new(ring: Ring) -> Self {
        let news = watch::Sender::new(ring.newest());
        Self { ring: Arc::new(Mutex::new(ring)), news }
    }

    /// Numbers what has happened. Nobody sees it until it is [published](Self::publish).
    pub fn number(&self, time: Timestamp, drafts: impl IntoIterator<Item = Draft>) -> Vec<Arc<Event>> {
        self.ring().number(time, drafts)
    }

    /// Shows what was numbered last, and wakes who waits.
    pub fn publish(&self, events: &[Arc<Event>]) {
        let mut ring = self.ring();
        ring.add(events);
        let newest = ring.newest();
        drop(ring);
        if !events.is_empty() {
            self.news.send_replace(newest);
        }
    }

    /// What the filter lets through; if that is nothing, and it says so, waits for something.
    pub async fn list(&self, filter: &Filter) -> Listed {
        // Before the first look, so that what comes after it wakes us.
        let mut news = self.news.subscribe();
        let waiting = async {
            loop {
                let listed = self.ring().list(filter);
                let is_behind = filter.after.is_some_and(|after| after > listed.newest);
                if !listed.events.is_empty() || is_behind || news.changed().await.is_err() {
                    return listed;
                }
            }
        };
        let wait = Duration::from_secs(filter.wait.unwrap_or(0).min(LONGEST_WAIT));
        match timeout(wait, waiting).await {
            Ok(listed) => listed,
            Err(_) => self.ring().list(filter),
        }
    }

    /// Nobody panics while holding it.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Kind;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_and_who_does_not_is_answered() {
        let feed = Feed::new(Ring::default());
        let now = Filter { after: Some(0), ..Filter::default() };
        assert_eq!(feed.list(&now).await, Listed::default());
        let waiting = Filter { wait: Some(20), ..now.clone() };
        assert_eq!(feed.list(&waiting).await, Listed::default(), "after the wait");
        let (listed, pushed) = tokio::join!(feed.list(&waiting), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let drafts = [Draft::new(Kind::Detach), Draft::new(Kind::AgentStop)];
            let events = feed.number(Timestamp::UNIX_EPOCH, drafts);
            feed.publish(&events);
            events
        });
        assert_eq!((listed.events, listed.newest), (pushed, 2));
        let ahead = Filter { after: Some(9), wait: Some(20), ..Filter::default() };
        assert_eq!(feed.list(&ahead).await.newest, 2, "at once: the numbers have begun anew");
    }
}
