//! A program whose end tells.

use std::os::unix::process::ExitStatusExt;

use super::failure;
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::ExecCheck,
    program::{NotStarted, Running, Starts},
};

pub async fn check(probe: &Probe, exec: &ExecCheck, starts: &Starts) -> Result<Pass, Failure> {
    let mut running = start(probe, exec, starts).await?;
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

/// As its user, with what it should know in its environment.
async fn start(probe: &Probe, exec: &ExecCheck, starts: &Starts) -> Result<Running, Failure> {
    let environment = [
        ("LB_SERVICE", probe.service.to_string()),
        ("LB_BACKEND", probe.backend.to_string()),
        ("LB_ADDRESS", probe.target.ip().to_string()),
        ("LB_PORT", probe.target.port().to_string()),
        ("LB_TIMEOUT_MS", probe.timeout.as_millis().to_string()),
    ];
    starts.start(&exec.command, &exec.user, environment).await.map_err(|error| match error {
        NotStarted::Refused { program, error } => {
            let Failure { why } = failure(&error);
            Failure { why: format!("{program} cannot be run: {why}") }
        }
        other => Failure { why: other.to_string() },
    })
}
