//! How long a backend that dies is served: the bound that docs/operations.md states.

use super::*;

/// A check of a backend that is up, and the time.
struct Watch {
    machine: Machine,
    timing: Timing,
    now: Duration,
}

/// How attempts fare once the backend is dead.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Nothing answers: each takes its whole timeout.
    Hangs,
    /// Refused, by an answer that takes no time.
    Refuses,
}

impl Watch {
    fn new(timing: Timing, phase: f64) -> Self {
        let machine = Machine::new(SECOND, timing, phase).resume(State::Up, None, Weight::Configured);
        Self { machine, timing, now: SECOND }
    }

    /// Begins the next attempt when it is due.
    fn begin(&mut self) {
        self.now = self.machine.deadline().expect("it waits for its time");
        let mut actions = Vec::new();
        self.machine.handle(self.now, machine::Input::Time, &mut actions);
        assert_eq!(actions, [machine::Action::Attempt(self.now)]);
    }

    /// The attempt that is under way ends after so long.
    fn end(&mut self, took: Duration, passes: bool) {
        self.now += took;
        let outcome = if passes { Outcome::passed(took, "") } else { Outcome::failed(took, "") };
        self.machine.handle(self.now, machine::Input::Done(outcome), &mut Vec::new());
    }

    /// How long it takes from now, when the backend dies between two attempts, or the one under way has `left` until
    /// its timeout.
    fn detect(&mut self, death: Death, left: Option<Duration>) -> Duration {
        let died = self.now;
        let takes = match death {
            Death::Hangs => self.timing.timeout().duration(),
            Death::Refuses => Duration::ZERO,
        };
        if let Some(left) = left {
            self.end(takes.min(left), false);
        }
        while self.machine.state() == State::Up {
            self.begin();
            self.end(takes, false);
        }
        self.now - died
    }
}

/// As docs/operations.md has it.
fn bound(timing: &Timing, death: Death) -> Duration {
    let takes = match death {
        Death::Hangs => timing.timeout().duration(),
        Death::Refuses => Duration::ZERO,
    };
    let failure = takes + u32::from(timing.retries) * (timing.retry_delay.duration() + takes);
    let later = timing.fast_interval().duration().max(failure);
    timing.interval.duration() + u32::from(timing.fall - 1) * later + failure
}

fn timing(interval: u32, fast_interval: u32, timeout: u32, fall: u16, retries: u16) -> Timing {
    Timing {
        interval: Millis(interval),
        fast_interval: Some(Millis(fast_interval)),
        timeout: Some(Millis(timeout)),
        fall,
        retries,
        retry_delay: Millis(100),
        ..Timing::default()
    }
}

/// Dead in the moment after it has answered, at once: the worst that there is, so the bound is no wider than it must be.
#[test]
fn a_death_right_after_a_pass_takes_the_whole_bound() {
    use Death::{Hangs, Refuses};
    for (timing, death, expected) in [
        // The example of docs/operations.md: its attempts are longer than the fast interval.
        (timing(500, 200, 1000, 3, 0), Hangs, 3500),
        (timing(500, 200, 1000, 3, 0), Refuses, 900),
        (timing(1000, 200, 150, 3, 0), Hangs, 1550),
        (timing(1000, 200, 200, 3, 0), Hangs, 1600),
        (timing(1000, 200, 300, 3, 0), Hangs, 1900),
        (timing(1000, 1000, 1000, 3, 0), Hangs, 4000),
        (timing(500, 200, 1000, 1, 0), Hangs, 1500),
        // A failure is three attempts and two pauses: 500 ms, and 3,200 ms.
        (timing(1000, 600, 100, 3, 2), Hangs, 2700),
        (timing(1000, 600, 1000, 2, 2), Hangs, 7400),
        (timing(1000, 100, 1000, 2, 2), Refuses, 1400),
    ] {
        let mut watch = Watch::new(timing, 0.3);
        for _ in 0..3 {
            watch.begin();
            watch.end(Duration::ZERO, true);
        }
        let took = watch.detect(death, None);
        assert_eq!(took, Duration::from_millis(expected), "{timing:?}, {death:?}");
        assert_eq!(took, bound(&timing, death), "{timing:?}, {death:?}");
    }
}

proptest! {
    /// Whatever its timing and its history, slow answers and single failures among it, whenever it dies.
    #[test]
    fn no_death_is_found_later_than_the_bound(
        timing in timings(),
        timeout in 1..6000u32,
        phase in 0.0..1.0f64,
        // Whether it passes, and after what part of its timeout.
        history in vec((prop::bool::weighted(0.8), 0.0..=1.0f64), 1..12),
        death in prop_oneof![Just(Death::Hangs), Just(Death::Refuses)],
        // During an attempt, after what part of its timeout; else before the next one is due, after what part of that.
        (during, when) in (any::<bool>(), 0.0..1.0f64),
    ) {
        let timing = Timing { timeout: Some(Millis(timeout)), ..timing };
        let mut watch = Watch::new(timing, phase);
        for (passes, part) in history {
            watch.begin();
            watch.end(timing.timeout().duration().mul_f64(part), passes);
        }
        while watch.machine.state() != State::Up {
            watch.begin();
            watch.end(Duration::ZERO, true);
        }
        let mut left = None;
        if during {
            watch.begin();
            let passed = timing.timeout().duration().mul_f64(when);
            watch.now += passed;
            left = Some(timing.timeout().duration().saturating_sub(passed));
        } else {
            let due = watch.machine.deadline().expect("it waits for its time");
            watch.now += due.saturating_sub(watch.now).mul_f64(when);
        }
        let (took, bound) = (watch.detect(death, left), bound(&timing, death));
        prop_assert!(took <= bound, "found after {took:?}, at most {bound:?} were expected");
    }
}
