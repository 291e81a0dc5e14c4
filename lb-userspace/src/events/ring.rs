//! The newest events.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Draft, Event};
use crate::model::ServiceName;

/// So many are kept in memory.
const KEPT: usize = 4096;

/// The newest [`KEPT`] events, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The number of the newest one there ever was.
    last: u64,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only those with a higher number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only those from this time on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only those of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// At most so many, the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// If there is none, wait so many seconds for one; at most 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

/// What a listing says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub events: Vec<Arc<Event>>,
    /// The number of the newest event, whether it is listed or not: where to go on. Lower than what was asked
    /// for: the numbers have begun anew.
    pub newest: u64,
    /// So many after [`Filter::after`] are not kept any more.
    #[serde(default)]
    pub missed: u64,
}

impl Ring {
    /// What an earlier agent wrote, in its order.
    pub fn resume(events: impl IntoIterator<Item = Event>) -> Self {
        let mut ring = Self::default();
        for event in events {
            ring.last = ring.last.max(event.seq);
            ring.keep(Arc::new(event));
        }
        ring
    }

    /// Gives what has happened its numbers; it is not listed until it is [added](Self::add).
    pub fn number(&self, time: Timestamp, drafts: impl IntoIterator<Item = Draft>) -> Vec<Arc<Event>> {
        (self.last + 1..).zip(drafts).map(|(seq, what)| Arc::new(Event { seq, time, what })).collect()
    }

    /// Takes in what was numbered last.
    pub fn add(&mut self, events: &[Arc<Event>]) {
        for event in events {
            self.last = event.seq;
            self.keep(event.clone());
        }
    }

    fn keep(&mut self, event: Arc<Event>) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub fn newest(&self) -> u64 {
        self.last
    }

    pub fn list(&self, filter: &Filter) -> Listed {
        let Filter { after, since, service, last, wait: _ } = filter;
        let passes = |event: &&Arc<Event>| {
            after.is_none_or(|after| event.seq > after)
                && since.is_none_or(|since| event.time >= since)
                && service.as_ref().is_none_or(|service| event.what.service.as_ref() == Some(service))
        };
        let newest_first = self.events.iter().rev().filter(passes).take(last.unwrap_or(KEPT));
        let mut events: Vec<_> = newest_first.cloned().collect();
        events.reverse();
        let oldest = self.events.front().map_or(self.last + 1, |event| event.seq);
        let missed =
            after.filter(|after| *after <= self.last).map_or(0, |after| oldest.saturating_sub(after + 1));
        Listed { events, newest: self.last, missed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::Kind;

    fn push(ring: &mut Ring, time: Timestamp, draft: Draft) {
        let events = ring.number(time, [draft]);
        ring.add(&events);
    }

    fn ring(count: u64) -> Ring {
        let mut ring = Ring::default();
        for n in 0..count {
            let time = Timestamp::from_second(i64::try_from(n).expect("small")).expect("a time");
            push(&mut ring, time, Draft::new(Kind::Problem));
        }
        ring
    }

    fn numbers(listed: &Listed) -> Vec<u64> {
        listed.events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn filters_and_numbers() {
        let mut ring = ring(9);
        let of = "web".parse().expect("a name");
        push(&mut ring, Timestamp::from_second(9).expect("a time"), Draft::new(Kind::QuorumUp).of(&of));
        let list = |filter: Filter| numbers(&ring.list(&filter));
        assert_eq!(list(Filter { after: Some(7), ..Filter::default() }), [8, 9, 10]);
        assert_eq!(list(Filter { last: Some(2), ..Filter::default() }), [9, 10]);
        let since = Timestamp::from_second(8).expect("a time");
        assert_eq!(list(Filter { since: Some(since), ..Filter::default() }), [9, 10]);
        assert_eq!(list(Filter { service: Some(of), ..Filter::default() }), [10]);
        assert!(list(Filter { after: Some(10), ..Filter::default() }).is_empty());
        let again = Ring::resume(ring.list(&Filter::default()).events.iter().map(|it| (**it).clone()));
        assert_eq!((again.newest(), again.list(&Filter::default())), (10, ring.list(&Filter::default())));
    }

    proptest! {
        /// Who asks again and again gets each event once, or is told how many it has missed.
        #[test]
        fn followers_miss_nothing_silently(bursts in proptest::collection::vec(0..6000u64, 1..6)) {
            let mut ring = Ring::default();
            let (mut after, mut seen, mut missed, mut pushed) = (0, 0, 0, 0);
            for burst in bursts {
                let drafts = (0..burst).map(|_| Draft::new(Kind::Problem));
                let events = ring.number(Timestamp::UNIX_EPOCH, drafts);
                ring.add(&events);
                pushed += burst;
                let listed = ring.list(&Filter { after: Some(after), ..Filter::default() });
                prop_assert!(listed.events.len() <= KEPT);
                seen += listed.events.len() as u64;
                missed += listed.missed;
                after = listed.newest;
            }
            prop_assert_eq!(seen + missed, pushed);
        }
    }
}
