//! What has been made of checks, and how late they began: for operators, and for who wonders whether this director can
//! make as many.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::health::Probe;

/// Upper ends of the classes that lateness is counted in, in microseconds; what is later has one more.
pub const LATE_UP_TO: [u64; 15] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000,
];

/// Which checks: their kind by its word, and whether they go through the VIP.
pub type Sort = (&'static str, bool);

/// Attempts since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub begun: u64,
    pub ended: u64,
    /// Of those that have ended.
    pub failed: u64,
    /// How many began how much later than they were due, by the classes of [`LATE_UP_TO`].
    pub late: [u64; LATE_UP_TO.len() + 1],
    /// The latest one.
    pub latest: Duration,
}

/// Shared by the threads that make them.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<Sort, Counts>>>);

impl Tally {
    pub fn begun(&self, probe: &Probe, late: Duration) {
        self.count(probe, |counts| {
            counts.begun += 1;
            counts.late[LATE_UP_TO.partition_point(|up_to| u128::from(*up_to) < late.as_micros())] += 1;
            counts.latest = counts.latest.max(late);
        });
    }

    pub fn ended(&self, probe: &Probe, failed: bool) {
        self.count(probe, |counts| {
            counts.ended += 1;
            counts.failed += u64::from(failed);
        });
    }

    pub fn read(&self) -> BTreeMap<Sort, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, probe: &Probe, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(counts.entry((probe.kind.name(), probe.via_vip)).or_default());
    }
}
