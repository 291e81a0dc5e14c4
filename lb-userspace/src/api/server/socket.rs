//! The control socket: who may reach it, and whether somebody already serves it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};

/// Read and write for root and the group, nothing for others: whoever can write commands the director.
const SOCKET_MODE: u32 = 0o660;
/// A live agent accepts in microseconds (the kernel queues the connection); silence this long means a
/// full queue, which only a live agent has.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "control socket {} is in use by a live agent: {}; stop that agent first, or give this one \
         another `instance:` and, if its file names one, another `control: {{socket: ...}}`", .path.display(),
        .pid.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}"))
    )]
    InUse { path: PathBuf, pid: Option<i32> },
    #[error("{} exists and is not a socket; move it away or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    #[error("there is no group {0:?}; create it (`groupadd --system {0}`) or name another")]
    NoSuchGroup(String),
    #[error("control socket {}: cannot {what}: {error}; run as root or choose another --socket", .path.display())]
    Io { path: PathBuf, what: &'static str, error: io::Error },
}

/// Binds the control socket at `path`: mode 0660, group `group` (name or number) when given, in a
/// directory that is created with mode 0755 if it is missing. A socket that nobody serves is replaced.
///
/// # Errors
/// [`BindError`]; a live agent on the socket is [`BindError::InUse`], and nothing is changed.
pub async fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, BindError> {
    let failed =
        |what: &'static str| move |error: io::Error| BindError::Io { path: path.to_owned(), what, error };
    let gid = group.map(|name| gid(name, path)).transpose()?;
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(failed("create its directory"))?;
    refuse_if_served(path).await?;

    // Bound inside a directory that only we can enter and renamed when its mode and group are right, so
    // that nobody can connect in between; the rename also replaces a stale socket in one step.
    let staging = Staging::new(directory, path).map_err(failed("create a staging directory"))?;
    let staged = staging.0.join("s");
    let listener = UnixListener::bind(&staged).map_err(failed("bind"))?;
    fs::set_permissions(&staged, Permissions::from_mode(SOCKET_MODE)).map_err(failed("set its mode"))?;
    if let Some(gid) = gid {
        std::os::unix::fs::chown(&staged, None, Some(gid)).map_err(failed("set its group"))?;
    }
    fs::rename(&staged, path).map_err(failed("move it into place"))?;
    Ok(listener)
}

fn gid(name: &str, path: &Path) -> Result<u32, BindError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(BindError::NoSuchGroup(name.to_owned())),
        Err(errno) => {
            Err(BindError::Io { path: path.to_owned(), what: "look its group up", error: errno.into() })
        }
    }
}

/// Refuses unless `path` is free or a socket that nobody listens on.
async fn refuse_if_served(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io { path: path.to_owned(), what: "look at it", error }),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match tokio::time::timeout(ANSWERS_WITHIN, UnixStream::connect(path)).await {
        // The credentials of a listening socket's peer are those of the process that listens.
        Ok(Ok(stream)) => {
            let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
            Err(BindError::InUse { path: path.to_owned(), pid })
        }
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            // The queue of connections is full.
            io::ErrorKind::WouldBlock => Err(BindError::InUse { path: path.to_owned(), pid: None }),
            _ => Err(BindError::Io { path: path.to_owned(), what: "ask whether an agent serves it", error }),
        },
        Err(_) => Err(BindError::InUse { path: path.to_owned(), pid: None }),
    }
}

/// A directory of mode 0700 next to the socket, gone when this is dropped.
struct Staging(PathBuf);

impl Staging {
    fn new(directory: &Path, socket: &Path) -> io::Result<Self> {
        let name = socket.file_name().unwrap_or_default().to_string_lossy();
        let staging = directory.join(format!(".{name}.{}", std::process::id()));
        // Left over by an earlier process of the same pid that was killed in between.
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&staging)?;
        Ok(Self(staging))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort: an empty directory left behind harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
