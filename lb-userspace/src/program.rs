//! Programs that are run for checks and for events: as a user of their own, with an environment that we made, and
//! ended with all that they have started. IO.

use std::{io, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, geteuid},
};
use tokio::{
    process::{Child, Command},
    task::spawn_blocking,
};

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    #[error("there is no command")]
    NoCommand,
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("looking for its user failed: {0}")]
    User(io::Error),
    #[error("{program} cannot be run: {error}")]
    Refused { program: String, error: io::Error },
}

/// A program that runs. Dropped, it is killed with its process group: nobody waits for it any more.
#[derive(Debug)]
pub struct Running(pub Child);

/// Starts `command`, a path and arguments, without a shell, in a process group of its own. Nothing but `environment`
/// and PATH is in its environment; it reads and writes nothing of ours.
///
/// # Errors
/// No such user or program, or no right to become that user.
pub async fn start(
    command: &[String],
    user: &str,
    environment: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<Running, NotStarted> {
    let [program, arguments @ ..] = command else { return Err(NotStarted::NoCommand) };
    let name = user.to_owned();
    // nsswitch.conf(5) may have it asked of a server.
    let found = spawn_blocking(move || User::from_name(&name).map_err(io::Error::from)).await;
    let found = found.map_err(io::Error::from).flatten().map_err(NotStarted::User)?;
    let user = found.ok_or_else(|| NotStarted::NoUser(user.to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if user.uid != geteuid() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let refused = |error| NotStarted::Refused { program: program.clone(), error };
    command.spawn().map(Running).map_err(refused)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended in this moment.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
