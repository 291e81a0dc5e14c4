//! `cargo xtask bench`: what a packet costs, beside what it is compared with, and whether the targets hold.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::build;
use crate::cmd::Cmd;
use crate::setup::{self, Group};
use crate::vm;

#[derive(ClapArgs)]
pub struct Args {
    /// Tables (packets, wire, cases, cpus, schedulers, sweeper, growth, evictions, cold-start, control, checks, kinds, trace); the
    /// packets with their targets if none is given
    tables: Vec<OsString>,
    /// Packets a second from a generator through the director to a sink, beside the least that forwards and the
    /// kernel's forwarding
    #[arg(long, conflicts_with_all = ["tables", "full"])]
    wire: bool,
    /// All tables
    #[arg(long, conflicts_with = "tables")]
    full: bool,
    /// Writes the figures of the tables, of --wire or of --vm there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Beside the kernel's IPVS instead: instructions per packet, in a VM with kernel 6.1 (three to nine minutes)
    #[arg(long, conflicts_with_all = ["tables", "full", "beside", "wire"])]
    vm: bool,
    /// Parts of `control` to measure (small, adding, dead, large, changes), separated by commas
    #[arg(long, value_name = "PART", requires = "tables")]
    only: Option<OsString>,
    /// Another build of the XDP program (lb.o) to measure in the same run
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<()> {
    if args.vm {
        return vm::bench::main(args.json.as_deref());
    }
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
    if let Some(parts) = &args.only {
        bench = bench.arg("--only").arg(parts);
    }
    if args.wire {
        bench = bench.arg("wire");
    } else if !args.full && args.tables.is_empty() {
        bench = bench.arg("packets");
    }
    let has_agent = |table: &OsString| ["control", "checks", "kinds"].iter().any(|it| table == it);
    if args.full || args.tables.iter().any(has_agent) {
        bench = bench.env("LB_BIN", &build::lb(true)?);
    }
    bench.args(&args.tables).run()
}
