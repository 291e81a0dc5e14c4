//! What a backend completes as a rule.

use std::{collections::VecDeque, time::Duration};

use super::{ENOUGH, Recent};

/// Of what is usual a part is forgotten with each second: half of it in ten minutes.
const KEPT_A_SECOND: f64 = 0.998_845;
/// What is younger is not yet usual: in that time it is seen whether it was an outage.
const RIPE: Duration = Duration::from_secs(30);
/// Part of the usual completions that is left, at most, of one that has lost them.
const LEFT: f64 = 0.5;
/// In roots of what was expected: what is missing beyond this is no chance (the root is the deviation of what comes at random).
const CHANCE: f64 = 4.0;

/// Completed handshakes of a backend, and of the others in the same time.
#[derive(Debug, Default)]
pub struct Usual {
    sum: Beside,
    /// What will be added, and when it was read.
    young: VecDeque<(Duration, Beside)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    own: f64,
    others: f64,
}

impl Usual {
    /// Takes in what was completed in so many seconds. It counts as soon as it is old enough.
    pub fn learn(&mut self, now: Duration, seconds: f64, own: f64, others: f64) {
        let kept = KEPT_A_SECOND.powf(seconds);
        (self.sum.own, self.sum.others) = (self.sum.own * kept, self.sum.others * kept);
        self.young.push_back((now, Beside { own, others }));
        while let Some((_, ripe)) = self.young.pop_front_if(|(read, _)| now.saturating_sub(*read) >= RIPE) {
            self.sum.own += ripe.own;
            self.sum.others += ripe.others;
        }
    }

    /// Forgets what does not count yet: it led to a suspicion.
    pub fn forget_lately(&mut self) {
        self.young.clear();
    }

    /// Whether a backend completes far fewer handshakes beside the others than it used to, although `unsure` more may
    /// have completed. None: it has no past.
    pub fn lost(&self, recent: &Recent, unsure: f64, beside: &Recent) -> Option<bool> {
        let Beside { own, others } = self.sum;
        if own < ENOUGH || others < ENOUGH {
            return None;
        }
        let expected = beside.completed * own / others;
        let missing = expected - recent.completed - unsure;
        Some(missing >= expected * (1.0 - LEFT) && missing >= CHANCE * expected.sqrt() && missing > 0.0)
    }
}
