//! Attempts, as they are asked for.

use std::{sync::Arc, time::Duration};

use super::{Probe, ProbeId};

/// An attempt, and when it is due (CLOCK_MONOTONIC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub due: Duration,
    pub id: ProbeId,
    pub probe: Arc<Probe>,
}
