//! The only reading of the clock in this crate.

use std::time::Instant;

/// CLOCK_MONOTONIC, for deadlines and for telling how long a step took.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub fn now() -> Instant {
    Instant::now()
}
