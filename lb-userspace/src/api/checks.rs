//! What `lb stats` says of health checks.

use serde::{Deserialize, Serialize};

/// Attempts of one kind of health check since the agent started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStats {
    /// `tcp`, `http` ...
    pub kind: String,
    pub via_vip: bool,
    pub begun: u64,
    pub ended: u64,
    /// Of those that have ended.
    pub failed: u64,
    /// How many began how much later than they were due: class by class, each without those below it.
    pub late: Vec<LateCount>,
    /// The latest one, in microseconds.
    pub latest_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateCount {
    /// Microseconds; none: any more.
    pub up_to_us: Option<u64>,
    pub checks: u64,
}

impl CheckStats {
    /// So late, in microseconds, were at most this share of them (0 to 1), as exactly as the classes say; none: later than
    /// any class's end.
    pub fn late_us(&self, share: f64) -> Option<u64> {
        let wanted = share * self.late.iter().map(|class| class.checks).sum::<u64>() as f64;
        let mut seen = 0;
        let reached = self.late.iter().find(|class| {
            seen += class.checks;
            seen as f64 >= wanted
        });
        reached.and_then(|class| class.up_to_us)
    }
}
