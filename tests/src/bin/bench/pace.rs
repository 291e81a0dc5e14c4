//! Whether the machine kept its pace: shared ones change their clock state in the middle of a run.

use std::{fmt, fs, hint::black_box, time::Duration};

use anyhow::Result;
use lb_tests::clock;

/// Turns of the loop that is timed: about a millisecond.
const TURNS: u64 = 1 << 20;
/// A round counts as slow if its loop took so many hundredths of the best one's time.
const SLOW: u32 = 115;

/// How long the same work took before and after each round.
#[derive(Default)]
pub struct Pace {
    rounds: Vec<Duration>,
}

impl Pace {
    pub fn round<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = timed();
        let result = work()?;
        self.rounds.push(before.max(timed()));
        Ok(result)
    }

    /// Rounds that began or ended in a slower clock state than the best.
    pub fn slow(&self) -> usize {
        let best = self.rounds.iter().min().copied().unwrap_or_default();
        self.rounds.iter().filter(|round| **round * 100 > best * SLOW).count()
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {} rounds began or ended in a slower clock state", self.slow(), self.rounds.len())
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
