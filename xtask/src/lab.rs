//! `cargo xtask demo` and `cargo xtask lab`: the binaries of the same name in lb-tests, built and
//! told where `lb` is.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use crate::build;
use crate::clock::Stopwatch;
use crate::cmd::Cmd;
use crate::leftovers::Before;
use crate::metadata;
use crate::repo;
use crate::setup::{self, Group};

/// The demo takes seconds; this bounds one that hangs.
const DEMO_LIMIT: Duration = Duration::from_secs(5 * 60);

#[derive(ClapArgs)]
pub struct DemoArgs {
    /// Which one: connections, or the health of the backends
    #[arg(value_enum, default_value_t)]
    pub what: What,
    /// Leave the lab up afterwards
    #[arg(long)]
    pub keep: bool,
}

/// The demos.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum What {
    /// The notes' transcript, and a drain
    #[default]
    Connections,
    /// A dead server and its return, replicas that lag
    Health,
}

impl What {
    fn program(self) -> &'static str {
        match self {
            Self::Connections => "demo",
            Self::Health => "demo_health",
        }
    }
}

#[derive(ClapArgs)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: LabVerb,
}

#[derive(Subcommand)]
enum LabVerb {
    /// Build client, director, two backends and the switch between them
    Up,
    /// Take all of it down
    Down,
    /// A shell inside one node
    Shell {
        /// As `lab status` names it
        node: String,
    },
    /// Which nodes are up
    Status,
}

pub fn demo(what: What, keep: bool) -> Result<()> {
    repo::require_root("cargo xtask demo")?;
    timed("setup", || setup::ensure(&[Group::Build, Group::Lab]))?;
    let lb = timed("build lb", || build::lb(false))?;
    let program = timed("build the demo", || build_program(what.program()))?;
    let before = Before::look();
    let flags: &[&str] = if keep { &["--keep"] } else { &[] };
    let ran = timed("demo", || Cmd::new(program).args(flags).env("LB_BIN", lb).limit(DEMO_LIMIT).run());
    // A demo that failed has to clean up too; its own error says more, and comes first.
    let left = if keep { Ok(()) } else { before.compare() };
    ran.and(left)
}

pub fn main(args: &LabArgs) -> Result<()> {
    repo::require_root("cargo xtask lab")?;
    setup::ensure(&[Group::Build, Group::Lab])?;
    let lb = build::lb(false)?;
    let args: Vec<OsString> = match &args.verb {
        LabVerb::Up => vec!["up".into()],
        LabVerb::Down => vec!["down".into()],
        LabVerb::Shell { node } => vec!["shell".into(), node.into()],
        LabVerb::Status => vec!["status".into()],
    };
    Cmd::new(build_program("lab")?).args(args).env("LB_BIN", lb).interactive().run()
}

fn build_program(name: &str) -> Result<PathBuf> {
    metadata::require_target("lb-tests", "bin", name)?;
    Cmd::cargo(["build", "-p", "lb-tests", "--bin", name]).run()?;
    Ok(repo::target_dir().join("debug").join(name))
}

fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let watch = Stopwatch::start();
    let done = work().with_context(|| format!("{name} failed"))?;
    eprintln!("xtask: {name} took {watch}");
    Ok(done)
}
