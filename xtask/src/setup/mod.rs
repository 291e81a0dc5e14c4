//! `cargo xtask setup`: makes a machine able to run the other verbs, which all call [`ensure`].
//!
//! Looking costs some milliseconds and changes nothing; what is missing is installed with a line
//! that says why. Where that is not possible, the error says exactly what to install.

mod apt;
mod mysql;
mod packages;
mod rust;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::clock::Stopwatch;

pub use apt::update_once as update_package_lists;
pub use rust::nightly;

/// What a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// To build lb: nightly with rust-src, bpf-linker
    Build,
    /// To run labs: iproute2, MariaDB, ...
    Lab,
    /// To run kernel 6.1: qemu, busybox
    Vm,
    /// To check sources: rustfmt, clippy, cargo-machete
    Ci,
}

impl Group {
    pub const ALL: &[Self] = &[Self::Build, Self::Lab, Self::Vm, Self::Ci];
}

#[derive(ClapArgs)]
pub struct Args {
    /// Only these groups; all of them without
    groups: Vec<Group>,
}

pub fn main(args: &Args) -> Result<()> {
    let watch = Stopwatch::start();
    let groups = if args.groups.is_empty() { Group::ALL } else { &args.groups };
    ensure(groups)?;
    println!("setup: everything is there ({watch})");
    Ok(())
}

/// Installs what is missing for these groups; silent if nothing is.
pub fn ensure(groups: &[Group]) -> Result<()> {
    let mut problems = Vec::new();
    // Everything is tried, so that one run says everything that a person has to do by hand.
    let mut attempt = |step: Result<()>| problems.extend(step.err().map(|error| format!("* {error:#}")));
    attempt(apt::ensure(&packages::missing(groups)));
    if groups.contains(&Group::Lab) {
        attempt(mysql::ensure());
    }
    if groups.contains(&Group::Build) {
        attempt(rust::ensure_bpf_toolchain());
    }
    if groups.contains(&Group::Ci) {
        attempt(rust::ensure_checkers());
    }
    outcome(&problems)
}

fn outcome(problems: &[String]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    bail!("setup is not complete:\n{}", problems.join("\n"))
}

/// Announces a step: what and why.
fn say(what: &str, why: &str) {
    eprintln!("setup: {what}: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_left_to_do_by_hand_is_said_at_once() {
        outcome(&[]).expect("complete");
        let error = outcome(&["* run this".to_owned(), "* run that".to_owned()]).expect_err("incomplete");
        assert_eq!(error.to_string(), "setup is not complete:\n* run this\n* run that");
    }
}
