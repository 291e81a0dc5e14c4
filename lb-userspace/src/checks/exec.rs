//! A program whose end tells.

use std::{os::unix::process::ExitStatusExt, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, geteuid},
};
use tokio::process::{Child, Command};

use super::failure;
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::ExecCheck,
};

pub async fn check(probe: &Probe, exec: &ExecCheck) -> Result<Pass, Failure> {
    let mut running = Group(start(probe, exec)?);
    let status = running.0.wait().await.map_err(|error| failure(&error))?;
    match (status.code(), exec.dynamic) {
        (Some(0), _) => Ok(Pass::new("exit code 0")),
        (Some(code @ 2..=255), true) => {
            let weight = code as u16 - 2;
            Ok(Pass { found: format!("exit code {code}"), weight: Weight::Exactly(weight) })
        }
        (Some(code), _) => Err(Failure { why: format!("exit code {code}") }),
        (None, _) => Err(Failure { why: format!("ended by signal {}", status.signal().unwrap_or(0)) }),
    }
}

/// In a process group of its own, as its user, with what it should know in its environment.
fn start(probe: &Probe, exec: &ExecCheck) -> Result<Child, Failure> {
    let [program, arguments @ ..] = exec.command.as_slice() else {
        return Err(Failure { why: "there is no command".to_owned() });
    };
    let user = match User::from_name(&exec.user) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(Failure { why: format!("there is no user {}", exec.user) }),
        Err(error) => return Err(failure(&error.into())),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LB_SERVICE", probe.service.as_str())
        .env("LB_BACKEND", probe.backend.to_string())
        .env("LB_ADDRESS", probe.target.ip().to_string())
        .env("LB_PORT", probe.target.port().to_string())
        .env("LB_TIMEOUT_MS", probe.timeout.as_millis().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if user.uid != geteuid() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.spawn().map_err(|error| {
        let Failure { why } = failure(&error);
        Failure { why: format!("{program} cannot be run: {why}") }
    })
}

/// Ends with all that it has started: when an attempt is over time, nobody waits for it any more.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended in this moment.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
