//! What connections themselves show of a backend: a second opinion beside its checks.
//!
//! A backend whose handshakes do not complete, while those of the others do, is *suspect*. It is a comparison: what troubles all of a service's backends alike is the clients' doing, or the
//! network's, and nobody's fault. While the guard against floods is active nothing is believed at all.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Clocks;
use crate::model::BackendKey;

/// Of what was counted a part is forgotten with each second: half of it in ten.
const KEPT_A_SECOND: f64 = 0.933;
/// Connections that are not forgotten, below which nothing is said of a backend, or of the others beside it.
const ENOUGH: f64 = 10.0;
/// Part of a backend's connections that are in trouble, beyond that of the others'.
const BEYOND: f64 = 0.4;
/// The share of a service's backends that may be suspect at once is one of so many, but always one.
const ONE_OF: usize = 3;
/// The hold doubles with each suspicion so often: to 16 times the first one.
const DOUBLINGS: u32 = 4;
/// So long after a flood nothing is believed either: its handshakes run out (SYN_RECV, a minute by default).
const WARY: Duration = Duration::from_secs(90);
/// In holds: so long after the last one a backend's suspicions are forgotten.
const CALM: u32 = 10;

/// What the data plane has counted of one backend since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub connections: u64,
    /// Handshakes that ran out, SYNs that came again, resets by clients.
    pub incomplete: u64,
    pub retransmissions: u64,
    pub resets: u64,
}

/// What turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Until when at least, and why.
    Suspect(BackendKey, Duration, String),
    Trusted(BackendKey),
}

/// The backends of one service.
#[derive(Debug, Default)]
pub struct Passive {
    of: BTreeMap<BackendKey, Watched>,
    read: Option<Duration>,
    wary_until: Duration,
}

#[derive(Debug, Default)]
struct Watched {
    last: Option<Figures>,
    recent: Recent,
    is_judged: bool,
    suspicion: Option<Suspicion>,
    /// Suspicions that are not forgotten, and when the last one ended.
    times: u32,
    ended: Duration,
}

#[derive(Clone, Debug)]
struct Suspicion {
    until: Duration,
    why: String,
}

/// What is known of a backend that is or was suspect, in the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSuspicion {
    times: u32,
    ended: Timestamp,
    /// Until when at least, and why, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now: Option<(Timestamp, String)>,
}

/// What is not forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    connections: f64,
    incomplete: f64,
    retransmissions: f64,
    resets: f64,
}

impl Passive {
    /// Takes in what is counted of all backends of the service, once in a while. `hold`: of a first suspicion. Who is
    /// not judged is not compared with either: from then on that he is, what he does is recent.
    pub fn read(
        &mut self,
        now: Duration,
        hold: Duration,
        guarded: bool,
        figures: &[(BackendKey, Figures)],
        is_judged: impl Fn(BackendKey) -> bool,
        turns: &mut Vec<Turn>,
    ) {
        if guarded {
            self.wary_until = now + WARY;
        }
        let is_wary = now < self.wary_until;
        let elapsed = self.read.replace(now).map_or(Duration::ZERO, |read| now.saturating_sub(read));
        let kept = KEPT_A_SECOND.powf(elapsed.as_secs_f64());
        self.of.retain(|key, _| figures.iter().any(|(there, _)| there == key));
        for (key, figures) in figures {
            let watched = self.of.entry(*key).or_default();
            let before = watched.last.replace(*figures);
            // Of the first reading nothing is known to be recent; of a flood nothing is believed.
            watched.is_judged = is_judged(*key);
            if !watched.is_judged {
                watched.suspicion = None;
            }
            match before.filter(|_| !is_wary && watched.is_judged) {
                Some(before) => watched.recent.take_in(kept, &before, figures),
                None => watched.recent = Recent::default(),
            }
            if watched.suspicion.take_if(|it| it.until <= now).is_some() {
                // It gets a new chance: what it did before says nothing of that.
                (watched.recent, watched.ended) = (Recent::default(), now);
                turns.push(Turn::Trusted(*key));
            }
        }
        let most = self.most();
        let suspects = self.of.iter().filter_map(|(key, it)| Some((it.suspicion.as_ref()?.until, *key)));
        let mut suspects: Vec<_> = suspects.collect();
        suspects.sort_unstable();
        // Others have gone: so many are too many now.
        for (_, key) in suspects.iter().take(suspects.len().saturating_sub(most)) {
            if let Some(watched) = self.of.get_mut(key) {
                (watched.suspicion, watched.recent, watched.ended) = (None, Recent::default(), now);
                turns.push(Turn::Trusted(*key));
            }
        }
        if !is_wary {
            self.suspect(now, hold, most.saturating_sub(suspects.len()), turns);
        }
    }

    /// How many may be suspect at once.
    fn most(&self) -> usize {
        match self.of.values().filter(|it| it.is_judged).count() {
            0 | 1 => 0,
            all => (all / ONE_OF).max(1),
        }
    }

    /// Those that stand out, the worst first, `room` of them.
    fn suspect(&mut self, now: Duration, hold: Duration, room: usize, turns: &mut Vec<Turn>) {
        let mut worst: Vec<_> = self.of.keys().filter_map(|key| Some((self.beyond(*key)?, *key))).collect();
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, key) in worst.into_iter().take(room) {
            let others = self.others(key);
            let Some(watched) = self.of.get_mut(&key) else { continue };
            if now.saturating_sub(watched.ended) > hold * CALM {
                watched.times = 0;
            }
            watched.times = watched.times.saturating_add(1);
            let until = now + held_for(watched.times, hold);
            let why = format!("{}; the others': {others}", watched.recent);
            watched.suspicion = Some(Suspicion { until, why: why.clone() });
            turns.push(Turn::Suspect(key, until, why));
        }
    }

    /// How much more of its connections are in trouble than of the others', if that is too much.
    fn beyond(&self, key: BackendKey) -> Option<f64> {
        let watched = self.of.get(&key).filter(|it| it.suspicion.is_none())?;
        watched.recent.beyond(&self.others(key)).filter(|beyond| *beyond >= BEYOND)
    }

    /// Those that are suspect are nothing to compare with.
    fn others(&self, key: BackendKey) -> Recent {
        let others = self.of.iter().filter(|(other, it)| **other != key && it.suspicion.is_none());
        others.fold(Recent::default(), |sum, (_, it)| sum.and(&it.recent))
    }

    /// Why a backend is suspect, and until when at least.
    pub fn suspicion(&self, key: BackendKey) -> Option<(Duration, &str)> {
        let suspicion = self.of.get(&key)?.suspicion.as_ref()?;
        Some((suspicion.until, &suspicion.why))
    }

    /// None: it has never been suspect.
    pub fn saved(&self, clocks: Clocks, key: BackendKey) -> Option<SavedSuspicion> {
        let Watched { times, ended, suspicion, .. } = self.of.get(&key).filter(|it| it.times > 0)?;
        let now = suspicion.as_ref().map(|it| (clocks.wall_at(it.until), it.why.clone()));
        Some(SavedSuspicion { times: *times, ended: clocks.wall_at(*ended), now })
    }

    /// Goes on with what was saved of a backend, unless it is forgotten by now. No suspicion lasts longer than if it
    /// began now; what is recent has to be found out anew.
    pub fn resume(&mut self, clocks: Clocks, key: BackendKey, hold: Duration, saved: SavedSuspicion) {
        let SavedSuspicion { times, ended, now } = saved;
        let latest = clocks.monotonic + held_for(times, hold);
        let suspicion = now.map(|(until, why)| {
            let until = clocks.monotonic_at(until).min(latest);
            Suspicion { until, why }
        });
        if suspicion.is_none() && clocks.since(ended) > hold * CALM {
            return;
        }
        let ended = clocks.monotonic_at(ended).min(clocks.monotonic);
        self.of.insert(key, Watched { times, ended, suspicion, ..Watched::default() });
    }
}

/// How long the last of so many suspicions lasts.
fn held_for(times: u32, hold: Duration) -> Duration {
    hold * (1 << times.saturating_sub(1).min(DOUBLINGS))
}

impl Recent {
    fn take_in(&mut self, kept: f64, before: &Figures, now: &Figures) {
        let fold =
            |sum: &mut f64, before: u64, now: u64| *sum = *sum * kept + now.saturating_sub(before) as f64;
        fold(&mut self.connections, before.connections, now.connections);
        fold(&mut self.incomplete, before.incomplete, now.incomplete);
        fold(&mut self.retransmissions, before.retransmissions, now.retransmissions);
        fold(&mut self.resets, before.resets, now.resets);
    }

    fn and(self, other: &Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            incomplete: self.incomplete + other.incomplete,
            retransmissions: self.retransmissions + other.retransmissions,
            resets: self.resets + other.resets,
        }
    }

    /// Those that do not complete: one of them has SYNs that come again, and runs out later.
    fn stuck(&self) -> f64 {
        self.incomplete.max(self.retransmissions).min(self.connections)
    }

    /// How much more of the connections do not complete than of the others'. None: there are too few. Resets by
    /// clients are shown, but say nothing: one whose clients hang up by a reset looks bad beside one that is not
    /// reached at all.
    fn beyond(&self, others: &Self) -> Option<f64> {
        let part = |it: &Self| (it.connections >= ENOUGH).then(|| it.stuck() / it.connections);
        Some(part(self)? - part(others)?)
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, incomplete, retransmissions, resets } = self;
        write!(
            f,
            "about {connections:.0} connections, {retransmissions:.0} SYNs came again, {incomplete:.0} handshakes \
             ran out, {resets:.0} were reset by clients"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn key(n: usize) -> BackendKey {
        BackendKey { address: [10, 0, 0, n as u8].into(), port: 80 }
    }

    /// A service with so many backends, and what is counted of them.
    struct Counted {
        passive: Passive,
        figures: Vec<(BackendKey, Figures)>,
        now: Duration,
    }

    impl Counted {
        fn new(backends: usize) -> Self {
            let figures = (0..backends).map(|n| (key(n), Figures::default())).collect();
            let mut counted = Self { passive: Passive::default(), figures, now: Duration::ZERO };
            counted.second(false, |_| (0, 0));
            counted
        }

        /// New connections and SYNs that came again in a second, by the backend.
        fn second(&mut self, guarded: bool, of: impl Fn(usize) -> (u64, u64)) -> Vec<Turn> {
            let mut turns = Vec::new();
            for (n, (_, figures)) in self.figures.iter_mut().enumerate() {
                let (connections, again) = of(n);
                figures.connections += connections;
                figures.retransmissions += again;
            }
            self.now += Duration::from_secs(1);
            self.passive.read(self.now, HOLD, guarded, &self.figures, |_| true, &mut turns);
            turns
        }

        fn suspects(&self) -> Vec<usize> {
            (0..self.figures.len()).filter(|n| self.passive.suspicion(key(*n)).is_some()).collect()
        }
    }

    #[test]
    fn one_that_stands_out_is_suspect_until_its_time_is_over() {
        let mut counted = Counted::new(3);
        let bad = |n: usize| if n == 1 { (20, 20) } else { (20, 1) };
        let turns = counted.second(false, bad);
        let [Turn::Suspect(suspect, until, why)] = &turns[..] else { panic!("{turns:?}") };
        assert_eq!((*suspect, *until), (key(1), counted.now + HOLD));
        assert_eq!(
            why,
            "about 20 connections, 20 SYNs came again, 0 handshakes ran out, 0 were reset by clients; the others': about 40 \
             connections, 2 SYNs came again, 0 handshakes ran out, 0 were reset by clients"
        );
        let began = counted.now;
        while counted.now < began + HOLD - Duration::from_secs(1) {
            assert_eq!(counted.second(false, |n| if n == 1 { (0, 0) } else { (30, 1) }), []);
        }
        assert_eq!(counted.second(false, |_| (20, 0)), [Turn::Trusted(key(1))]);
        assert_eq!(counted.second(false, |_| (20, 0)), []);
        // Again, and for twice as long.
        let again = counted.second(false, |n| if n == 1 { (90, 90) } else { (90, 1) });
        assert!(
            matches!(&again[..], [Turn::Suspect(_, until, _)] if *until == counted.now + 2 * HOLD),
            "{again:?}"
        );
    }

    #[test]
    fn what_troubles_all_and_what_is_too_little_is_nobodys_fault() {
        let mut counted = Counted::new(3);
        for _ in 0..60 {
            assert_eq!(counted.second(false, |_| (20, 18)), []);
        }
        let mut counted = Counted::new(3);
        assert_eq!(counted.second(false, |n| if n == 1 { (9, 9) } else { (90, 0) }), []);
        let mut counted = Counted::new(2);
        assert_eq!(counted.second(false, |n| if n == 1 { (90, 90) } else { (9, 0) }), [], "nobody beside it");
        let mut counted = Counted::new(1);
        assert_eq!(counted.second(false, |_| (90, 90)), []);
    }

    #[test]
    fn resets_by_clients_say_nothing() {
        let resets = |of: [u64; 3], again: [u64; 3]| {
            let mut counted = Counted::new(3);
            counted.figures.iter_mut().zip(of).for_each(|((_, it), resets)| it.resets += resets);
            counted.second(false, |n| (20, again[n]));
            counted.suspects()
        };
        assert_eq!(resets([20, 1, 1], [0, 0, 0]), [0; 0]);
        assert_eq!(resets([20, 20, 20], [0, 0, 0]), [0; 0], "clients that always hang up by a reset");
        // Who is never reached is never reset either.
        assert_eq!(resets([20, 20, 0], [0, 0, 60]), [2]);
    }

    #[test]
    fn who_is_not_judged_begins_with_what_was_counted_then() {
        let (mut counted, mut turns) = (Counted::new(2), Vec::new());
        counted.figures[0].1 = Figures { connections: 90, retransmissions: 90, ..Figures::default() };
        counted.figures[1].1 = Figures { connections: 90, ..Figures::default() };
        counted.now += Duration::from_secs(1);
        let (figures, now) = (counted.figures.clone(), counted.now);
        counted.passive.read(now, HOLD, false, &figures, |judged| judged != key(0), &mut turns);
        assert_eq!(turns, []);
        assert_eq!(counted.second(false, |_| (20, 0)), [], "the past is past");
        assert_eq!(counted.second(false, |n| if n == 0 { (90, 90) } else { (20, 0) }).len(), 1);
        // What fails by its checks meanwhile is no suspect any more.
        let (figures, now) = (counted.figures.clone(), counted.now);
        counted.passive.read(now, HOLD, false, &figures, |judged| judged != key(0), &mut turns);
        assert_eq!(counted.suspects(), [0; 0]);
    }

    #[test]
    fn of_a_flood_nothing_is_believed_also_afterwards() {
        let mut counted = Counted::new(3);
        for _ in 0..20 {
            assert_eq!(counted.second(true, |n| if n == 1 { (900, 900) } else { (90, 0) }), []);
        }
        // Its handshakes run out a minute later.
        for _ in 0..80 {
            assert_eq!(counted.second(false, |n| if n == 1 { (20, 50) } else { (20, 0) }), []);
        }
        let turns: Vec<_> =
            (0..20).flat_map(|_| counted.second(false, |n| (20, 20 * u64::from(n == 1)))).collect();
        assert_eq!(turns.len(), 1, "it is over: {turns:?}");
    }

    proptest! {
        /// However bad it looks: never more than a third of them, never all, nobody new while the guard is active;
        /// and a backend that has no trouble is never suspect.
        #[test]
        fn suspicion_is_bounded(
            backends in 1..12usize,
            seconds in vec((0..100u8, vec((0..50u64, 0..100u64), 12), any::<u8>()), 1..60),
        ) {
            let mut counted = Counted::new(backends);
            for (luck, of, gone) in seconds {
                // Backends go, too: they are deleted, or their checks fail.
                if gone < 10 && counted.figures.len() > 2 {
                    counted.figures.pop();
                }
                let (guarded, backends) = (luck == 0, counted.figures.len());
                let before = counted.suspects();
                counted.second(guarded, |n| if n == 0 { (of[n].0, 0) } else { of[n] });
                let now = counted.suspects();
                prop_assert!(now.len() <= (backends / ONE_OF).max(1) && now.len() < backends, "{:?}", now);
                prop_assert!(!now.contains(&0));
                prop_assert!(!guarded || now.iter().all(|n| before.contains(n)), "{:?}, {:?}", before, now);
            }
        }
    }
}
