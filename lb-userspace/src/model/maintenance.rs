//! Why a backend is in maintenance, and until when.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::timeouts::MAX_TIMEOUT;

/// Characters of a comment.
const MAX_COMMENT: usize = 200;
/// As `useradd` allows (`MAX_LOGIN_NAME`).
const MAX_NAME: usize = 32;

/// Somebody works on a backend: it takes no new connections, until its time is over or he says so.
///
/// It is of the running state alone: a file has none, and a reload keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// What is done to it, in a line of text.
    pub comment: String,
    /// Who asked for it, as his client says.
    pub by: String,
    pub since: Timestamp,
    /// None: until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Maintenance {
    /// `seconds`: how long.
    ///
    /// # Errors
    /// What is wrong with a comment, a name or a time that cannot be.
    pub fn begin(comment: &str, by: &str, since: Timestamp, seconds: Option<u32>) -> Result<Self, String> {
        let is_line = |text: &str, max| {
            !text.trim().is_empty() && text.chars().count() <= max && !text.chars().any(char::is_control)
        };
        if !is_line(comment, MAX_COMMENT) {
            return Err(format!("a comment is a line of 1 to {MAX_COMMENT} characters"));
        }
        if !is_line(by, MAX_NAME) {
            return Err(format!("a name is a line of 1 to {MAX_NAME} characters"));
        }
        if seconds.is_some_and(|seconds| !(1..=MAX_TIMEOUT).contains(&seconds)) {
            return Err(format!("a maintenance takes 1 to {MAX_TIMEOUT} s (31 days)"));
        }
        let end = |seconds: u32| {
            let span = jiff::SignedDuration::from_secs(seconds.into());
            since.checked_add(span).map_err(|error| format!("the clock is wrong: {error}"))
        };
        let until = seconds.map(end).transpose()?;
        Ok(Self { comment: comment.trim().to_owned(), by: by.trim().to_owned(), since, until })
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// `maintenance by root until 2026-11-28T18:00:00Z: new memory`
impl fmt::Display for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { comment, by, since: _, until } = self;
        match until {
            Some(until) => write!(f, "maintenance by {by} until {until:.0}: {comment}"),
            None => write!(f, "maintenance by {by} until it is ended: {comment}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_its_time_is_over() {
        let now = Timestamp::UNIX_EPOCH;
        let later = |seconds| now + jiff::SignedDuration::from_secs(seconds);
        let begin = |seconds| Maintenance::begin(" new memory", "root", now, seconds);
        let it = begin(Some(60)).expect("begins");
        assert_eq!(it.to_string(), "maintenance by root until 1970-01-01T00:01:00Z: new memory");
        assert!(!it.is_over(now) && !it.is_over(later(59)) && it.is_over(later(60)));
        let endless = begin(None).expect("begins");
        assert_eq!(endless.to_string(), "maintenance by root until it is ended: new memory");
        assert!(!endless.is_over(later(1 << 30)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let begin = |comment: &str, by: &str, seconds| {
            Maintenance::begin(comment, by, Timestamp::UNIX_EPOCH, seconds).unwrap_err()
        };
        assert!(begin(" ", "root", None).contains("comment"));
        assert!(begin("two\nlines", "root", None).contains("comment"));
        assert!(begin(&"x".repeat(201), "root", None).contains("comment"));
        assert!(begin("x", "", None).contains("name"));
        assert!(begin("x", "root", Some(0)).contains("31 days"));
        let late = Maintenance::begin("x", "root", Timestamp::MAX, Some(1)).unwrap_err();
        assert!(late.contains("clock"), "{late}");
    }
}
