//! What is told together: a dead switch is one mail, and not 500.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use serde::Serialize;

use super::{Event, Kind};

/// So many events are told by themselves; the others of a batch are counted by kind.
const MOST: usize = 1000;

/// Events that are told together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    /// How many more there are of each kind.
    pub more: BTreeMap<Kind, u64>,
    /// So many were in batches that could not be delivered.
    pub lost: u64,
}

/// When to tell what. Time is an argument; one of it for each mail server and URL.
#[derive(Debug)]
pub struct Batcher {
    delay: Duration,
    interval: Duration,
    pending: Batch,
    /// When the oldest pending event came.
    begun: Option<Duration>,
    /// When the last batch went.
    last: Option<Duration>,
}

impl Batcher {
    /// `delay`: so long after an event others are waited for; `interval`: at least, between two batches.
    pub fn new(delay: Duration, interval: Duration) -> Self {
        Self { delay, interval, pending: Batch::default(), begun: None, last: None }
    }

    pub fn push(&mut self, now: Duration, event: Arc<Event>) {
        self.begun.get_or_insert(now);
        if self.pending.events.len() < MOST {
            self.pending.events.push(event);
        } else {
            *self.pending.more.entry(event.what.kind).or_default() += 1;
        }
    }

    /// When [`Batcher::take`] has something; none: nothing is pending.
    pub fn deadline(&self) -> Option<Duration> {
        let collected = self.begun? + self.delay;
        Some(self.last.map_or(collected, |last| collected.max(last + self.interval)))
    }

    /// A batch, if one is due.
    pub fn take(&mut self, now: Duration) -> Option<Batch> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        self.last = Some(now);
        self.flush()
    }

    /// All that is pending, due or not: the last words.
    pub fn flush(&mut self) -> Option<Batch> {
        self.begun.take().map(|_| std::mem::take(&mut self.pending))
    }

    /// A batch could not be delivered: the next one says how much was in it.
    pub fn lost(&mut self, batch: &Batch) {
        self.pending.lost += batch.count() + batch.lost;
    }
}

impl Batch {
    /// Of the events that it tells, listed or counted.
    pub fn count(&self) -> u64 {
        self.events.len() as u64 + self.more.values().sum::<u64>()
    }

    /// One line: the event itself, or how many of which kinds, the most frequent first.
    pub fn subject(&self) -> String {
        if let ([event], true) = (self.events.as_slice(), self.more.is_empty()) {
            let place = place(event);
            return format!("{place}{}", event.what.kind.words());
        }
        let mut counts = self.more.clone();
        for event in &self.events {
            *counts.entry(event.what.kind).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
        let listed: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        format!("{} events: {}", self.count(), listed.join(", "))
    }

    /// A line for each event, then what is only counted.
    pub fn body(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:.3}  {}{}", event.time, place(event), event.what);
        }
        for (kind, count) in &self.more {
            let _ = writeln!(text, "and {count} more: {kind} ({})", kind.words());
        }
        if self.lost > 0 {
            let _ = writeln!(
                text,
                "\n{} events before these could not be told here: see `lb events`.",
                self.lost
            );
        }
        text
    }
}

/// `web 10.0.0.1:80: `
fn place(event: &Event) -> String {
    match (&event.what.service, event.what.backend) {
        (Some(service), Some(backend)) => format!("{service} {backend}: "),
        (Some(service), None) => format!("{service}: "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::events::Draft;

    const DELAY: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_secs(30);

    fn event(kind: Kind) -> Arc<Event> {
        let service = "web".parse().expect("a name");
        let what =
            Draft::new(kind).of(&service).at("10.0.0.1:80".parse().expect("a key")).because("no answer");
        Arc::new(Event { seq: 1, time: Timestamp::UNIX_EPOCH, what })
    }

    fn batcher() -> Batcher {
        Batcher::new(DELAY, INTERVAL)
    }

    #[test]
    fn a_dead_switch_is_one_batch() {
        let mut batcher = batcher();
        let start = Duration::from_secs(100);
        for n in 0..500 {
            let now = start + Duration::from_millis(2) * n;
            batcher.push(now, event(Kind::BackendDown));
            assert_eq!(batcher.take(now), None);
        }
        assert_eq!(batcher.deadline(), Some(start + DELAY));
        let batch = batcher.take(start + DELAY).expect("it is due");
        assert_eq!((batch.count(), batch.subject()), (500, "500 events: 500 backend-down".to_owned()));
        assert_eq!(batcher.deadline(), None);
        // What comes soon after waits for its turn, and goes together.
        batcher.push(start + DELAY * 2, event(Kind::BackendUp));
        batcher.push(start + DELAY * 3, event(Kind::BackendUp));
        assert_eq!(batcher.deadline(), Some(start + DELAY + INTERVAL));
        assert_eq!(batcher.take(start + DELAY + INTERVAL).expect("due").count(), 2);
    }

    #[test]
    fn what_is_told() {
        let mut batcher = batcher();
        batcher.push(Duration::ZERO, event(Kind::BackendDown));
        let one = batcher.flush().expect("it is pending");
        assert_eq!(one.subject(), "web 10.0.0.1:80: backend is down");
        assert_eq!(one.body(), "1970-01-01T00:00:00.000Z  web 10.0.0.1:80: backend is down: no answer\n");
        batcher.lost(&one);
        for _ in 0..=MOST {
            batcher.push(Duration::ZERO, event(Kind::BackendUp));
        }
        batcher.push(Duration::ZERO, event(Kind::QuorumDown));
        let many = batcher.flush().expect("they are pending");
        assert_eq!(many.subject(), "1002 events: 1001 backend-up, 1 quorum-down");
        let end = "and 1 more: backend-up (backend is up)\nand 1 more: quorum-down (service has lost its quorum)\n\n1 \
                   events before these could not be told here: see `lb events`.\n";
        let body = many.body();
        assert!(body.ends_with(end), "{}", &body[body.len() - 300..]);
        let json = serde_json::to_value(&many).expect("serializes");
        assert_eq!(json["more"], serde_json::json!({"backend-up": 1, "quorum-down": 1}));
        assert_eq!((json["events"].as_array().map(Vec::len), json["lost"].as_u64()), (Some(MOST), Some(1)));
    }

    proptest! {
        /// Whatever comes when: each event is told or counted once, no sooner than its delay, no later than delay or
        /// interval, and batches keep their distance. Deliveries that fail are counted in the next.
        #[test]
        fn nothing_is_lost_silently_and_nobody_is_flooded(
            steps in proptest::collection::vec((0..20_000u64, 0..1500usize, any::<bool>()), 1..20)
        ) {
            let mut batcher = batcher();
            let (mut now, mut pushed, mut told, mut failed) = (Duration::from_secs(5), 0, 0, 0);
            let (mut last, mut oldest): (Option<Duration>, Option<Duration>) = (None, None);
            let mut deliver = |batcher: &mut Batcher, now: Duration, fails: bool, oldest: &mut Option<Duration>| {
                let Some(batch) = batcher.take(now) else { return Ok(()) };
                prop_assert!(last.is_none_or(|last| now >= last + INTERVAL));
                let begun = oldest.take().expect("something was pending");
                prop_assert!(now >= begun + DELAY && batch.events.len() <= MOST);
                prop_assert!(now == (begun + DELAY).max(last.map_or(Duration::ZERO, |last| last + INTERVAL)));
                last = Some(now);
                prop_assert_eq!(batch.lost, failed);
                failed = 0;
                if fails {
                    batcher.lost(&batch);
                    failed = batch.count() + batch.lost;
                } else {
                    told += batch.count() + batch.lost;
                }
                Ok(())
            };
            for (pause, burst, fails) in steps {
                let next = now + Duration::from_millis(pause);
                while let Some(deadline) = batcher.deadline().filter(|deadline| *deadline <= next) {
                    deliver(&mut batcher, deadline, fails, &mut oldest)?;
                }
                now = next;
                for _ in 0..burst {
                    batcher.push(now, event(Kind::BackendDown));
                    oldest.get_or_insert(now);
                }
                pushed += burst as u64;
            }
            batcher.push(now, event(Kind::AgentStop));
            let rest = batcher.flush().expect("one is pending");
            prop_assert_eq!(told + rest.count() + rest.lost, pushed + 1);
        }
    }
}
