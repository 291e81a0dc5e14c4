//! How a command ends: its exit code and the paragraph on stderr.

use std::{io, process::ExitCode};

use crate::api::client::ClientError;

/// Exit codes, as documented in `lb --help` and docs/cli.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success = 0,
    Failure = 1,
    Usage = 2,
    NotRunning = 3,
    NoPermission = 4,
    NotFound = 5,
    Refused = 6,
    Deadline = 7,
    /// `lb doctor`
    Warnings = 8,
    /// `lb doctor`
    Unhealthy = 9,
    /// As a shell reports a process that SIGINT ended.
    Interrupted = 130,
}

/// For `lb --help`, the manual page and docs/cli.md.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the kernel refused, a file is wrong, the agent did not answer in time, ...
  2  usage: the command line is wrong, nothing was asked of the agent
  3  the agent is not running
  4  no permission
  5  no such service or backend
  6  refused: it exists already, something is in the way, or the value cannot be
  7  the deadline of a wait has passed; what was begun stays
  8  `lb doctor`: works, with warnings
  9  `lb doctor`: something is broken
  130  interrupted while waiting; what was begun stays";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{}", in_one_paragraph(.0))]
    Client(#[from] ClientError),
    /// Found out on this side, before or after asking the agent.
    #[error("{message}")]
    Local { exit: Exit, message: String },
    #[error("{}", with_causes(.0))]
    Failed(#[from] anyhow::Error),
    #[error("cannot write to stdout: {0}")]
    Stdout(#[from] io::Error),
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::NotRunning { .. }) => Exit::NotRunning,
            Self::Client(ClientError::NoPermission { .. }) => Exit::NoPermission,
            Self::Client(ClientError::Refused { status, .. }) => match status {
                404 => Exit::NotFound,
                400..=499 => Exit::Refused,
                _ => Exit::Failure,
            },
            Self::Client(ClientError::Timeout { .. } | ClientError::Broken { .. }) => Exit::Failure,
            Self::Local { exit, .. } => *exit,
            Self::Failed(error) if is_permission(error) => Exit::NoPermission,
            Self::Failed(_) | Self::Stdout(_) => Exit::Failure,
        }
    }

    /// Whether whoever reads our stdout has had enough (`lb conn list | head`): not worth a word.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn is_permission(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| matches!(io.kind(), io::ErrorKind::PermissionDenied))
}

/// The error and its causes, but for those that it has quoted itself.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The agent's message, then its hint as a sentence of its own.
fn in_one_paragraph(error: &ClientError) -> String {
    match error {
        ClientError::Refused { error, .. } => match &error.hint {
            // A sentence, or the rest of one.
            Some(hint) => {
                let joint = if hint.starts_with(char::is_uppercase) { "." } else { ";" };
                format!("{}{joint} {hint}", error.message.trim_end_matches('.'))
            }
            None => error.message.clone(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ApiError;

    fn refused(status: u16, hint: Option<&str>) -> CliError {
        let error = ApiError { message: "no service msql".to_owned(), hint: hint.map(str::to_owned) };
        ClientError::Refused { status, error }.into()
    }

    #[test]
    fn each_failure_has_its_code() {
        let socket = "/run/lb/x.sock".into();
        assert_eq!(CliError::from(ClientError::NoPermission { socket }).exit(), Exit::NoPermission);
        assert_eq!(refused(404, None).exit(), Exit::NotFound);
        assert_eq!(refused(400, None).exit(), Exit::Refused);
        assert_eq!(refused(409, None).exit(), Exit::Refused);
        assert_eq!(refused(500, None).exit(), Exit::Failure);
        let denied = anyhow::Error::from(io::Error::from(io::ErrorKind::PermissionDenied)).context("bpf(2)");
        assert_eq!(CliError::from(denied).exit(), Exit::NoPermission);
        assert_eq!(CliError::from(anyhow::anyhow!("no")).exit(), Exit::Failure);
    }

    #[test]
    fn a_cause_is_said_once() {
        let denied = io::Error::from_raw_os_error(13);
        let text = CliError::from(anyhow::Error::from(denied).context("reading x")).to_string();
        assert_eq!(text, "reading x: Permission denied (os error 13)");
        let source = io::Error::from_raw_os_error(16);
        let quoted = crate::net::Error::Refused { action: "set eth0 up".to_owned(), source };
        let text = CliError::from(anyhow::Error::from(quoted).context("starting")).to_string();
        assert_eq!(text, "starting: cannot set eth0 up: Device or resource busy (os error 16)");
    }

    #[test]
    fn message_and_hint_are_one_paragraph() {
        let text = refused(404, Some("the nearest name is mysql")).to_string();
        assert_eq!(text, "no service msql; the nearest name is mysql");
        assert_eq!(
            refused(404, Some("Did you mean mysql?")).to_string(),
            "no service msql. Did you mean mysql?"
        );
    }
}
