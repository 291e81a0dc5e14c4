//! A backend that comes and goes too often is kept out for a while.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Clocks;

/// Failures that are forgiven: with the third one it flaps.
const FORGIVEN: u32 = 2;
/// As long as this, in first holds, a backend has to stay in for its failures to be forgotten.
const CALM: u32 = 10;
/// The hold doubles with each failure so often: to 16 times the first one.
const DOUBLINGS: u32 = 4;

/// The machine of one backend. `hold` is the first hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damping {
    /// Failures that are not forgotten.
    failures: u32,
    /// When the last one was, or the hold that came of it ended.
    calm_since: Duration,
    until: Option<Duration>,
}

/// The same in the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDamping {
    failures: u32,
    calm_since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl Damping {
    /// The backend has failed; until when it is kept out now, if it is.
    pub fn failed(&mut self, now: Duration, hold: Duration) -> Option<Duration> {
        if now.saturating_sub(self.calm_since) > hold * CALM {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let until = held_for(self.failures, hold).map(|held| now + held);
        self.until = self.until.max(until);
        self.calm_since = self.until.unwrap_or(now);
        self.until
    }

    /// Time has come to `now`; whether a hold has ended.
    pub fn ended(&mut self, now: Duration) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// Until when it is kept out, and when [`Self::ended`] has something to do.
    pub fn until(&self) -> Option<Duration> {
        self.until
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn saved(&self, clocks: Clocks) -> SavedDamping {
        let until = self.until.map(|until| clocks.wall_at(until));
        SavedDamping { failures: self.failures, calm_since: clocks.wall_at(self.calm_since), until }
    }
}

impl SavedDamping {
    /// Goes on with it; none if its failures are forgotten by now. No hold lasts longer than if it began now.
    pub fn resume(self, clocks: Clocks, hold: Duration) -> Option<Damping> {
        let Self { failures, calm_since, until } = self;
        let now = clocks.monotonic;
        let until = until.zip(held_for(failures, hold));
        let until = until.map(|(until, held)| clocks.monotonic_at(until).min(now + held));
        if until.is_none() && clocks.since(calm_since) > hold * CALM {
            return None;
        }
        let calm_since = clocks.monotonic_at(calm_since).min(until.unwrap_or(now));
        Some(Damping { failures, calm_since, until })
    }
}

/// How long the last of so many failures keeps out, if it does.
fn held_for(failures: u32, hold: Duration) -> Option<Duration> {
    failures.checked_sub(FORGIVEN + 1).map(|beyond| hold * (1 << beyond.min(DOUBLINGS)))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HOLD: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_third_failure_holds_and_each_further_one_twice_as_long() {
        let mut damping = Damping::default();
        let holds = [0, 20, 40, 60, 90, 140, 240, 410, 600].map(|now| {
            damping.ended(at(now));
            damping.failed(at(now), HOLD).map(|until| (until - at(now)).as_secs())
        });
        assert_eq!(
            holds,
            [None, None, Some(10), Some(20), Some(40), Some(80), Some(160), Some(160), Some(160)]
        );
    }

    #[test]
    fn calm_is_forgiven() {
        let mut damping = Damping::default();
        assert_eq!([0, 1, 2].map(|now| damping.failed(at(now), HOLD).is_some()), [false, false, true]);
        assert!(!damping.ended(at(11)) && damping.ended(at(12)) && !damping.ended(at(13)));
        let mut calm = damping.clone();
        assert_eq!(damping.failed(at(112), HOLD), Some(at(132)), "not longer than ten holds since its end");
        assert_eq!(calm.failed(at(113), HOLD), None);
    }

    proptest! {
        /// However it fails: a hold never ends later than 16 first holds after a failure, never shrinks by one
        /// more, and ends.
        #[test]
        fn holds_are_bounded_and_end(pauses in vec(0..400u64, 1..60)) {
            let (mut damping, mut now) = (Damping::default(), Duration::ZERO);
            for pause in pauses {
                now += at(pause);
                damping.ended(now);
                let before = damping.until();
                let until = damping.failed(now, HOLD);
                prop_assert!(until >= before);
                prop_assert!(until.is_none_or(|until| until > now && until <= now + 16 * HOLD));
                prop_assert_eq!(damping.until(), until);
            }
            damping.ended(now + 16 * HOLD);
            prop_assert_eq!(damping.until(), None);
        }
    }
}
