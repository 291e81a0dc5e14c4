//! What things cost: `cargo xtask bench --full`, or with the names of some of the tables. The
//! program in the kernel is the same in either profile, the agent's part is not.
//!
//! Compare figures of one run only.

mod cases;
mod checks;
mod cold_start;
mod control;
mod cpus;
mod evictions;
mod expected;
mod growth;
mod pace;
mod packets;
mod report;
mod schedulers;
mod sweeper;
mod trace;
mod wire;
mod world;

use std::{fs, ops::Range, path::PathBuf, thread};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use report::{Machine, Reports};

#[derive(Parser)]
struct Args {
    /// All, if none is given
    what: Vec<Table>,
    /// Parts of `control` to measure, separated by commas; all, if it is not given
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<control::Part>,
    /// Another build of the program (lb.o) to measure beside this one, in `packets`
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Writes the machine and the figures of the tables there, as JSON, after each of them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// ns per packet, beside a bare MAC swap
    Packets,
    /// Packets a second between namespaces, beside the least that forwards and the kernel's forwarding
    Wire,
    /// Packets of other kinds, more flows, more services, everything configured
    Cases,
    /// Two CPUs at once on the same maps
    Cpus,
    /// ns per new flow, by scheduler and number of backends
    Schedulers,
    /// A round of the agent's sweeper
    Sweeper,
    /// All flows to tables of another size
    Growth,
    /// What becomes of flows when there are too many
    Evictions,
    /// From nothing to 4,096 services of 16 backends
    ColdStart,
    /// The agent: starts, reloads, changes by the API, memory (builds a lab; needs `lb` beside this program)
    Control,
    /// 10,000 health checks a second (builds a lab; needs `lb` beside this program)
    Checks,
    /// One health check of each kind against a real server (the same)
    Kinds,
    /// ns per packet while `lb trace` runs
    Trace,
}

fn main() -> Result<()> {
    let Args { what, only, beside, json } = Args::parse();
    let beside = beside.map(fs::read).transpose()?;
    let online = thread::available_parallelism()?.get();
    // One CPU: its cache, its counters.
    stay_on(0..1)?;
    let mut reports = Reports { machine: Machine::read()?, ..Reports::default() };
    reports.machine.print();
    for table in if what.is_empty() { Table::value_variants() } else { &what } {
        match table {
            Table::Packets => reports.packets = Some(packets::packets(beside.as_deref())?),
            Table::Wire => reports.wire = Some(wire::wire()?),
            Table::Cases => reports.cases = Some(cases::cases()?),
            Table::Cpus => reports.cpus = cpus::cpus(online)?,
            Table::Schedulers => reports.schedulers = Some(schedulers::schedulers()?),
            Table::Sweeper => reports.sweeper = Some(sweeper::sweeper()?),
            Table::Growth => reports.growth = Some(growth::growth()?),
            Table::Evictions => reports.evictions = Some(evictions::evictions()?),
            Table::ColdStart => reports.cold_start = Some(cold_start::cold_start()?),
            Table::Control => reports.control = Some(on_all_cpus(|| control::control(&only))?),
            Table::Checks => reports.checks = Some(checks::checks()?),
            Table::Kinds => reports.kinds = Some(checks::kinds()?),
            Table::Trace => reports.trace = Some(trace::trace()?),
        }
        println!();
        if let Some(file) = &json {
            fs::write(file, serde_json::to_vec_pretty(&reports)?)?;
        }
    }
    Ok(())
}

fn stay_on(cpus: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.into_iter().try_for_each(|cpu| set.set(cpu))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The kernel leaves those out that there are not.
fn on_all_cpus<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    stay_on(0..CpuSet::count())?;
    let result = work();
    stay_on(0..1)?;
    result
}

/// Minimum and median.
fn figures<T: Copy + Default + Ord>(rounds: &[T]) -> (T, T) {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    (sorted.first().copied().unwrap_or_default(), sorted.get(sorted.len() / 2).copied().unwrap_or_default())
}
