//! What connections themselves show of a backend: a second opinion beside its checks.
//!
//! The rule. A backend is *suspect* if both are so:
//! * It stands out: of its recent connections many more are stuck in the handshake than of the others'. What troubles all
//!   backends of a service alike is the clients' doing, or the network's, and nobody's fault.
//! * It has lost completed handshakes: far fewer than it completed until lately beside what the others complete. A broken
//!   backend loses them; a flood of SYNs that is aimed at a healthy one adds openings, and takes no completion away.
//!
//! Of a backend that is new here the second is not known. Then the first alone is believed, but only where clients cannot
//! choose their backend: flood and real connections are spread alike there, so what stands out is the backend. By a
//! scheduler that hashes addresses, or with persistence, who chooses source addresses chooses the backend: there nobody
//! is suspect without a past.
//!
//! Resets by clients are weaker: some programs hang up by one (SO_LINGER of 0), and of a backend's own resets the director
//! sees nothing. Where nearly all of a backend's connections end so and hardly any of the others', its weight is lowered, never
//! more; and only where clients cannot choose their backend, since anybody can send a RST.
//!
//! While the guard against floods is active nothing is believed at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Clocks;
use crate::model::BackendKey;

/// Of what was counted a part is forgotten with each second: half of it in ten.
const KEPT_A_SECOND: f64 = 0.933;
/// The same of what is usual: half of it in ten minutes.
const USUAL_A_SECOND: f64 = 0.998_845;
/// Connections that are not forgotten, below which nothing is said of a backend, or of the others beside it.
const ENOUGH: f64 = 10.0;
/// Part of a backend's connections that are in trouble, beyond that of the others'.
const BEYOND: f64 = 0.4;
/// The same of those that clients reset.
const RESETS_BEYOND: f64 = 0.8;
/// Part of the usual completions that is left, at most, of one that has lost them.
const LEFT: f64 = 0.5;
/// In roots of what was expected: what is missing beyond this is no chance (the root is the deviation of what comes at random).
const CHANCE: f64 = 4.0;
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
    /// Handshakes that have begun and are not complete, now.
    pub half_open: u64,
    /// Handshakes that ran out, SYNs that came again, resets by clients.
    pub incomplete: u64,
    pub retransmissions: u64,
    pub resets: u64,
}

/// How a service's backends are judged.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Of a first suspicion.
    pub hold: Duration,
    /// Who chooses a source address chooses the backend.
    pub is_aimed: bool,
    /// The guard against floods is active.
    pub guarded: bool,
}

/// Why a backend is suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// Handshakes do not complete.
    Handshakes,
    /// Clients reset what they have begun: the weight is lowered, never more.
    Resets,
}

/// What turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Until when at least, and why.
    Suspect(BackendKey, Duration, String),
    Trusted(BackendKey, Grounds),
}

/// The backends of one service.
#[derive(Debug, Default)]
pub struct Passive {
    of: BTreeMap<BackendKey, Watched>,
    /// Whom what is usual was learned of: with others it is another thing.
    learned_of: BTreeSet<BackendKey>,
    read: Option<Duration>,
    wary_until: Duration,
}

#[derive(Debug, Default)]
struct Watched {
    last: Option<Reading>,
    recent: Recent,
    /// Of the others, in the same time.
    beside: Recent,
    usual: Usual,
    is_judged: bool,
    suspicion: Option<Suspicion>,
    /// Suspicions that are not forgotten, and when the last one ended.
    times: u32,
    ended: Duration,
}

#[derive(Clone, Debug)]
struct Suspicion {
    grounds: Grounds,
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
    /// For resets by clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_resets: bool,
}

/// What is not forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    connections: f64,
    completed: f64,
    /// Begun more than a reading ago and not complete, or run out.
    stuck: f64,
    retransmissions: f64,
    resets: f64,
}

/// Completed handshakes of a backend, and of the others in the same time.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    own: f64,
    beside: f64,
}

/// One reading of the figures.
#[derive(Clone, Copy, Debug)]
struct Reading {
    figures: Figures,
    /// Half-open ones that were so at the reading before: those that came since may be on their way.
    lingering: u64,
}

impl Passive {
    /// Takes in what is counted of all backends of the service, once in a while. Who is not judged is not compared with
    /// either: from then on that he is, what he does is recent.
    pub fn read(
        &mut self,
        now: Duration,
        terms: Terms,
        figures: &[(BackendKey, Figures)],
        is_judged: impl Fn(BackendKey) -> bool,
        turns: &mut Vec<Turn>,
    ) {
        if terms.guarded {
            self.wary_until = now + WARY;
        }
        let is_wary = now < self.wary_until;
        let elapsed = self.read.replace(now).map_or(Duration::ZERO, |read| now.saturating_sub(read));
        self.of.retain(|key, _| figures.iter().any(|(there, _)| there == key));
        let (mut steps, mut over) = (BTreeMap::new(), Vec::new());
        for (key, figures) in figures {
            let watched = self.of.entry(*key).or_default();
            let (reading, step) = Reading::after(watched.last.as_ref(), figures);
            watched.last = Some(reading);
            watched.is_judged = is_judged(*key);
            if !watched.is_judged {
                watched.suspicion = None;
            }
            // Of the first reading nothing is known to be recent; of a flood nothing is believed.
            match step.filter(|_| !is_wary && watched.is_judged) {
                Some(step) => {
                    steps.insert(*key, step);
                }
                None => (watched.recent, watched.beside) = Default::default(),
            }
            if let Some(suspicion) = watched.suspicion.take_if(|it| it.until <= now) {
                turns.push(Turn::Trusted(*key, suspicion.grounds));
                over.push(*key);
            }
        }
        self.take_in(elapsed.as_secs_f64(), &steps);
        // They get a new chance: what they did before says nothing of that.
        for key in over {
            self.of.entry(key).or_default().begin_anew(now);
        }
        let most = self.most();
        let suspects = self.of.iter().filter_map(|(key, it)| Some((it.suspicion.as_ref()?.until, *key)));
        let mut suspects: Vec<_> = suspects.collect();
        suspects.sort_unstable();
        // Others have gone: so many are too many now.
        for (_, key) in suspects.iter().take(suspects.len().saturating_sub(most)) {
            let Some(watched) = self.of.get_mut(key) else { continue };
            watched.begin_anew(now);
            turns.extend(watched.suspicion.take().map(|it| Turn::Trusted(*key, it.grounds)));
        }
        if !is_wary {
            self.suspect(now, terms, most.saturating_sub(suspects.len()), turns);
        }
    }

    /// What each backend did since the reading before, and what the others did beside it. Those that are suspect are
    /// nothing to compare with.
    fn take_in(&mut self, seconds: f64, steps: &BTreeMap<BackendKey, Recent>) {
        let is_suspect = |it: &Watched| it.suspicion.is_some();
        let compared = steps.iter().filter(|(key, _)| self.of.get(key).is_some_and(|it| !is_suspect(it)));
        let compared: BTreeMap<_, _> = compared.collect();
        let all = compared.values().fold(Recent::default(), |sum, step| sum.and(step, 1.0));
        let learns = !steps.is_empty() && !self.of.values().any(is_suspect);
        let is_the_same = self.learned_of.iter().eq(steps.keys());
        if learns && !is_the_same {
            self.learned_of = steps.keys().copied().collect();
            self.of.values_mut().for_each(|it| it.usual = Usual::default());
        }
        let (kept, usual) = (KEPT_A_SECOND.powf(seconds), USUAL_A_SECOND.powf(seconds));
        for (key, step) in steps {
            let Some(watched) = self.of.get_mut(key) else { continue };
            let beside = if compared.contains_key(key) { all.and(step, -1.0) } else { all };
            watched.recent.fold(kept, step);
            watched.beside.fold(kept, &beside);
            if learns {
                watched.usual.own = watched.usual.own * usual + step.completed;
                watched.usual.beside = watched.usual.beside * usual + beside.completed;
            }
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
    fn suspect(&mut self, now: Duration, terms: Terms, room: usize, turns: &mut Vec<Turn>) {
        let judged = self.of.iter().filter(|(_, it)| it.is_judged && it.suspicion.is_none());
        let bad = judged.filter_map(|(key, it)| Some((it.judged(terms.is_aimed)?, *key)));
        let mut worst: Vec<_> = bad.collect();
        worst.sort_by(|a, b| b.0.1.total_cmp(&a.0.1));
        for ((grounds, _), key) in worst.into_iter().take(room) {
            let Some(watched) = self.of.get_mut(&key) else { continue };
            if now.saturating_sub(watched.ended) > terms.hold * CALM {
                watched.times = 0;
            }
            watched.times = watched.times.saturating_add(1);
            let until = now + held_for(watched.times, terms.hold);
            let why = format!("{}; the others': {}", watched.recent, watched.beside);
            watched.suspicion = Some(Suspicion { grounds, until, why: why.clone() });
            turns.push(Turn::Suspect(key, until, why));
        }
    }

    /// Why a backend is suspect, and until when at least.
    pub fn suspicion(&self, key: BackendKey) -> Option<(Grounds, Duration, &str)> {
        let suspicion = self.of.get(&key)?.suspicion.as_ref()?;
        Some((suspicion.grounds, suspicion.until, &suspicion.why))
    }

    /// None: it has never been suspect.
    pub fn saved(&self, clocks: Clocks, key: BackendKey) -> Option<SavedSuspicion> {
        let Watched { times, ended, suspicion, .. } = self.of.get(&key).filter(|it| it.times > 0)?;
        let now = suspicion.as_ref().map(|it| (clocks.wall_at(it.until), it.why.clone()));
        let by_resets = suspicion.as_ref().is_some_and(|it| it.grounds == Grounds::Resets);
        Some(SavedSuspicion { times: *times, ended: clocks.wall_at(*ended), now, by_resets })
    }

    /// Goes on with what was saved of a backend, unless it is forgotten by now. No suspicion lasts longer than if it
    /// began now; what is recent has to be found out anew.
    pub fn resume(&mut self, clocks: Clocks, key: BackendKey, hold: Duration, saved: SavedSuspicion) {
        let SavedSuspicion { times, ended, now, by_resets } = saved;
        let grounds = if by_resets { Grounds::Resets } else { Grounds::Handshakes };
        let latest = clocks.monotonic + held_for(times, hold);
        let suspicion = now.map(|(until, why)| {
            let until = clocks.monotonic_at(until).min(latest);
            Suspicion { grounds, until, why }
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

impl Watched {
    fn begin_anew(&mut self, now: Duration) {
        (self.recent, self.beside, self.ended) = (Recent::default(), Recent::default(), now);
    }

    /// What is wrong with it, and how much more than with the others, if that is too much.
    fn judged(&self, is_aimed: bool) -> Option<(Grounds, f64)> {
        let beyond = |part: fn(&Recent) -> Option<f64>, most| {
            let beyond = part(&self.recent)? - part(&self.beside)?;
            (beyond >= most).then_some(beyond)
        };
        let is_believed = || self.usual.lost(&self.recent, &self.beside).unwrap_or(!is_aimed);
        if let Some(beyond) = beyond(Recent::part_stuck, BEYOND).filter(|_| is_believed()) {
            return Some((Grounds::Handshakes, beyond));
        }
        let beyond = beyond(Recent::part_reset, RESETS_BEYOND).filter(|_| !is_aimed)?;
        Some((Grounds::Resets, beyond))
    }
}

impl Usual {
    /// Whether a backend completes far fewer handshakes beside the others than it used to. None: it has no past.
    fn lost(self, recent: &Recent, beside: &Recent) -> Option<bool> {
        if self.own < ENOUGH || self.beside < ENOUGH {
            return None;
        }
        let expected = beside.completed.max(0.0) * self.own / self.beside;
        let missing = expected - recent.completed.max(0.0);
        Some(missing >= expected * (1.0 - LEFT) && missing >= CHANCE * expected.sqrt() && missing > 0.0)
    }
}

impl Reading {
    /// With what was done since the one before, if there was one.
    fn after(before: Option<&Self>, figures: &Figures) -> (Self, Option<Recent>) {
        let figures = *figures;
        let Some(Self { figures: before, lingering: lingered }) = before else {
            return (Self { figures, lingering: figures.half_open }, None);
        };
        let more = |before: u64, now: u64| now.saturating_sub(before) as f64;
        let connections = figures.connections.saturating_sub(before.connections);
        let lingering = figures.half_open.saturating_sub(connections);
        let (connections, incomplete) = (connections as f64, more(before.incomplete, figures.incomplete));
        let step = Recent {
            connections,
            // Fewer than none: some were counted as complete before they were seen to be half-open.
            completed: connections - incomplete - (figures.half_open as f64 - before.half_open as f64),
            stuck: incomplete + lingering as f64 - *lingered as f64,
            retransmissions: more(before.retransmissions, figures.retransmissions),
            resets: more(before.resets, figures.resets),
        };
        (Self { figures, lingering }, Some(step))
    }
}

impl Recent {
    fn fold(&mut self, kept: f64, step: &Self) {
        *self = step.and(self, kept);
    }

    /// With so much of another.
    fn and(&self, other: &Self, part: f64) -> Self {
        Self {
            connections: self.connections + other.connections * part,
            completed: self.completed + other.completed * part,
            stuck: self.stuck + other.stuck * part,
            retransmissions: self.retransmissions + other.retransmissions * part,
            resets: self.resets + other.resets * part,
        }
    }

    /// How much of the connections does not complete: has hung for a while, or had to ask again. None: there are too few.
    fn part_stuck(&self) -> Option<f64> {
        let stuck = self.stuck.max(self.retransmissions).clamp(0.0, self.connections.max(0.0));
        (self.connections >= ENOUGH).then(|| stuck / self.connections)
    }

    /// How much of what was completed clients have reset.
    fn part_reset(&self) -> Option<f64> {
        (self.completed >= ENOUGH).then(|| self.resets.min(self.completed) / self.completed)
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, retransmissions, resets, .. } = self;
        let (completed, stuck) = (self.completed.max(0.0), self.stuck.max(0.0));
        write!(
            f,
            "about {connections:.0} connections, {completed:.0} handshakes completed, {stuck:.0} hang or ran out, \
             {retransmissions:.0} SYNs came again, {resets:.0} were reset by clients"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HOLD: Duration = Duration::from_secs(30);
    const TERMS: Terms = Terms { hold: HOLD, is_aimed: false, guarded: false };
    const AIMED: Terms = Terms { is_aimed: true, ..TERMS };

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

        /// New connections and SYNs that came again in a second, by the backend: so many hang.
        fn second(&mut self, guarded: bool, of: impl Fn(usize) -> (u64, u64)) -> Vec<Turn> {
            for (n, (_, figures)) in self.figures.iter_mut().enumerate() {
                let (connections, again) = of(n);
                figures.connections += connections;
                figures.half_open += again.min(connections);
                figures.retransmissions += again;
            }
            self.read(Terms { guarded, ..TERMS })
        }

        fn read(&mut self, terms: Terms) -> Vec<Turn> {
            let mut turns = Vec::new();
            self.now += Duration::from_secs(1);
            self.passive.read(self.now, terms, &self.figures, |_| true, &mut turns);
            turns
        }

        /// In a second so many connections of each backend complete, and so many more hang; they run out a minute later.
        fn flooded(&mut self, terms: Terms, completed: &[u64], hung: &[u64]) -> Vec<Turn> {
            for (n, (_, figures)) in self.figures.iter_mut().enumerate() {
                let run_out = figures.half_open.checked_sub(60 * hung[n]).unwrap_or_default();
                figures.connections += completed[n] + hung[n];
                figures.half_open = figures.half_open + hung[n] - run_out;
                figures.incomplete += run_out;
            }
            self.read(terms)
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
            "about 20 connections, 0 handshakes completed, 0 hang or ran out, 20 SYNs came again, 0 were reset by clients; \
             the others': about 40 connections, 38 handshakes completed, 0 hang or ran out, 2 SYNs came again, 0 were \
             reset by clients"
        );
        let began = counted.now;
        while counted.now < began + HOLD - Duration::from_secs(1) {
            assert_eq!(counted.second(false, |n| if n == 1 { (0, 0) } else { (30, 1) }), []);
        }
        assert_eq!(counted.second(false, |_| (20, 0)), [Turn::Trusted(key(1), Grounds::Handshakes)]);
        assert_eq!(counted.second(false, |_| (20, 0)), []);
        // Again, and for twice as long.
        let bad = |n: usize| if n == 1 { (90, 90) } else { (90, 1) };
        let again = (0..20).map(|_| counted.second(false, bad)).find(|turns| !turns.is_empty());
        assert!(
            matches!(&again.as_deref(), Some([Turn::Suspect(_, until, _)]) if *until == counted.now + 2 * HOLD),
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
    fn resets_by_clients_lower_the_weight_where_nobody_can_aim_them() {
        let resets = |terms, of: [u64; 3], again: [u64; 3]| {
            let mut counted = Counted::new(3);
            for (n, (_, figures)) in counted.figures.iter_mut().enumerate() {
                figures.connections += 20;
                figures.half_open += again[n].min(20);
                (figures.retransmissions, figures.resets) = (again[n], of[n]);
            }
            counted.read(terms);
            let suspects = counted.suspects();
            let grounds = |n: usize| counted.passive.suspicion(key(n)).map(|(grounds, ..)| (n, grounds));
            suspects.into_iter().filter_map(grounds).collect::<Vec<_>>()
        };
        assert_eq!(resets(TERMS, [20, 1, 1], [0, 0, 0]), [(0, Grounds::Resets)]);
        assert_eq!(resets(AIMED, [20, 1, 1], [0, 0, 0]), []);
        assert_eq!(resets(TERMS, [15, 1, 1], [0, 0, 0]), [], "some programs hang up so");
        assert_eq!(resets(TERMS, [20, 20, 20], [0, 0, 0]), [], "clients that always hang up by a reset");
        // Who is never reached is never reset either.
        assert_eq!(resets(TERMS, [20, 20, 0], [0, 0, 60]), [(2, Grounds::Handshakes)]);
        // Clients' hosts answer SYN-ACKs that they have not asked for.
        assert_eq!(resets(TERMS, [20, 0, 0], [20, 20, 20]), []);
    }

    #[test]
    fn a_flood_that_is_aimed_at_one_takes_no_completion_away() {
        for terms in [TERMS, AIMED] {
            let mut counted = Counted::new(3);
            for second in 0..300 {
                let hung = if second > 60 { [0, 90, 0] } else { [0; 3] };
                assert_eq!(counted.flooded(terms, &[10, 3, 4], &hung), [], "{terms:?}, second {second}");
            }
        }
    }

    #[test]
    fn one_that_breaks_has_lost_what_it_used_to_complete() {
        for terms in [TERMS, AIMED] {
            let mut counted = Counted::new(3);
            (0..60).for_each(|_| assert_eq!(counted.flooded(terms, &[10, 3, 4], &[0; 3]), []));
            let took = (1..).find(|_| !counted.flooded(terms, &[10, 0, 4], &[0, 3, 0]).is_empty());
            assert_eq!(counted.suspects(), [1]);
            assert!(took.is_some_and(|seconds| (5..20).contains(&seconds)), "{took:?}");
        }
    }

    #[test]
    fn one_without_a_past_is_suspect_only_where_nobody_can_aim() {
        for (terms, suspects) in [(TERMS, vec![1]), (AIMED, vec![])] {
            let mut counted = Counted::new(3);
            (0..60).for_each(|_| drop(counted.flooded(terms, &[10, 0, 10], &[0, 10, 0])));
            assert_eq!(counted.passive.of[&key(1)].times > 0, !suspects.is_empty(), "{terms:?}");
        }
    }

    #[test]
    fn handshakes_that_are_on_their_way_do_not_hang() {
        let mut counted = Counted::new(2);
        // Each reading falls into a burst that one backend has.
        for n in 0..40 {
            counted.figures.iter_mut().for_each(|(_, figures)| {
                (figures.connections, figures.half_open) = (figures.connections + 30, 0);
            });
            counted.figures[n % 2].1.half_open = 30;
            assert_eq!(counted.read(TERMS), []);
        }
    }

    #[test]
    fn who_is_not_judged_begins_with_what_was_counted_then() {
        let (mut counted, mut turns) = (Counted::new(2), Vec::new());
        counted.figures[0].1 = Figures { connections: 90, retransmissions: 90, ..Figures::default() };
        counted.figures[1].1 = Figures { connections: 90, ..Figures::default() };
        counted.now += Duration::from_secs(1);
        let (figures, now) = (counted.figures.clone(), counted.now);
        counted.passive.read(now, TERMS, &figures, |judged| judged != key(0), &mut turns);
        assert_eq!(turns, []);
        assert_eq!(counted.second(false, |_| (20, 0)), [], "the past is past");
        let bad = |n: usize| if n == 0 { (90, 90) } else { (20, 0) };
        assert!((0..20).any(|_| counted.second(false, bad).len() == 1));
        // What fails by its checks meanwhile is no suspect any more.
        let (figures, now) = (counted.figures.clone(), counted.now);
        counted.passive.read(now, TERMS, &figures, |judged| judged != key(0), &mut turns);
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

        /// Whatever hangs in addition, and wherever, from whenever on: who completes as many handshakes as before is
        /// trusted. Where nobody can aim, the flood falls evenly as long as there is no past.
        #[test]
        fn a_flood_turns_nobody_whose_completions_are_unchanged(
            completed in vec(0..40u64, 2..8),
            floods in vec((1..40usize, vec(prop_oneof![Just(0), 1..400u64], 8)), 1..6),
            is_aimed: bool,
            calm in 0..60usize,
        ) {
            let terms = Terms { is_aimed, ..TERMS };
            let mut counted = Counted::new(completed.len());
            // Without a past: only those that can be aimed at.
            let completed: Vec<u64> = match is_aimed {
                true => completed,
                false => completed.iter().map(|it| it + 1).collect(),
            };
            let calm = if is_aimed { calm } else { calm + ENOUGH as usize + 2 };
            for _ in 0..calm {
                prop_assert_eq!(counted.flooded(terms, &completed, &[0; 8]), []);
            }
            for (seconds, hung) in floods {
                for _ in 0..seconds {
                    prop_assert_eq!(counted.flooded(terms, &completed, &hung), []);
                }
            }
        }

        /// Also behind a flood: who completes nothing any more is found, if it completed enough.
        #[test]
        fn one_that_loses_its_completions_is_found(
            completed in vec(3..40u64, 2..8),
            hung in vec(0..20u64, 8),
            is_aimed: bool,
        ) {
            let terms = Terms { is_aimed, ..TERMS };
            let mut counted = Counted::new(completed.len());
            (0..60).for_each(|_| drop(counted.flooded(terms, &completed, &[0; 8])));
            let mut broken = completed.clone();
            broken[0] = 0;
            let mut all = vec![0; 8];
            all[0] = completed[0] + hung[0];
            (0..30).for_each(|_| drop(counted.flooded(terms, &broken, &all)));
            prop_assert!(counted.passive.of[&key(0)].times > 0);
        }
    }
}
