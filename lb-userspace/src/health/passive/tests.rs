//! Who is suspect, on figures alone.

use proptest::{collection::vec, prelude::*};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
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
    /// Between readings.
    every: Duration,
    /// Handshakes of each that begin while the round goes on by which half-open ones are counted, and are seen by it.
    early: [u64; 8],
}

impl Counted {
    fn new(backends: usize) -> Self {
        let figures = (0..backends).map(|n| (key(n), Figures::default())).collect();
        let mut counted =
            Self { passive: Passive::default(), figures, now: Duration::ZERO, every: SECOND, early: [0; 8] };
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
        self.now += self.every;
        let mut all = self.figures.clone();
        for ((_, figures), early) in all.iter_mut().zip(self.early) {
            (figures.meanwhile, figures.half_open) = (early, figures.half_open + early);
        }
        self.passive.read(self.now, terms, &all, |_| true, &mut turns);
        turns
    }

    /// From one reading to the next so many connections of each backend complete, and so many more hang; they run out a minute later.
    fn flooded(&mut self, terms: Terms, completed: &[u64], hung: &[u64]) -> Vec<Turn> {
        for (n, (_, figures)) in self.figures.iter_mut().enumerate() {
            let run_out = figures.half_open.saturating_sub(60 * hung[n]);
            figures.connections += completed[n] + hung[n];
            figures.half_open = figures.half_open + hung[n] - run_out;
            figures.incomplete += run_out;
        }
        self.read(terms)
    }

    /// In a second so many complete and so many hang, and `early` more hang that are seen already while those are counted.
    fn bursts(&mut self, terms: Terms, completed: &[u64], hung: &[u64], early: [u64; 8]) -> Vec<Turn> {
        for (n, (_, figures)) in self.figures.iter_mut().enumerate() {
            let before = std::mem::replace(&mut self.early[n], early[n]);
            figures.connections += completed[n] + hung[n] + before;
            figures.half_open += hung[n] + before;
        }
        self.read(terms)
    }

    /// Until it turns who is suspect.
    fn takes(&mut self, terms: Terms, completed: &[u64], hung: &[u64]) -> Duration {
        let began = self.now;
        while self.flooded(terms, completed, hung).is_empty() {
            assert!(self.now < began + 10 * HOLD, "nobody is suspect");
        }
        self.now - began
    }

    fn suspects(&self) -> Vec<usize> {
        (0..self.figures.len()).filter(|n| self.passive.suspicion(key(*n)).is_some()).collect()
    }
}

#[test]
fn one_that_stands_out_is_suspect_until_its_time_is_over() {
    let mut counted = Counted::new(3);
    let bad = |n: usize| if n == 1 { (20, 20) } else { (20, 1) };
    assert_eq!(counted.second(false, bad), [], "they may be on their way");
    let turns = counted.second(false, bad);
    let [Turn::Suspect(suspect, until, why)] = &turns[..] else { panic!("{turns:?}") };
    assert_eq!((*suspect, *until), (key(1), counted.now + HOLD));
    assert_eq!(
        why,
        "about 39 connections, 0 handshakes completed, 20 hang or ran out, 39 SYNs came again, 0 were reset by clients; \
         the others': about 77 connections, 73 handshakes completed, 0 hang or ran out, 4 SYNs came again, 0 were \
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
    for (backends, bad, good, why) in
        [(3, 9, 90, "too few of it"), (2, 90, 9, "too few beside it"), (1, 90, 0, "nobody beside it")]
    {
        let mut counted = Counted::new(backends);
        let of = |n: usize| if n == 0 { (bad, bad) } else { (good, 0) };
        assert_eq!(counted.second(false, of), [], "{why}");
        (0..5).for_each(|_| assert_eq!(counted.second(false, |_| (0, 0)), [], "{why}"));
    }
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
        (0..2).for_each(|_| drop(counted.read(terms)));
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
    for (terms, past) in [(TERMS, 60), (AIMED, 60), (TERMS, 3600), (AIMED, 3600)] {
        let mut counted = Counted::new(3);
        (0..past).for_each(|_| assert_eq!(counted.flooded(terms, &[10, 3, 4], &[0; 3]), []));
        let took = counted.takes(terms, &[10, 0, 4], &[0, 3, 0]);
        assert_eq!(counted.suspects(), [1]);
        assert!((5 * SECOND..20 * SECOND).contains(&took), "{terms:?}, after {past} s: {took:?}");
        // As long as it is broken it is suspect again, as fast: an outage is nothing usual.
        for _ in 0..4 {
            let trusted = counted.takes(terms, &[10, 0, 4], &[0; 3]);
            assert!(trusted >= HOLD && counted.suspects().is_empty(), "{trusted:?}");
            let took = counted.takes(terms, &[10, 0, 4], &[0, 3, 0]);
            assert_eq!(counted.suspects(), [1]);
            assert!(took < 20 * SECOND, "{terms:?}, again: {took:?}");
        }
    }
}

#[test]
fn readings_may_be_far_apart() {
    for terms in [TERMS, AIMED] {
        let mut counted = Counted::new(3);
        counted.every = 7 * SECOND;
        (0..20).for_each(|_| assert_eq!(counted.flooded(terms, &[70, 21, 28], &[0; 3]), []));
        (0..20).for_each(|_| assert_eq!(counted.flooded(terms, &[70, 21, 28], &[0, 500, 0]), []));
        let took = counted.takes(terms, &[70, 0, 28], &[0, 21, 0]);
        assert_eq!(counted.suspects(), [1]);
        assert!(took <= 28 * SECOND, "{terms:?}: {took:?}");
    }
}

#[test]
fn one_syn_that_is_repeated_makes_nobody_suspect() {
    for terms in [TERMS, AIMED] {
        let mut counted = Counted::new(3);
        for second in 0..120 {
            counted.figures[1].1.retransmissions += 1000;
            assert_eq!(counted.flooded(terms, &[2, 2, 2], &[0; 3]), [], "{terms:?}, second {second}");
        }
    }
}

#[test]
fn what_is_usual_is_learned_anew_where_connections_are_spread_in_another_way() {
    let mut counted = Counted::new(3);
    (0..60).for_each(|_| drop(counted.flooded(AIMED, &[10; 3], &[0; 3])));
    counted.passive.learn_anew();
    for _ in 0..60 {
        assert_eq!(counted.flooded(AIMED, &[10, 1, 10], &[0, 50, 0]), []);
    }
    // What hangs elsewhere would hide it.
    (0..60).for_each(|_| assert_eq!(counted.flooded(AIMED, &[10, 1, 10], &[0; 3]), []));
    assert!(counted.takes(AIMED, &[10, 1, 0], &[0, 0, 10]) < 20 * SECOND);
    assert_eq!(counted.suspects(), [2]);
}

#[test]
fn a_suspicion_is_saved_with_its_grounds_and_read_as_it_was_written_before_there_were_any() {
    let mut counted = Counted::new(2);
    counted.figures.iter_mut().for_each(|(_, figures)| figures.connections = 20);
    counted.figures[1].1.resets = 20;
    counted.read(TERMS);
    let before = counted.passive.suspicion(key(1)).map(|(grounds, ..)| grounds);
    assert_eq!(before, Some(Grounds::Resets));
    let clocks = Clocks { monotonic: counted.now, wall: Timestamp::UNIX_EPOCH };
    let saved = counted.passive.saved(clocks, key(1)).expect("it is suspect");
    let text = serde_json::to_string(&saved).expect("JSON");
    let resumed = |text: &str| {
        let mut next = Passive::default();
        next.resume(clocks, key(1), HOLD, serde_json::from_str(text).expect("it is read"));
        next.suspicion(key(1)).map(|(grounds, until, _)| (grounds, until))
    };
    assert_eq!(resumed(&text), Some((Grounds::Resets, counted.now + HOLD)));
    let older = r#"{"times": 1, "ended": "1970-01-01T00:00:00Z", "now": ["1970-01-01T00:00:09Z", "SYNs came again"]}"#;
    assert_eq!(resumed(older), Some((Grounds::Handshakes, counted.now + 9 * SECOND)));
    assert!(!older.contains("by_resets") && text.contains("by_resets"));
    // Nor is anything said of it where nothing is: an older agent reads it, then.
    let mut counted = Counted::new(3);
    (0..9).for_each(|_| drop(counted.flooded(TERMS, &[10, 0, 10], &[0, 10, 0])));
    let saved = counted.passive.saved(clocks, key(1)).expect("it is suspect");
    assert!(!serde_json::to_string(&saved).expect("JSON").contains("by_resets"));
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
        let calm = if is_aimed { calm } else { calm + 30 + ENOUGH as usize + 2 };
        for _ in 0..calm {
            prop_assert_eq!(counted.flooded(terms, &completed, &[0; 8]), []);
        }
        for (seconds, hung) in floods {
            for _ in 0..seconds {
                prop_assert_eq!(counted.flooded(terms, &completed, &hung), []);
            }
        }
    }

    /// Nor does it matter what of it falls into the rounds that count.
    #[test]
    fn bursts_within_a_round_turn_nobody(
        completed in vec(0..40u64, 2..8),
        seconds in vec((vec(0..400u64, 8), prop_oneof![Just([0; 8]), any::<[u8; 8]>()]), 1..120),
    ) {
        let mut counted = Counted::new(completed.len());
        for (hung, early) in seconds {
            prop_assert_eq!(counted.bursts(AIMED, &completed, &hung, early.map(|it| 4 * u64::from(it))), []);
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
