//! Waiting for a condition, with a bound, instead of sleeping for a guessed time.

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use crate::clock::now;

/// How long anything local may take on a busy two-core machine before we call it hung.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What one look at a condition found.
pub enum Seen<T> {
    /// It holds.
    Yes(T),
    /// Not yet; what was seen instead, for the error message.
    NotYet(String),
}

/// Looks again and again until `look` says yes, fails, or `limit` is over.
///
/// The error names what was waited for and the last state seen. An `Err` of `look` ends the wait at once: use it
/// for what waiting cannot heal (the process has died).
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let start = now();
    let mut pause = Duration::from_millis(1);
    loop {
        let last = match look()? {
            Seen::Yes(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}; last seen: {last}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// [`eventually`] for a condition whose every failure may heal with time.
pub fn until_ok<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    eventually(limit, what, || {
        Ok(match attempt() {
            Ok(value) => Seen::Yes(value),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
}
