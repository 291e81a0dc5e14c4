//! What `start` changed, so that `stop` can undo it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::net::sysctl::Sysctl;

/// Holding the lock takes milliseconds; boot scripts may start several VIPs at once.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The memory between `start` and `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// `/proc/sys/kernel/random/boot_id`: after a reboot nothing of this is true any more.
    boot: String,
    /// The network namespace, as `/proc/thread-self/ns/net` names it.
    namespace: String,
    /// The VIPs that are started.
    pub vips: BTreeMap<IpAddr, Started>,
    /// The sysctls that we set.
    pub sysctls: BTreeMap<Sysctl, Saved>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    /// We put it on the loopback; else it was there already.
    pub added: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The value before the first `start`.
    pub before: i64,
    /// What we set.
    pub set: i64,
}

impl State {
    /// The state of a file, or an empty one if there is no file or it is from before the last boot.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let boot = first_line(Path::new("/proc/sys/kernel/random/boot_id"))?;
        let link = Path::new("/proc/thread-self/ns/net");
        let namespace =
            fs::read_link(link).map_err(|e| failed("read", link, e))?.to_string_lossy().into_owned();
        let fresh = Self { boot, namespace, ..Self::default() };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => return Err(failed("read", path, error)),
        };
        let state: Self = serde_json::from_str(&text)
            .map_err(|source| Error::BadState { path: path.to_owned(), source })?;
        if state.boot != fresh.boot {
            return Ok(fresh);
        }
        if state.namespace != fresh.namespace {
            let (theirs, ours) = (state.namespace, fresh.namespace);
            return Err(Error::OtherNamespace { path: path.to_owned(), theirs, ours });
        }
        Ok(state)
    }

    fn is_empty(&self) -> bool {
        let Self { boot: _, namespace: _, vips, sysctls } = self;
        vips.is_empty() && sysctls.is_empty()
    }
}

/// The state file, locked against another `lb realserver` until this is dropped.
pub(super) struct StateFile {
    path: PathBuf,
    _lock: fs::File,
}

impl StateFile {
    /// Makes the directory if it is missing, and waits up to five seconds for the lock.
    pub async fn lock(path: &Path) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|e| failed("make", directory, e))?;
        }
        let lock_path = beside(path, "lock");
        let lock = fs::File::create(&lock_path).map_err(|e| failed("open", &lock_path, e))?;
        for _ in 0..LOCK_TRIES {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(fs::TryLockError::Error(error)) => return Err(failed("lock", &lock_path, error)),
            }
        }
        Err(Error::Busy { path: lock_path })
    }

    pub fn load(&self) -> Result<State, Error> {
        State::read(&self.path)
    }

    /// Replaces the file in one step; removes it when there is nothing to remember.
    pub fn save(&self, state: &State) -> Result<(), Error> {
        if state.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("remove", &self.path, error))
                }
                _ => Ok(()),
            };
        }
        let mut text = serde_json::to_string_pretty(state)
            .map_err(|source| Error::BadState { path: self.path.clone(), source })?;
        text.push('\n');
        let new = beside(&self.path, "new");
        fs::write(&new, text).map_err(|e| failed("write", &new, e))?;
        fs::rename(&new, &self.path).map_err(|e| failed("replace", &self.path, e))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn first_line(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|e| failed("read", path, e))?;
    Ok(text.trim_end().to_owned())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::State { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_state(path: &Path) -> State {
        let mut state = State::read(path).expect("no file yet");
        state.vips.insert("10.0.0.1".parse().expect("an address"), Started { added: true });
        let key = Sysctl::ipv4_conf("eth0.100", "arp_ignore").expect("a name");
        state.sysctls.insert(key, Saved { before: 0, set: 1 });
        state
    }

    #[tokio::test]
    async fn survives_and_goes_when_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/realserver.json");
        let file = StateFile::lock(&path).await.expect("locks");
        let state = some_state(&path);
        file.save(&state).expect("saves");
        assert_eq!(file.load().expect("loads"), state);
        file.save(&State { vips: BTreeMap::new(), sysctls: BTreeMap::new(), ..state }).expect("saves");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_boot_is_forgotten_and_another_namespace_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("realserver.json");
        let file = StateFile::lock(&path).await.expect("locks");
        let state = some_state(&path);
        file.save(&State { boot: "earlier".into(), ..state.clone() }).expect("saves");
        assert!(file.load().expect("loads").is_empty());
        file.save(&State { namespace: "net:[1]".into(), ..state }).expect("saves");
        assert!(matches!(file.load(), Err(Error::OtherNamespace { .. })));
        fs::write(&path, "{").expect("writes");
        assert!(matches!(file.load(), Err(Error::BadState { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("realserver.json");
        let held = StateFile::lock(&path).await.expect("locks");
        assert!(matches!(StateFile::lock(&path).await, Err(Error::Busy { .. })));
        drop(held);
        StateFile::lock(&path).await.expect("locks again");
    }
}
