//! `cargo xtask bench`: what a packet costs, beside what it is compared with, and whether the targets hold.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::cmd::Cmd;
use crate::setup::{self, Group};

#[derive(ClapArgs)]
pub struct Args {
    /// Tables (packets, schedulers, sweeper, evictions, cold-start, trace); the packets with their targets if none is given
    tables: Vec<OsString>,
    /// All tables
    #[arg(long, conflicts_with = "tables")]
    full: bool,
    /// Writes the packets' figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Another build of the XDP program (lb.o) to measure in the same run
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    let mut bench = Cmd::cargo([
        "run",
        "--release",
        "--package",
        "lb-tests",
        "--features",
        "bench",
        "--bin",
        "bench",
        "--",
    ]);
    for (option, file) in [("--json", &args.json), ("--beside", &args.beside)] {
        if let Some(file) = file {
            bench = bench.arg(option).arg(std::path::absolute(file)?);
        }
    }
    if !args.full && args.tables.is_empty() {
        bench = bench.arg("packets");
    }
    bench.args(&args.tables).run()
}
