//! `cargo xtask vm steps`: which lines of the source the instructions of a packet come from.
//!
//! The ways of the guard (tests/tests/packets/instructions.rs) run in the VM once more, with a plugin in qemu
//! (xtask/steps-plugin) that counts each instruction of the program between two marks. The guest says where the program's
//! code lies and which line each piece of it comes from (`said.rs`), the plugin how often which instruction ran
//! (`counts.rs`); `rounds.rs` joins them, `table.rs` prints.

mod counts;
mod rounds;
mod said;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use super::Job;
use super::scratch::Scratch;
use crate::cmd::Cmd;
use crate::metadata;
use crate::repo;
use crate::setup::{self, Group};
use said::Said;

/// The test that says where code lies and sets the marks.
const TEST: &str = "each_way_once_more_between_marks";
const PLUGIN: &str = "steps-plugin";
/// Of 36 s, with a load of two on two CPUs; 69 s with one of ten.
const LIMIT: Duration = Duration::from_secs(900);

#[derive(ClapArgs)]
pub struct Args {
    /// Only ways whose name contains this: `known`, `new flow`
    filter: Option<String>,
    /// So many of the lines that take most, too
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    lines: usize,
}

/// Counts, and prints a table for each way.
pub fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Vm])?;
    super::check_tools(|tool| repo::find_command(tool).is_some())?;
    let program = metadata::build_test("lb-tests", super::COUNT_TARGET)?;
    let out = Scratch::new("steps")?;
    let mut job = Job::new(program, &[TEST, "--exact", "--nocapture"]);
    (job.icount, job.limit) = (true, LIMIT);
    job.plugin = Some((plugin()?, out.0.clone()));
    let mut said = Said::default();
    let status = job.run(|line| match said.take(line) {
        true => (),
        false => println!("{line}"),
    })?;
    ensure!(status == 0, "what runs in the VM broke off (status {status}): see above");
    let windows = counts::parse(&repo::read(&out.0)?)?;
    print!("{}", table::all(&said, &windows, args.filter.as_deref().unwrap_or(""), args.lines)?);
    Ok(())
}

/// Builds it; where it lies.
fn plugin() -> Result<PathBuf> {
    Cmd::cargo(["build", "-p", PLUGIN]).run()?;
    let built = repo::target_dir().join("debug").join(format!("lib{}.so", PLUGIN.replace('-', "_")));
    ensure!(built.is_file(), "cargo built {PLUGIN}, but {} is not there", built.display());
    Ok(built)
}
