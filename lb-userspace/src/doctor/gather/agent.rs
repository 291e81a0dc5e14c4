//! The agent's answers, its lock, and its pins.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::SCHEMA_VERSION;

use crate::{
    api::{
        client::{Client, ClientError},
        types::{ServiceView, Stats, Status},
    },
    config::{self, Config},
    dataplane::{Layout, Maps, PinError},
    doctor::{
        Place,
        judge::agent::{Answer, Facts, Pins},
    },
};

/// How long the agent may take for an answer: it does one thing after another, and none of them takes seconds
/// but the reload of thousands of services. A machine that is short of CPU time is not to be told of a silent agent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What the agent says of itself; nothing if it is not there.
#[derive(Default)]
pub struct Told {
    pub status: Option<Status>,
    pub services: Vec<ServiceView>,
    pub stats: Option<Stats>,
    /// None too where another version's is not understood.
    pub config: Option<Config>,
}

/// Asks it, looks for its lock, and opens what it pinned.
pub async fn gather(place: &Place) -> (Facts, Told, Option<Maps>) {
    let client = Client::new(&place.socket).with_timeout(ANSWERS_WITHIN);
    let mut told = Told::default();
    let answer = match ask(&client, &mut told).await {
        Ok(()) => {
            Answer::Instance(told.status.as_ref().map(|status| status.instance.clone()).unwrap_or_default())
        }
        Err(ClientError::NotRunning { .. }) => Answer::Nobody,
        Err(ClientError::NoPermission { .. }) => Answer::Denied,
        Err(ClientError::Timeout { within }) => Answer::Silent(within),
        Err(error @ (ClientError::Refused { .. } | ClientError::Broken { .. })) => {
            Answer::Broken(error.to_string())
        }
    };
    let layout = Layout::new(bpffs(place, &told), &place.instance);
    let (pins, maps) = pins(&layout);
    let facts = Facts {
        instance: place.instance.clone(),
        socket: place.socket.clone(),
        answer,
        lock: holder(&place.state_dir.join(&place.instance).join("lock")),
        pin_dir: layout.dir(),
        pins,
        warnings: told.status.as_ref().map(|status| status.warnings.clone()).unwrap_or_default(),
    };
    (facts, told, maps)
}

async fn ask(client: &Client, told: &mut Told) -> Result<(), ClientError> {
    told.status = Some(client.status().await?);
    told.services = client.services().await?;
    told.stats = Some(client.stats().await?);
    told.config = config::parse("the agent's state", &client.config().await?).ok();
    Ok(())
}

/// The mount point that the agent uses, if it answers.
pub fn bpffs(place: &Place, told: &Told) -> PathBuf {
    let of_agent = told.status.as_ref().filter(|status| status.instance == place.instance);
    let mount =
        of_agent.and_then(|status| Some(Path::new(&status.bpf_pin_dir).parent()?.parent()?.to_owned()));
    mount.unwrap_or_else(|| place.bpffs.clone())
}

fn pins(layout: &Layout) -> (Pins, Option<Maps>) {
    match fs::metadata(layout.dir()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return (Pins::Denied, None),
        Err(_) => return (Pins::Absent, None),
        Ok(_) => {}
    }
    match Maps::pinned(layout) {
        Ok(maps) => (Pins::Usable, Some(maps)),
        Err(error) => {
            let denied = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
            if denied.into_iter().any(|cause| cause.kind() == io::ErrorKind::PermissionDenied) {
                return (Pins::Denied, None);
            }
            match error.downcast_ref() {
                Some(PinError::OtherSchema { found, .. }) => {
                    (Pins::Other { found: *found, ours: SCHEMA_VERSION }, None)
                }
                _ => (Pins::Unusable(format!("{error:#}")), None),
            }
        }
    }
}

/// The process that holds a flock(2) on a file, by `/proc/locks` (proc_locks(5)): taking it, even for a moment, could
/// make an agent fail that is just starting.
fn holder(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    holder_in(&fs::read_to_string("/proc/locks").ok()?, major, minor, file.ino())
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:4711 0 EOF`, device numbers in hexadecimal.
fn holder_in(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words.as_slice() else { return None };
        (*at == file).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1a:9 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 00:1a:9 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 00:1a:9 0 EOF\n3: FLOCK  ADVISORY  WRITE 13 fd:01:9 0 EOF\n";
        assert_eq!(holder_in(locks, 0, 0x1a, 9), Some(4711));
        assert_eq!(holder_in(locks, 0xfd, 1, 9), Some(13));
        assert_eq!(holder_in(locks, 0, 0x1a, 8), None);
    }
}
