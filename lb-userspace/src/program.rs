//! Programs that are run for checks and for events: as a user of their own, with an environment that we made, and
//! ended with all that they have started. IO.

use std::{
    collections::BTreeMap,
    io,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, geteuid},
};
use tokio::{
    process::{Child, Command},
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
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
    #[error("{0} does not begin since it was started last")]
    Hangs(String),
    #[error("nobody is left to start it")]
    Ended,
}

/// Starts programs, each on a thread that may wait for it: the kernel keeps who executes a program until it has read
/// it, for ever if its file system does not answer. It is the only one that waits for this program: else there would be
/// one more with each start, until there is none for anybody.
#[derive(Debug, Default)]
pub struct Starts(Mutex<BTreeMap<Vec<String>, JoinHandle<()>>>);

/// A program that runs. Dropped, it is killed with its process group: nobody waits for it any more.
#[derive(Debug)]
pub struct Running(pub Child);

impl Starts {
    /// Starts `command`, a path and arguments, without a shell, in a process group of its own. Nothing but `environment`
    /// and PATH is in its environment; it reads and writes nothing of ours. If nobody waits for it any more when it
    /// begins, it is killed.
    ///
    /// # Errors
    /// No such user or program, or no right to become that user; or it was started before and still does not begin.
    pub async fn start(
        &self,
        command: &[String],
        user: &str,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Running, NotStarted> {
        let program = command.first().ok_or(NotStarted::NoCommand)?;
        if self.hangs(command) {
            return Err(NotStarted::Hangs(program.clone()));
        }
        let environment: Vec<_> = environment.into_iter().collect();
        let (user, to_run) = (user.to_owned(), command.to_vec());
        let (teller, told) = oneshot::channel();
        let starting = spawn_blocking(move || {
            // Whom nobody waits for is killed by being dropped.
            let _ = teller.send(begin(&to_run, &user, environment));
        });
        let mut waiting = Waiting { starts: self, of: Some((command, starting)) };
        let started = told.await;
        waiting.of = None;
        started.unwrap_or(Err(NotStarted::Ended))
    }

    fn hangs(&self, command: &[String]) -> bool {
        let hanging = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.get(command).is_some_and(|it| !it.is_finished())
    }
}

/// Who waits for a start. If it goes before the program begins, the start is on its own.
struct Waiting<'a> {
    starts: &'a Starts,
    of: Option<(&'a [String], JoinHandle<()>)>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((command, starting)) = self.of.take() {
            let mut hanging = self.starts.0.lock().unwrap_or_else(PoisonError::into_inner);
            hanging.retain(|_, it| !it.is_finished());
            hanging.insert(command.to_vec(), starting);
        }
    }
}

/// Returns when the program has begun, or cannot.
fn begin(
    command: &[String],
    user: &str,
    environment: Vec<(&'static str, String)>,
) -> Result<Running, NotStarted> {
    let [program, arguments @ ..] = command else { return Err(NotStarted::NoCommand) };
    // nsswitch.conf(5) may have it asked of a server.
    let found = User::from_name(user).map_err(|error| NotStarted::User(error.into()))?;
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
