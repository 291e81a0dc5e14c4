//! Which MAC each backend has, whether it still answers, and when to ask again. PURE.
//!
//! The kernel resolves and verifies (ARP, ND); this machine decides when it should. Packets that XDP
//! forwards do not keep a neighbour entry fresh, so a known one is verified every [`FRESH`]; one that
//! does not answer is asked at once (its NIC may have been swapped: a new resolution finds the new
//! MAC), then every [`RETRY`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// Between verifications of a backend that answers.
const FRESH: Duration = Duration::from_secs(10);
/// Between attempts at one that does not; the kernel's own three probes take as long.
const RETRY: Duration = Duration::from_secs(3);

/// What was heard of a backend's entry in the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It answered, or the operator fixed the entry.
    Answers([u8; 6]),
    /// A MAC that has not been verified lately (NUD_STALE, NUD_DELAY, NUD_PROBE).
    Unverified([u8; 6]),
    /// It did not answer.
    Failed,
    /// The kernel is asking (NUD_INCOMPLETE).
    Asking,
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub mac: [u8; 6],
    /// It answered when it was last asked. One that did not gets no new connections, but its
    /// established ones are still sent there.
    pub answers: bool,
}

#[derive(Debug)]
struct Entry {
    ifindex: u32,
    known: Option<Known>,
    /// What an earlier agent had found, until something is heard.
    remembered: Option<[u8; 6]>,
    /// When to ask next; CLOCK_MONOTONIC.
    next: Duration,
    /// The last question was not answered.
    failing: bool,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: BTreeMap<IpAddr, Entry>,
    /// Each entry's `next`.
    times: BTreeSet<(Duration, IpAddr)>,
}

impl Neighbours {
    /// Which addresses matter, and on which interface each is. What was known of others is forgotten.
    pub fn watch(&mut self, now: Duration, targets: &BTreeMap<IpAddr, u32>) {
        self.entries.retain(|address, entry| targets.get(address) == Some(&entry.ifindex));
        for (address, ifindex) in targets {
            self.entries.entry(*address).or_insert(Entry {
                ifindex: *ifindex,
                known: None,
                remembered: None,
                next: now,
                failing: false,
            });
        }
        self.times = self.entries.iter().map(|(address, entry)| (entry.next, *address)).collect();
    }

    /// What an earlier agent had found. Nobody has asked since: established flows go there, new ones wait
    /// for an answer.
    pub fn remember(&mut self, address: IpAddr, mac: [u8; 6]) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.remembered = Some(mac);
        }
    }

    /// Takes in an entry that was read, with others, for whatever reason: it may have been so for long. What says nothing
    /// new puts no question off, or whoever reads often would never ask. Whether it changes what [`Neighbours::known`]
    /// says.
    pub fn read(&mut self, now: Duration, address: IpAddr, ifindex: u32, news: News) -> bool {
        let known = self.entries.get(&address).and_then(|entry| entry.known);
        let is_old = matches!((news, known), (News::Answers(mac), Some(known)) if known == Known { mac, answers: true });
        !is_old && self.heard(now, address, ifindex, news)
    }

    /// Takes news in; whether it changes what [`Neighbours::known`] says.
    pub fn heard(&mut self, now: Duration, address: IpAddr, ifindex: u32, news: News) -> bool {
        let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.ifindex == ifindex) else {
            return false;
        };
        let (before, due) = (entry.known(), entry.next);
        match news {
            News::Answers(mac) => {
                entry.known = Some(Known { mac, answers: true });
                entry.failing = false;
                entry.next = now + FRESH;
            }
            News::Unverified(mac) => {
                // A MAC heard for the first time is as good as it gets; the next question is due soon.
                let answers = entry.known.is_none_or(|known| known.answers || known.mac != mac);
                entry.known = Some(Known { mac, answers });
            }
            News::Failed => {
                entry.known = entry.known.map(|known| Known { answers: false, ..known });
                // Of an earlier question, or heard again.
                entry.next = if entry.failing { entry.next.min(now + RETRY) } else { now };
                entry.failing = true;
            }
            News::Asking => {}
        }
        if entry.next != due {
            self.times.remove(&(due, address));
            self.times.insert((entry.next, address));
        }
        entry.known() != before
    }

    /// Which neighbours to ask now; each is due again later.
    pub fn due(&mut self, now: Duration) -> Vec<(u32, IpAddr)> {
        let mut due = Vec::new();
        while let Some((at, address)) = self.times.first().copied().filter(|(at, _)| *at <= now) {
            self.times.remove(&(at, address));
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            due.push((entry.ifindex, address));
            entry.next = now + if entry.known.is_some_and(|known| known.answers) { FRESH } else { RETRY };
            self.times.insert((entry.next, address));
        }
        due
    }

    /// When [`Neighbours::due`] has something next.
    pub fn deadline(&self) -> Option<Duration> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Whether somebody's first answer may still be on its way.
    pub fn is_pending(&self) -> bool {
        self.entries.values().any(|entry| entry.known.is_none() && !entry.failing)
    }

    pub fn known(&self, address: IpAddr) -> Option<Known> {
        self.entries.get(&address)?.known()
    }
}

impl Entry {
    fn known(&self) -> Option<Known> {
        self.known.or(self.remembered.map(|mac| Known { mac, answers: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watching() -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.watch(at(0), &BTreeMap::from([(A, 7)]));
        neighbours
    }

    #[test]
    fn a_new_one_is_asked_at_once_and_a_known_one_again_and_again() {
        let mut neighbours = watching();
        assert_eq!(neighbours.due(at(0)), [(7, A)]);
        assert!(neighbours.heard(at(1), A, 7, News::Answers(OLD)));
        assert_eq!(neighbours.due(at(10)), []);
        assert_eq!(neighbours.due(at(11)), [(7, A)]);
    }

    #[test]
    fn a_start_waits_until_each_has_answered_or_failed() {
        for last in [News::Answers(OLD), News::Unverified(OLD), News::Failed] {
            let mut neighbours = watching();
            assert!(neighbours.is_pending());
            neighbours.heard(at(0), A, 7, News::Asking);
            assert!(neighbours.is_pending());
            neighbours.heard(at(0), A, 7, last);
            assert!(!neighbours.is_pending(), "{last:?}");
        }
        assert!(!Neighbours::default().is_pending());
    }

    #[test]
    fn a_swapped_nic_is_found_by_asking_again_at_once() {
        let mut neighbours = watching();
        neighbours.heard(at(0), A, 7, News::Answers(OLD));
        assert!(neighbours.heard(at(13), A, 7, News::Failed));
        assert_eq!(neighbours.known(A), Some(Known { mac: OLD, answers: false }));
        assert_eq!(neighbours.due(at(13)), [(7, A)]);
        assert!(neighbours.heard(at(13), A, 7, News::Answers(NEW)));
        assert_eq!(neighbours.known(A), Some(Known { mac: NEW, answers: true }));
    }

    #[test]
    fn what_an_earlier_agent_knew_holds_until_more_is_heard() {
        for (news, known) in [
            (News::Answers(NEW), Known { mac: NEW, answers: true }),
            (News::Unverified(OLD), Known { mac: OLD, answers: true }),
            (News::Failed, Known { mac: OLD, answers: false }),
        ] {
            let mut neighbours = watching();
            neighbours.remember(A, OLD);
            assert_eq!(neighbours.known(A), Some(Known { mac: OLD, answers: false }));
            assert!(neighbours.is_pending(), "a start still waits for its answer");
            assert_eq!(neighbours.due(at(0)), [(7, A)]);
            neighbours.watch(at(0), &BTreeMap::from([(A, 7)]));
            neighbours.heard(at(1), A, 7, news);
            assert_eq!((neighbours.known(A), neighbours.is_pending()), (Some(known), false), "{news:?}");
        }
    }

    #[test]
    fn a_silent_one_is_asked_at_a_bounded_rate() {
        let mut neighbours = watching();
        let mut asked = 0;
        for second in 0..60 {
            if !neighbours.due(at(second)).is_empty() {
                asked += 1;
                neighbours.heard(at(second), A, 7, News::Failed);
            }
        }
        assert!((15..=25).contains(&asked), "asked {asked} times in a minute");
        assert_eq!(neighbours.known(A), None);
    }

    #[test]
    fn who_reads_often_still_asks() {
        for (news, rarely) in [(News::Failed, 15), (News::Answers(OLD), 5)] {
            let mut neighbours = watching();
            let mut asked = 0;
            for second in 0..60 {
                neighbours.read(at(second), A, 7, news);
                asked += usize::from(!neighbours.due(at(second)).is_empty());
            }
            assert!((rarely..=25).contains(&asked), "{news:?}: asked {asked} times in a minute");
        }
    }

    #[test]
    fn what_is_read_is_news_where_it_differs() {
        let mut neighbours = watching();
        assert!(neighbours.read(at(0), A, 7, News::Answers(OLD)));
        assert!(!neighbours.read(at(9), A, 7, News::Answers(OLD)));
        assert!(neighbours.read(at(9), A, 7, News::Answers(NEW)));
        assert!(neighbours.read(at(10), A, 7, News::Failed));
        assert!(neighbours.read(at(10), A, 7, News::Answers(NEW)), "it answers again");
        assert_eq!(neighbours.deadline(), Some(at(20)));
    }

    #[test]
    fn verification_under_way_changes_nothing() {
        let mut neighbours = watching();
        neighbours.heard(at(0), A, 7, News::Answers(OLD));
        assert!(!neighbours.heard(at(10), A, 7, News::Unverified(OLD)));
        neighbours.heard(at(13), A, 7, News::Failed);
        // The old MAC turning up again as stale does not make it answer.
        assert!(!neighbours.heard(at(14), A, 7, News::Unverified(OLD)));
    }

    #[test]
    fn news_from_another_interface_or_of_strangers_is_not_taken() {
        let mut neighbours = watching();
        assert!(!neighbours.heard(at(0), A, 8, News::Answers(OLD)));
        neighbours.watch(at(1), &BTreeMap::new());
        assert!(!neighbours.heard(at(1), A, 7, News::Answers(OLD)));
        assert_eq!(neighbours.deadline(), None);
    }
}
