//! The overlay's state file: IO.
//!
//! `DIR/overlay.json`, written anew and renamed into place for every change, so that after a crash at any
//! moment it is the old one or the new one.

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Overlay;
use crate::durable;

/// Version of the file's format.
pub const SCHEMA: u32 = 1;

const FILE: &str = "overlay.json";
const DAMAGED: &str = "overlay.json.damaged-";

/// Keeps one overlay in one directory. One process at a time: the agent holds the instance's lock.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {what} the state file {}: {source}. Check the directory's owner, its space and the state \
             directory that is configured.", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// The file has been moved to `kept_as`; the next [`Journal::open`] begins with an empty overlay.
    #[error("the state file {} is damaged ({cause}). It was moved to {}. The changes made by the command line \
             (drains, hot-added backends) that it held are not in force any more: without it the configuration \
             file alone holds. Look into the moved file and make the changes again.",
            path.display(), kept_as.display())]
    Damaged { path: PathBuf, kept_as: PathBuf, cause: String },
    #[error("the state file {} has schema {found}, but this lb knows only up to {SCHEMA}: a newer lb wrote it. \
             Run that version, or move the file away to go on with the configuration file alone.", path.display())]
    NewerSchema { path: PathBuf, found: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents<T> {
    schema: u32,
    overlay: T,
}

impl Journal {
    /// Opens the state directory `dir`, which is made (mode 0700) if missing. No state file is an empty
    /// overlay.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] once: the file is then out of the way. [`JournalError::NewerSchema`] until
    /// somebody acts: the file stays.
    pub fn open(dir: &Path) -> Result<(Self, Overlay), JournalError> {
        let journal = Self { dir: dir.to_owned() };
        let path = dir.join(FILE);
        let io = |what| move |source| JournalError::Io { what, path: dir.join(FILE), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make the directory of"))?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((journal, Overlay::default())),
            Err(e) => return Err(io("read")(e)),
        };
        match decode(&bytes) {
            Ok(overlay) => Ok((journal, overlay)),
            Err(Undecodable::Newer(found)) => Err(JournalError::NewerSchema { path, found }),
            Err(Undecodable::Damaged(cause)) => {
                let kept_as = journal.unused_damaged_name();
                fs::rename(&path, &kept_as)
                    .and_then(|()| durable::sync_parent(&kept_as))
                    .map_err(io("move away"))?;
                Err(JournalError::Damaged { path, kept_as, cause })
            }
        }
    }

    /// Writes `overlay` so that it is on the disk when this returns. Call it before a change is made.
    ///
    /// # Errors
    /// [`JournalError::Io`]: then the old overlay is still in the file (or, if only the last fsync failed,
    /// perhaps the new one), and the change must not be made.
    pub fn store(&mut self, overlay: &Overlay) -> Result<(), JournalError> {
        self.write(overlay).map_err(|source| JournalError::Io {
            what: "write",
            path: self.dir.join(FILE),
            source,
        })
    }

    /// Damaged files from before, which are kept until somebody deletes them: material for a warning.
    pub fn damaged(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = names
            .filter(|e| e.file_name().to_string_lossy().starts_with(DAMAGED))
            .map(|e| e.path())
            .collect();
        paths.sort();
        paths
    }

    fn write(&self, overlay: &Overlay) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Contents { schema: SCHEMA, overlay })?;
        text.push(b'\n');
        durable::replace(&self.dir.join(FILE), &text)
    }

    fn unused_damaged_name(&self) -> PathBuf {
        let taken = self.damaged();
        let name = |n: usize| self.dir.join(format!("{DAMAGED}{n}"));
        (1..).map(name).find(|path| !taken.contains(path)).unwrap_or_else(|| name(0))
    }
}

enum Undecodable {
    Newer(u64),
    Damaged(String),
}

fn decode(bytes: &[u8]) -> Result<Overlay, Undecodable> {
    // The schema first: a newer file may hold what this version cannot read.
    let damaged = |e: serde_json::Error| Undecodable::Damaged(e.to_string());
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema > u64::from(SCHEMA) => return Err(Undecodable::Newer(schema)),
        Some(schema) if schema == u64::from(SCHEMA) => {}
        _ => return Err(Undecodable::Damaged("it has no valid schema number".to_owned())),
    }
    let contents: Contents<Overlay> = serde_json::from_slice(bytes).map_err(damaged)?;
    Ok(contents.overlay)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{model::BackendKey, overlay::Change};

    fn drained() -> Overlay {
        let key: BackendKey = "172.18.14.71:3306".parse().expect("valid");
        let service = "mysql-read".parse().expect("valid");
        let mut overlay = Overlay::default();
        overlay.push(&crate::model::Model::default(), Change::Drain { service, key });
        overlay
    }

    #[test]
    fn what_is_stored_is_there_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("lb/default");
        let (mut journal, overlay) = Journal::open(&state).expect("opens");
        assert!(overlay.is_empty());
        journal.store(&drained()).expect("stores");
        assert_eq!(Journal::open(&state).expect("opens").1, drained());
        journal.store(&Overlay::default()).expect("stores");
        assert!(Journal::open(&state).expect("opens").1.is_empty());
        let mode = |p: &Path| fs::metadata(p).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn the_format_is_the_one_of_schema_1() {
        let dir = tempfile::tempdir().expect("a directory");
        Journal::open(dir.path()).expect("opens").0.store(&drained()).expect("stores");
        let text = fs::read_to_string(dir.path().join(FILE)).expect("readable");
        let expected = r#"{
  "schema": 1,
  "overlay": {
    "changes": [
      {
        "change": "drain",
        "service": "mysql-read",
        "key": "172.18.14.71:3306"
      }
    ]
  }
}
"#;
        assert_eq!(text, expected, "a changed format needs a new SCHEMA");
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_state() {
        let dir = tempfile::tempdir().expect("a directory");
        Journal::open(dir.path()).expect("opens").0.store(&drained()).expect("stores");
        fs::write(dir.path().join("overlay.json.new"), "{ torn").expect("writable");
        let (mut journal, overlay) = Journal::open(dir.path()).expect("opens");
        assert_eq!(overlay, drained());
        journal.store(&overlay).expect("the torn file is no obstacle");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        Journal::open(dir.path()).expect("opens").0.store(&drained()).expect("stores");
        let good = fs::read(&path).expect("readable");
        let cut = &good[..good.len() / 2];
        let odd = String::from_utf8_lossy(&good).replace("drain", "explode").into_bytes();
        let no_schema = b"{\"overlay\": {\"changes\": []}}".to_vec();
        for (n, bytes) in [cut.to_vec(), Vec::new(), odd, no_schema].into_iter().enumerate() {
            fs::write(&path, &bytes).expect("writable");
            let error = Journal::open(dir.path()).expect_err("damaged");
            let JournalError::Damaged { kept_as, .. } = &error else { panic!("{error}") };
            assert_eq!(*kept_as, dir.path().join(format!("{DAMAGED}{}", n + 1)));
            assert_eq!(fs::read(kept_as).expect("readable"), bytes);
            assert!(error.to_string().contains("make the changes again"));
            let (journal, overlay) = Journal::open(dir.path()).expect("it is out of the way");
            assert!(overlay.is_empty());
            assert_eq!(journal.damaged().len(), n + 1);
        }
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let newer = "{\"schema\": 2, \"new\": true}";
        fs::write(dir.path().join(FILE), newer).expect("writable");
        let error = Journal::open(dir.path()).expect_err("newer");
        assert!(matches!(error, JournalError::NewerSchema { found: 2, .. }), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).expect("still there"), newer);
    }
}
