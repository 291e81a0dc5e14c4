//! The state file of the backends' health.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    durable,
    health::{Ongoing, Saved, SavedStates},
    model::ServiceName,
};

/// Version of the file's format.
const SCHEMA: u32 = 1;

/// `health.json` in an instance's state directory.
#[derive(Debug)]
pub struct SavedFile {
    path: PathBuf,
    /// What stands in it, so that it is written only when it has to be.
    stored: Option<Saved>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents<T, O> {
    schema: u32,
    health: T,
    /// Not in what an agent left that did not save it yet.
    #[serde(default)]
    ongoing: O,
}

/// What is read is understood on its own: the states are good without what was in progress.
type Read = Contents<SavedStates, serde_json::Value>;

impl SavedFile {
    /// Reads what an earlier agent left. What cannot be read is nothing, with a sentence that says so: the
    /// checks find out anew.
    pub fn open(state: &Path) -> (Self, Saved, Option<String>) {
        let path = state.join("health.json");
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Saved::default()),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => match serde_json::from_slice::<Read>(&bytes) {
                Ok(contents) if contents.schema == SCHEMA => return Self::understand(path, contents),
                Ok(contents) => Err(format!("it has schema {}, not {SCHEMA}", contents.schema)),
                Err(error) => Err(error.to_string()),
            },
        };
        let warning = read.as_ref().err().map(|error| {
            format!(
                "the saved health of the backends in {} cannot be used ({error}): they are checked anew",
                path.display()
            )
        });
        (Self { path, stored: None }, read.unwrap_or_default(), warning)
    }

    fn understand(path: PathBuf, contents: Read) -> (Self, Saved, Option<String>) {
        let ongoing = serde_json::from_value::<Option<BTreeMap<ServiceName, Ongoing>>>(contents.ongoing);
        let warning = ongoing.as_ref().err().map(|error| {
            format!(
                "what was in progress by the saved health of the backends in {} cannot be used ({error}): holds \
                 (flap_hold), suspicions (passive) and slow starts are over, and quorums are found out anew",
                path.display()
            )
        });
        let ongoing = ongoing.ok().flatten().unwrap_or_default();
        (Self { path, stored: None }, Saved { states: contents.health, ongoing, ..Saved::default() }, warning)
    }

    /// Writes `saved` if the file does not say so yet.
    ///
    /// # Errors
    /// The system's; the next call tries again.
    pub fn store(&mut self, saved: Saved) -> io::Result<()> {
        if self.stored.as_ref() == Some(&saved) {
            return Ok(());
        }
        let contents = Contents { schema: SCHEMA, health: &saved.states, ongoing: &saved.ongoing };
        let mut text = serde_json::to_vec_pretty(&contents)?;
        text.push(b'\n');
        durable::replace(&self.path, &text)?;
        self.stored = Some(saved);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::{Machine, Outcome, SavedCheck, State, Weight},
        model::check::Timing,
    };

    #[test]
    fn what_is_stored_is_there_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, saved, warning) = SavedFile::open(dir.path());
        assert_eq!((saved, warning), (Saved::default(), None));
        let refused = Outcome::failed(std::time::Duration::from_micros(300), "connection refused");
        let machine = Machine::new(std::time::Duration::ZERO, Timing::default(), 0.5);
        let machine = machine.resume(State::Down, Some(refused), Weight::Exactly(7));
        let mut saved = Saved::default();
        let (service, key) = ("web".parse().expect("a name"), "10.0.0.1:80".parse().expect("a key"));
        saved.insert(service, key, vec![SavedCheck::new("tcp", &machine)]);
        file.store(saved.clone()).expect("stores");
        let (_, again, warning) = SavedFile::open(dir.path());
        assert_eq!((again, warning), (saved, None));
    }

    #[test]
    fn states_are_good_without_what_was_in_progress() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |ongoing: &str| {
            let states = r#"{"web": {"10.0.0.1:80": [{"check": "tcp", "up": false}]}}"#;
            let text = format!(r#"{{"schema": 1, "health": {states}{ongoing}}}"#);
            fs::write(dir.path().join("health.json"), text).expect("writable");
            let (_, saved, warning) = SavedFile::open(dir.path());
            assert_eq!(saved.states.len(), 1, "{ongoing}");
            (saved.ongoing.len(), warning)
        };
        assert_eq!(open(""), (0, None), "an older agent's");
        assert_eq!(open(r#", "ongoing": {}"#), (0, None));
        assert_eq!(open(r#", "ongoing": {"web": {"without_quorum": true}}"#), (1, None));
        for bad in [
            "7",
            r#"{"web": {"backends": {"nobody": {}}}}"#,
            r#"{"web": {"backends": {"10.0.0.1:80": {"start": {"step": 1000, "next": "2026-11-28T00:00:00Z"}}}}}"#,
            r#"{"web": {"backends": {"10.0.0.1:80": {"start": {"step": 1, "next": "soon"}}}}}"#,
            r#"{"web": {"later": 1}}"#,
        ] {
            let (read, warning) = open(&format!(r#", "ongoing": {bad}"#));
            assert_eq!(read, 0, "{bad}");
            assert!(warning.expect("a warning").contains("what was in progress"), "{bad}");
        }
    }

    #[test]
    fn a_damaged_file_is_nothing_and_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["", "{", "{\"schema\": 2, \"health\": {}}", "{\"schema\": 1}"] {
            fs::write(dir.path().join("health.json"), bad).expect("writable");
            let (mut file, saved, warning) = SavedFile::open(dir.path());
            assert_eq!(saved, Saved::default());
            assert!(warning.expect("a warning").contains("checked anew"), "{bad}");
            file.store(saved).expect("it is written over");
            assert_eq!(SavedFile::open(dir.path()).2, None);
        }
    }
}
