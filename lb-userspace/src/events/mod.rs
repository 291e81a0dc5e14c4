//! What happens, as typed events: the log of `lb events`, and what people are told. PURE, but for `file`.
//!
//! A [`Draft`] says what happened; the agent alone gives it its number and time, and it is an [`Event`]. What can be
//! seen in the state is found by comparing two [`Picture`]s of it, so that nobody can change the state silently.

mod batch;
mod file;
mod kind;
mod lanes;
mod picture;
mod ring;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use batch::{Batch, Batcher};
pub use file::EventFile;
pub use kind::{Kind, Level};
pub use lanes::Lanes;
pub use picture::{Around, BackendPicture, Picture, ServicePicture};
pub use ring::{Filter, Listed, Ring};

use crate::{
    health::{State, Transition},
    model::{BackendKey, ServiceName},
};

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// One more than the event's before it, also from one agent to the next.
    pub seq: u64,
    /// UTC, to the microsecond, RFC 3339.
    pub time: Timestamp,
    #[serde(flatten)]
    pub what: Draft,
}

/// What has happened, without when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKey>,
    /// Why, or what exactly, for people; one line, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Microseconds that the attempt took which made a check decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// The weight that the scheduler sees, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<(u16, u16)>,
}

/// Bytes that a reason has at most: servers and file names are in it.
const LONGEST_REASON: usize = 1000;

impl Draft {
    pub fn new(kind: Kind) -> Self {
        Self { kind, service: None, backend: None, reason: String::new(), took_us: None, weight: None }
    }

    pub fn of(self, service: &ServiceName) -> Self {
        Self { service: Some(service.clone()), ..self }
    }

    pub fn at(self, backend: BackendKey) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// `reason` as one line: nothing that a server says can make a second one, of a log or a mail's head.
    pub fn because(self, reason: impl AsRef<str>) -> Self {
        let mut line: String =
            reason.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.len() > LONGEST_REASON {
            line.truncate(line.floor_char_boundary(LONGEST_REASON));
            line.push('…');
        }
        Self { reason: line, ..self }
    }

    /// A check's state has changed.
    pub fn transition(transition: &Transition) -> Self {
        let Transition { service, backend, check, state, why, took, healthy } = transition;
        let kind = match (healthy, state) {
            (Some(true), _) => Kind::BackendUp,
            (Some(false), _) => Kind::BackendDown,
            (None, State::Up) => Kind::CheckPasses,
            (None, _) => Kind::CheckFails,
        };
        let took_us = took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let draft = Self::new(kind).of(service).at(*backend).because(format!("{check}: {why}"));
        Self { took_us, ..draft }
    }
}

/// A sentence without time and names: `backend is down: tcp: connection refused after 0.3 ms`.
impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words())?;
        if let Some((before, after)) = self.weight {
            write!(f, ", {after} instead of {before}")?;
        }
        match self.reason.as_str() {
            "" => Ok(()),
            reason => write!(f, ": {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind), "two kinds have this name");
            assert!(kind.name().chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        }
        assert!("backend-sideways".parse::<Kind>().is_err());
    }

    #[test]
    fn an_event_is_one_json_object_and_reads_back() {
        let key: BackendKey = "10.0.0.1:80".parse().expect("a key");
        let service = "web".parse().expect("a name");
        let what =
            Draft::new(Kind::Weight).of(&service).at(key).because("12 s behind\r\nBcc: all@example.net");
        let event = Event {
            seq: 7,
            time: Timestamp::from_microsecond(1_795_000_000_123_456).expect("a time"),
            what: Draft { weight: Some((10, 5)), ..what },
        };
        let text = serde_json::to_string(&event).expect("serializes");
        assert_eq!(
            text,
            "{\"seq\":7,\"time\":\"2026-11-18T11:06:40.123456Z\",\"kind\":\"weight\",\"service\":\"web\",\
             \"backend\":\"10.0.0.1:80\",\"reason\":\"12 s behind  Bcc: all@example.net\",\"weight\":[10,5]}"
        );
        assert_eq!(serde_json::from_str::<Event>(&text).expect("reads"), event);
        assert_eq!(
            event.what.to_string(),
            "backend has another weight, 5 instead of 10: 12 s behind  Bcc: all@example.net"
        );
    }

    #[test]
    fn a_reason_is_bounded() {
        let draft = Draft::new(Kind::Problem).because("ü".repeat(3000));
        assert!(draft.reason.len() < 1010 && draft.reason.ends_with('…'));
    }
}
