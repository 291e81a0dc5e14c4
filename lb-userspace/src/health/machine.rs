//! One check of one backend: when it is made, and what its results mean.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::check::{Initial, Timing};

impl Pass {
    /// With all of its weight.
    pub fn new(found: impl Into<String>) -> Self {
        Self { found: found.into(), weight: Weight::Configured }
    }

    /// Nobody answered, which is good enough.
    pub fn silence() -> Self {
        Self::new(SILENCE)
    }

    pub fn is_silence(&self) -> bool {
        self.found == SILENCE
    }

    /// The director could not ask. That is nobody's fault but its own: others decide.
    pub fn not_made(why: &str) -> Self {
        Self::new(format!("{NOT_MADE}{why}"))
    }

    fn is_not_made(&self) -> bool {
        self.found.starts_with(NOT_MADE)
    }
}

const NOT_MADE: &str = "not made: ";

const SILENCE: &str = "no reply, and no error";

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// From its begin to its result.
    pub took: Duration,
    pub result: Result<Pass, Failure>,
}

/// It passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// What was found, for people: `connected`, `status 200`.
    pub found: String,
    pub weight: Weight,
}

/// What a check that passes says of a backend's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It may have all of it.
    #[default]
    Configured,
    /// This one, whatever is configured.
    Exactly(u16),
    /// So many percent, 0 to 99, because it is so many seconds behind (none: it does not follow at all).
    Lagging { percent: u8, lag: Option<u64> },
    /// All of it, while no other backend can serve: it is the primary where replicas are wanted.
    StandBy,
}

/// It failed; why, for people: `connection refused`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
}

/// What is known of a backend by one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No result yet: `initial` says what it counts as.
    Unproven,
    Up,
    Down,
}

/// What happens to a check.
#[derive(Clone, Debug)]
pub enum Input {
    /// Its deadline has come, or will have by the time that is given as now (earlier does no harm).
    Time,
    /// The attempt that it asked for has ended.
    Done(Outcome),
}

/// What a check wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make one attempt at this time, and say how it ended.
    Attempt(Duration),
    /// The state is another one now.
    Changed(State),
}

/// The machine. One attempt at a time; rounds begin `interval` apart, however long they take, as long as
/// each ends before the next one is due.
#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    state: State,
    /// Results in a row that speak against the state.
    against: u16,
    /// Failures of this round that are tried again.
    tried: u16,
    /// When this round was due, or would have been; the next one is counted from here.
    round: Duration,
    /// When to make the next attempt; none while one is asked for or under way.
    next: Option<Duration>,
    /// Where in its interval this check has its place; none once it stands there.
    place: Option<Duration>,
    last: Option<Outcome>,
    weight: Weight,
}

impl Machine {
    /// `phase`, at random from 0 to 1, spreads the checks that begin together over time: the first attempt
    /// over `warmup`, and all later ones over the whole interval.
    pub fn new(now: Duration, timing: Timing, phase: f64) -> Self {
        let next = now + timing.warmup().duration().mul_f64(phase);
        Self {
            timing,
            state: State::Unproven,
            against: 0,
            tried: 0,
            round: next,
            next: Some(next),
            place: Some(now + timing.interval.duration().mul_f64(phase)),
            last: None,
            weight: Weight::Configured,
        }
    }

    /// One whose state is known from before, with its last result, if that is known too.
    pub fn resume(self, state: State, last: Option<Outcome>, weight: Weight) -> Self {
        Self { state, last, weight, ..self }
    }

    /// Goes on with other figures.
    pub fn retime(&mut self, now: Duration, timing: Timing) {
        self.timing = timing;
        self.next = self.next.map(|next| next.min(now + self.pause()));
        if self.tried == 0 {
            self.round = self.next.unwrap_or(self.round);
        }
    }

    pub fn handle(&mut self, now: Duration, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Time => {
                if let Some(next) = self.next.filter(|next| *next <= now) {
                    self.next = None;
                    actions.push(Action::Attempt(next));
                }
            }
            Input::Done(_) if self.next.is_some() => {}
            Input::Done(outcome) => self.done(now, outcome, actions),
        }
    }

    fn done(&mut self, now: Duration, outcome: Outcome, actions: &mut Vec<Action>) {
        if outcome.result.as_ref().is_ok_and(Pass::is_not_made) {
            return self.not_made(now, outcome, actions);
        }
        let passed = outcome.result.is_ok();
        if let Ok(pass) = &outcome.result {
            self.weight = pass.weight;
        }
        self.last = Some(outcome);
        if !passed && self.state == State::Up && self.tried < self.timing.retries {
            self.tried += 1;
            self.next = Some(now + self.timing.retry_delay.duration());
            return;
        }
        self.tried = 0;
        let before = self.state;
        self.judge(passed);
        if self.state != before {
            self.against = 0;
            actions.push(Action::Changed(self.state));
        }
        self.next = Some(self.following(now));
    }

    /// What is known stays. Who has never had a result is in nobody's way: a director that cannot look must not empty its
    /// pools.
    fn not_made(&mut self, now: Duration, outcome: Outcome, actions: &mut Vec<Action>) {
        if self.last.is_none() && self.state != State::Up {
            self.state = State::Up;
            actions.push(Action::Changed(self.state));
        }
        self.last = Some(outcome);
        self.next = Some(self.following(now));
    }

    fn judge(&mut self, passed: bool) {
        let (opposite, needed) = match self.state {
            State::Unproven => {
                self.state = if passed { State::Up } else { State::Down };
                return;
            }
            State::Up => (State::Down, self.timing.fall),
            State::Down => (State::Up, self.timing.rise),
        };
        if passed == (self.state == State::Up) {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        if self.against >= needed {
            self.state = opposite;
        }
    }

    /// When the next round is due. One that took too long is followed at once, and makes nothing up; those after it are
    /// where they would have been, so that the checks that one delay has hit do not go on as one burst.
    fn following(&mut self, now: Duration) -> Duration {
        let pause = self.pause();
        if self.against == 0
            && let Some(place) = self.place.take()
        {
            self.round = place + pause * pauses(place, now, pause);
            self.round += if self.round < now { pause } else { Duration::ZERO };
            return self.round;
        }
        let due = self.round + pause;
        self.round = due + pause * pauses(due, now, pause);
        self.round.max(now)
    }

    fn pause(&self) -> Duration {
        let is_changing = self.against > 0 || self.state == State::Unproven;
        let pause = if is_changing { self.timing.fast_interval() } else { self.timing.interval };
        pause.duration()
    }

    /// When [`Input::Time`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.next
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the backend may get new connections, as far as this check goes.
    pub fn serves(&self) -> bool {
        match self.state {
            State::Unproven => self.timing.initial == Initial::Up,
            State::Up => true,
            State::Down => false,
        }
    }

    /// Results in a row that speak against the state, and how many it takes to change it.
    pub fn against(&self) -> Option<(u16, u16)> {
        let needed = if self.state == State::Up { self.timing.fall } else { self.timing.rise };
        (self.against > 0).then_some((self.against, needed))
    }

    /// What the last attempt that passed said.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// How the last attempt ended.
    pub fn last(&self) -> Option<&Outcome> {
        self.last.as_ref()
    }
}

/// Whole ones from `from` until `now`.
fn pauses(from: Duration, now: Duration, pause: Duration) -> u32 {
    let whole = now.saturating_sub(from).as_nanos() / pause.as_nanos().max(1);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

impl Outcome {
    pub fn passed(took: Duration, found: impl Into<String>) -> Self {
        Self { took, result: Ok(Pass::new(found)) }
    }

    pub fn failed(took: Duration, why: impl Into<String>) -> Self {
        Self { took, result: Err(Failure { why: why.into() }) }
    }

    /// What was found, or why it failed.
    pub fn words(&self) -> &str {
        match &self.result {
            Ok(pass) => &pass.found,
            Err(failure) => &failure.why,
        }
    }

    /// `connection refused after 0.3 ms`.
    pub fn told(&self) -> String {
        let joint = if self.result.is_ok() { "in" } else { "after" };
        format!("{} {joint} {:.1} ms", self.words(), self.took.as_secs_f64() * 1000.0)
    }
}
