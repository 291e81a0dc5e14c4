//! A parent that outlives the work and takes its lab down, whatever ends the work: success, error, panic, Ctrl-C.
//!
//! The work runs in a child process. Since a lab is found by its name alone, the parent needs nothing from the child.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use crate::scope::{DEVELOPER_LAB, dir_of, teardown};

/// What a shell says after a Ctrl-C.
const INTERRUPTED: u8 = 130;

/// What a demo is told.
#[derive(Args)]
pub struct DemoArgs {
    /// Leave the lab up afterwards (`cargo xtask lab down` takes it down).
    #[arg(long)]
    keep: bool,
    /// The lab's name: do the work itself instead of supervising it.
    #[arg(long, hide = true)]
    inner: Option<String>,
}

/// Shows a demo in a lab of its own, supervised. `demo` gets the lab's name, and whether to leave it up.
pub fn show(args: DemoArgs, demo: impl FnOnce(&str, bool) -> Result<()>) -> ExitCode {
    let DemoArgs { keep, inner } = args;
    exit_code(match inner {
        None => outer(keep),
        Some(name) => demo(&name, keep).map(|()| ExitCode::SUCCESS),
    })
}

fn outer(keep: bool) -> Result<ExitCode> {
    let name = if keep { DEVELOPER_LAB.to_owned() } else { format!("lb{}-1", std::process::id()) };
    ensure!(!dir_of(&name)?.exists(), "the lab {name} is up already; `cargo xtask lab down` takes it down");
    let mut args = vec!["--inner", &name];
    args.extend(keep.then_some("--keep"));
    supervise(&args, &name, keep)
}

/// Runs this executable again with `args` and waits for it. The lab `name` is taken down after a signal, and after
/// the end of the child too unless it succeeded and `keep` is set.
pub fn supervise(args: &[&str], name: &str, keep: bool) -> Result<ExitCode> {
    let mut watched = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD] {
        watched.add(signal);
    }
    watched.thread_block()?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.args(args).process_group(0).spawn().context("cannot start the work")?;
    loop {
        if watched.wait()? != Signal::SIGCHLD {
            eprintln!("interrupted: taking the lab down");
            child.kill()?;
            child.wait()?;
            teardown(name)?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
        if let Some(status) = child.try_wait()? {
            if !(keep && status.success()) {
                teardown(name)?;
            }
            // A child that was killed has no code.
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
    }
}

/// What `main` returns: an error is told to the user as a paragraph, without the backtrace of a test.
pub fn exit_code(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
