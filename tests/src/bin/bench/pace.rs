//! Whether the machine kept its pace: shared ones change their clock state in the middle of a run.

use std::{fmt, fs, hint::black_box, time::Duration};

use anyhow::Result;
use lb_tests::clock;
use serde::Serialize;

use crate::figures;

/// Turns of the loop that is timed: about a millisecond.
const TURNS: u64 = 1 << 20;
/// A round counts as slow if its loop took so many hundredths of the best one's time.
const SLOW: u32 = 115;
/// Fewer rounds than this have no median worth the name.
const ENOUGH: usize = 5;

/// How long the same work took before and after each round.
#[derive(Default)]
pub struct Pace {
    /// The longer one.
    rounds: Vec<Duration>,
    best: Option<Duration>,
}

/// ns per packet above what the wrapper takes by itself: minimum above minimum, median above median.
#[derive(Clone, Debug, Serialize)]
pub struct Above {
    pub minimum: i64,
    pub median: i64,
    /// Each round's, above the wrapper's best.
    rounds: Vec<i64>,
}

impl Pace {
    pub fn round<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = timed();
        let result = work()?;
        let after = timed();
        self.rounds.push(before.max(after));
        // A table of one round has the better end of it at least.
        self.best = [self.best, Some(before), Some(after)].into_iter().flatten().min();
        Ok(result)
    }

    /// Another's rounds: of a table of several measurements.
    pub fn append(&mut self, other: Self) {
        self.rounds.extend(other.rounds);
        self.best = [self.best, other.best].into_iter().flatten().min();
    }

    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Numbers of the rounds that began or ended in a slower clock state than the best, from 0 on.
    pub fn slow(&self) -> Vec<usize> {
        (0..).zip(&self.rounds).filter(|(_, round)| self.is_slow(**round)).map(|(number, _)| number).collect()
    }

    /// Minimum and median of what a row had in each round; for the median slow rounds do not count, unless
    /// too few are left.
    pub fn figures<T: Copy + Default + Ord>(&self, row: &[T]) -> (T, T) {
        let kept = row.iter().zip(&self.rounds).filter(|(_, round)| !self.is_slow(**round));
        let kept: Vec<T> = kept.map(|(value, _)| *value).collect();
        let (minimum, median) = figures(row);
        (minimum, if kept.len() < ENOUGH { median } else { figures(&kept).1 })
    }

    /// The same of a row and the wrapper, which was measured in the same rounds.
    pub fn above(&self, row: &[u32], wrapper: &[u32]) -> Above {
        let ((minimum, median), (least, middle)) = (self.figures(row), self.figures(wrapper));
        let above = |all: u32, wrapper: u32| i64::from(all) - i64::from(wrapper);
        let rounds = row.iter().map(|round| above(*round, least)).collect();
        Above { minimum: above(minimum, least), median: above(median, middle), rounds }
    }

    fn is_slow(&self, round: Duration) -> bool {
        round * 100 > self.best.unwrap_or_default() * SLOW
    }
}

/// As a table prints them.
impl fmt::Display for Above {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}/{}", self.minimum, self.median))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} of {} rounds began or ended in a slower clock state",
            self.slow().len(),
            self.rounds.len()
        )
    }
}

/// How many processes ran or wanted to, over the last minute (proc_loadavg(5)).
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn timed() -> Duration {
    let since = clock::now();
    let mut word = black_box(1u64);
    for turn in 0..TURNS {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn;
    }
    black_box(word);
    clock::now() - since
}
