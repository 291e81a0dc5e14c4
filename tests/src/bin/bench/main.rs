//! What things cost: `cargo xtask bench --full`, or with the names of some of the tables. The
//! program in the kernel is the same in either profile, the agent's part is not.
//!
//! Compare figures of one run only.

mod checks;
mod cold_start;
mod evictions;
mod pace;
mod packets;
mod schedulers;
mod sweeper;
mod trace;
mod world;

use std::{fs, path::PathBuf};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

#[derive(Parser)]
struct Args {
    /// All, if none is given
    what: Vec<Table>,
    /// Another build of the program (lb.o) to measure beside this one, in `packets`
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Writes the figures of `packets` there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// ns per packet, beside a bare MAC swap
    Packets,
    /// ns per new flow, by scheduler and number of backends
    Schedulers,
    /// A round of the agent's sweeper
    Sweeper,
    /// What becomes of flows when there are too many
    Evictions,
    /// From nothing to 4,096 services of 16 backends
    ColdStart,
    /// 10,000 health checks a second (builds a lab; needs `lb` beside this program)
    Checks,
    /// ns per packet while `lb trace` runs
    Trace,
}

fn main() -> Result<()> {
    let Args { what, beside, json } = Args::parse();
    let beside = beside.map(fs::read).transpose()?;
    // One CPU: its cache, its counters.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    for table in if what.is_empty() { Table::value_variants() } else { &what } {
        match table {
            Table::Packets => {
                let report = packets::packets(beside.as_deref())?;
                if let Some(file) = &json {
                    fs::write(file, serde_json::to_vec_pretty(&report)?)?;
                }
            }
            Table::Schedulers => schedulers::schedulers()?,
            Table::Sweeper => sweeper::sweeper()?,
            Table::Evictions => evictions::evictions()?,
            Table::ColdStart => cold_start::cold_start()?,
            Table::Checks => checks::checks()?,
            Table::Trace => trace::trace()?,
        }
        println!();
    }
    Ok(())
}

/// Minimum and median.
fn figures<T: Copy + Default + Ord>(rounds: &[T]) -> (T, T) {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    (sorted.first().copied().unwrap_or_default(), sorted.get(sorted.len() / 2).copied().unwrap_or_default())
}
