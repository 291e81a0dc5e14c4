//! What connections themselves show of a backend: a second opinion beside its checks.
//!
//! The rule. A backend is *suspect* if both are so:
//! * It stands out: of its recent connections many more are stuck in the handshake than of the others'. What troubles all
//!   backends of a service alike is the clients' doing, or the network's, and nobody's fault.
//! * It has lost completed handshakes: far fewer than it completed until lately beside what the others complete. A broken
//!   backend loses them; a flood of SYNs that is aimed at a healthy one adds openings, and takes no completion away. What
//!   it completed until lately does not include the last half a minute: an outage must not pass for what is usual.
//!
//! Of a backend that is new here the second is not known. Then the first alone is believed, but only where clients cannot
//! choose their backend: flood and real connections are spread alike there, so what stands out is the backend. By a
//! scheduler that hashes addresses, or with persistence, who chooses source addresses chooses the backend: there nobody
//! is suspect without a past. And SYNs that come again are not believed then: one client that repeats one SYN makes as
//! many as it likes, all of them at one backend. Handshakes that hang are one each.
//!
//! Resets by clients are weaker: some programs hang up by one (SO_LINGER of 0), and of a backend's own resets the director
//! sees nothing. Where nearly all of a backend's connections end so and hardly any of the others', its weight is lowered, never
//! more; and only where clients cannot choose their backend, since anybody can send a RST.
//!
//! While the guard against floods is active nothing is believed at all.

mod recent;
#[cfg(test)]
mod tests;
mod usual;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use recent::Figures;
use recent::{Reading, Recent};
use usual::Usual;

use super::Clocks;
use crate::model::BackendKey;

/// Of what was counted a part is forgotten with each second: half of it in ten.
const KEPT_A_SECOND: f64 = 0.933;
/// Connections that are not forgotten, below which nothing is said of a backend, or of the others beside it.
const ENOUGH: f64 = 10.0;
/// Part of a backend's connections that are in trouble, beyond that of the others'.
const BEYOND: f64 = 0.4;
/// The same of those that clients reset.
const RESETS_BEYOND: f64 = 0.8;
/// The share of a service's backends that may be suspect at once is one of so many, but always one.
const ONE_OF: usize = 3;
/// The hold doubles with each suspicion so often: to 16 times the first one.
const DOUBLINGS: u32 = 4;
/// So long after a flood nothing is believed either: its handshakes run out (SYN_RECV, a minute by default).
const WARY: Duration = Duration::from_secs(90);
/// In holds: so long after the last one a backend's suspicions are forgotten.
const CALM: u32 = 10;

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
    /// For resets by clients. Left out where it is not so: an agent that does not know the word refuses it, and takes what is in
    /// progress to be over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_resets: bool,
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
        self.take_in(now, elapsed.as_secs_f64(), &steps);
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
    fn take_in(&mut self, now: Duration, seconds: f64, steps: &BTreeMap<BackendKey, Recent>) {
        let is_suspect = |it: &Watched| it.suspicion.is_some();
        let compared = steps.iter().filter(|(key, _)| self.of.get(key).is_some_and(|it| !is_suspect(it)));
        let compared: BTreeMap<_, _> = compared.collect();
        let all = compared.values().fold(Recent::default(), |sum, step| sum.and(step, 1.0));
        let learns = !steps.is_empty() && !self.of.values().any(is_suspect);
        let is_the_same = self.learned_of.iter().eq(steps.keys());
        if learns && !is_the_same {
            self.learn_anew();
            self.learned_of = steps.keys().copied().collect();
        }
        let kept = KEPT_A_SECOND.powf(seconds);
        for (key, step) in steps {
            let Some(watched) = self.of.get_mut(key) else { continue };
            let beside = if compared.contains_key(key) { all.and(step, -1.0) } else { all };
            watched.recent.fold(kept, step);
            watched.beside.fold(kept, &beside);
            if learns {
                watched.usual.learn(now, seconds, step.completed, beside.completed);
            }
        }
    }

    /// Forgets what is usual: from now on connections are spread in another way.
    pub fn learn_anew(&mut self) {
        self.of.values_mut().for_each(|it| it.usual = Usual::default());
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
            // What led to it is nothing usual, beside nobody.
            self.of.values_mut().for_each(|it| it.usual.forget_lately());
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
        let unsure = self.last.as_ref().map_or(0.0, Reading::unsure);
        let stands_out = match self.usual.lost(&self.recent, unsure, &self.beside) {
            Some(true) => beyond(Recent::part_stuck, BEYOND),
            None if !is_aimed => beyond(Recent::part_hung, BEYOND),
            Some(false) | None => None,
        };
        if let Some(beyond) = stands_out {
            return Some((Grounds::Handshakes, beyond));
        }
        let beyond = beyond(Recent::part_reset, RESETS_BEYOND).filter(|_| !is_aimed)?;
        Some((Grounds::Resets, beyond))
    }
}
