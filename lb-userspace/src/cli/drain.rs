//! `lb backend drain --wait`: shows how a drained backend's connections end, and ends with them.

use std::{fmt, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::{CliError, Exit, Output, backend::Which, number, parse};
use crate::{
    api::{
        client::ClientError,
        types::{BackendState, ServiceView},
    },
    model::{BackendKey, ServiceName},
};

/// Between two looks. The agent's sweeper ends connections once a second.
const LOOK: Duration = Duration::from_millis(500);
/// ECMA-48: to the line's beginning, and erase it.
const ERASE_LINE: &str = "\r\x1b[K";

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Then wait until its connections are gone, and show how many are left
    ///
    /// Inactive ones count too: closed connections that are remembered until their timeout, and all
    /// of UDP. Ends with exit code 0 when none is left, 7 at the deadline, 130 on Ctrl-C; in each case the
    /// backend stays drained.
    #[arg(long)]
    pub(super) wait: bool,
    /// With --wait: for at most this long; the default is as long as an idle TCP connection is remembered
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse::deadline)]
    #[arg(default_value = "15m")]
    pub(super) deadline: Duration,
}

/// Whose connections are waited for, and how long.
pub(super) struct Wait<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) key: BackendKey,
    pub(super) deadline: Duration,
}

/// Connections that a backend still has; with `--output json` one such object for each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Left {
    active: u64,
    inactive: u64,
}

impl Wait<'_> {
    /// Asks again and again until no connection is left, the deadline has come, or `interrupted` completes.
    pub(super) async fn run(
        &self,
        ask: impl AsyncFn() -> Result<ServiceView, ClientError>,
        interrupted: impl Future<Output = ()>,
        output: &mut Output<'_>,
    ) -> Result<(), CliError> {
        let end = Instant::now() + self.deadline;
        let mut shown = None;
        let ended = tokio::select! {
            ended = timeout_at(end, self.watch(ask, end, &mut shown, output)) => ended.ok(),
            () = interrupted => Some(Err(self.interrupted(shown))),
        };
        if shown.is_some() && redraws(output) {
            output.line("")?;
        }
        ended.unwrap_or_else(|| Err(self.too_late(shown)))?;
        if !output.is_json() {
            output.line(format!("{self} has no connections left"))?;
        }
        Ok(())
    }

    async fn watch(
        &self,
        ask: impl AsyncFn() -> Result<ServiceView, ClientError>,
        end: Instant,
        shown: &mut Option<Left>,
        output: &mut Output<'_>,
    ) -> Result<(), CliError> {
        let mut silent = false;
        loop {
            match ask().await {
                Ok(view) => {
                    silent = false;
                    let left = self.left(&view)?;
                    self.show(left, shown.replace(left), end - Instant::now(), output)?;
                    if left == (Left { active: 0, inactive: 0 }) {
                        return Ok(());
                    }
                }
                // It may be restarted meanwhile: connections and drain do not depend on it.
                Err(
                    error @ (ClientError::NotRunning { .. }
                    | ClientError::Timeout { .. }
                    | ClientError::Broken { .. }),
                ) => {
                    if !std::mem::replace(&mut silent, true) {
                        output.warn([&format!("{error}; waiting on")]);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            sleep(LOOK).await;
        }
    }

    /// What the backend still has.
    fn left(&self, view: &ServiceView) -> Result<Left, CliError> {
        let Some(backend) = view.backends.iter().find(|backend| backend.key == self.key) else {
            let message = format!("{self} was removed meanwhile: what connections it had are dropped");
            return Err(CliError::Local { exit: Exit::NotFound, message });
        };
        if backend.state != BackendState::Drained {
            let message = format!("{self} is not drained any more: somebody undrained it meanwhile");
            return Err(CliError::Local { exit: Exit::Refused, message });
        }
        Ok(Left { active: backend.active, inactive: backend.inactive })
    }

    /// On a terminal one line that is redrawn, else a line for each change.
    fn show(
        &self,
        left: Left,
        before: Option<Left>,
        time: Duration,
        output: &mut Output<'_>,
    ) -> Result<(), CliError> {
        if redraws(output) {
            let time = number::duration(time.as_secs());
            output.raw(format!("{ERASE_LINE}{self}: {left} left, {time} to the deadline").as_bytes())?;
        } else if before != Some(left) && output.is_json() {
            output.json(&left, true)?;
        } else if before != Some(left) {
            output.line(format!("{self}: {left} left"))?;
        }
        Ok(output.flush()?)
    }

    fn too_late(&self, left: Option<Left>) -> CliError {
        let Self { service, key, deadline } = self;
        let has = match left {
            Some(left) => format!("still has {left}"),
            None => "may still have connections (the agent did not say)".to_owned(),
        };
        let after = number::duration(deadline.as_secs());
        let message = format!(
            "{self} {has} after {after}, and stays drained: wait on with the same command, cut them with \
             `lb conn flush --service {service} --backend {key}`, or end the drain with `lb backend undrain \
             {service} {key}`"
        );
        CliError::Local { exit: Exit::Deadline, message }
    }

    fn interrupted(&self, left: Option<Left>) -> CliError {
        let Self { service, key, deadline: _ } = self;
        let with = left.map(|left| format!(" and has {left}")).unwrap_or_default();
        let message = format!(
            "interrupted; {self} stays drained{with}: `lb backend undrain {service} {key}` ends the drain"
        );
        CliError::Local { exit: Exit::Interrupted, message }
    }
}

fn redraws(output: &Output<'_>) -> bool {
    output.terminal && !output.is_json()
}

impl fmt::Display for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {} of {}", self.key, self.service)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} active and {} inactive connections", self.active, self.inactive)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use super::*;
    use crate::api::{fake, types::BackendView};

    struct Ran {
        result: Result<(), CliError>,
        stdout: String,
        stderr: String,
        seconds: u64,
    }

    /// Waits up to a minute of paused time for mysql's second backend, which has `looks` one after the
    /// other: its view, or no answer.
    async fn wait(
        looks: Vec<Option<BackendView>>,
        interrupted: impl Future<Output = ()>,
        terminal: bool,
    ) -> Ran {
        let looks = RefCell::new(looks.into_iter());
        let view = fake::services().remove(0);
        let last = RefCell::new(None);
        let ask = async || {
            let look = looks.borrow_mut().next().unwrap_or_else(|| last.borrow().clone());
            *last.borrow_mut() = look.clone();
            let backend = look.ok_or_else(|| ClientError::NotRunning { socket: "/run/lb/x.sock".into() })?;
            let mut view = view.clone();
            view.backends[1] = backend;
            Ok(view)
        };
        let (service, key) = (view.name.clone(), view.backends[1].key);
        let wait = Wait { service: &service, key, deadline: Duration::from_secs(60) };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        let result = wait.run(ask, interrupted, &mut Output::new(&mut stdout, &mut stderr, terminal)).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { result, stdout: text(stdout), stderr: text(stderr), seconds: begin.elapsed().as_secs() }
    }

    fn left(active: u64, inactive: u64) -> Option<BackendView> {
        Some(BackendView { active, inactive, ..fake::services()[0].backends[1].clone() })
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_for_each_change_and_an_end() {
        let looks = vec![left(3, 1), left(3, 1), left(2, 1), None, left(0, 1), left(0, 0)];
        let ran = wait(looks, pending(), false).await;
        ran.result.unwrap();
        assert_eq!(
            ran.stdout,
            "backend 172.18.14.12:3306 of mysql: 3 active and 1 inactive connections left\n\
             backend 172.18.14.12:3306 of mysql: 2 active and 1 inactive connections left\n\
             backend 172.18.14.12:3306 of mysql: 0 active and 1 inactive connections left\n\
             backend 172.18.14.12:3306 of mysql: 0 active and 0 inactive connections left\n\
             backend 172.18.14.12:3306 of mysql has no connections left\n"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("the agent is not running"), "{}", ran.stderr);
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_sees_one_line_change() {
        let ran = wait(vec![left(3, 1), left(0, 0)], pending(), true).await;
        ran.result.unwrap();
        let of = "backend 172.18.14.12:3306 of mysql";
        assert_eq!(
            ran.stdout,
            format!(
                "{ERASE_LINE}{of}: 3 active and 1 inactive connections left, 1m 0s to the deadline\
                 {ERASE_LINE}{of}: 0 active and 0 inactive connections left, 59s to the deadline\n\
                 {of} has no connections left\n"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_leaves_the_drain_and_says_what_to_do() {
        let ran = wait(vec![left(2, 0)], pending(), false).await;
        let error = ran.result.unwrap_err();
        assert_eq!((error.exit(), ran.seconds), (Exit::Deadline, 60));
        let text = error.to_string();
        for words in ["2 active", "1m 0s", "stays drained", "lb conn flush", "lb backend undrain mysql"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // Nor does an agent that never answers hold it up.
        let ran = wait(vec![None], pending(), false).await;
        assert_eq!((ran.result.unwrap_err().exit(), ran.seconds), (Exit::Deadline, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupt_leaves_the_drain_and_says_so() {
        let ran = wait(vec![left(2, 0)], sleep(Duration::from_secs(7)), false).await;
        let error = ran.result.unwrap_err();
        assert_eq!((error.exit(), ran.seconds), (Exit::Interrupted, 7));
        assert!(error.to_string().contains("stays drained and has 2 active"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_do_meanwhile_ends_it() {
        let undrained = left(2, 0).map(|backend| BackendView { state: BackendState::Up, ..backend });
        let ran = wait(vec![left(2, 0), undrained], pending(), false).await;
        assert_eq!(ran.result.unwrap_err().exit(), Exit::Refused);
        let other =
            left(2, 0).map(|backend| BackendView { key: "172.18.14.99:3306".parse().unwrap(), ..backend });
        let ran = wait(vec![left(2, 0), other], pending(), false).await;
        assert_eq!(ran.result.unwrap_err().exit(), Exit::NotFound);
    }
}
