//! Our data plane beside the real IPVS: the same random scripts of configuration, packets and waits go to both, and
//! after every step what they show is compared. `cargo xtask vm ipvs-diff` runs it in a VM, where waits cost nothing.
//!
//! * [`lab`] names who is who; [`script`] is what happens, [`generate`] makes it out of a seed, [`schedulers`] says
//!   for which schedulers;
//! * [`ipvs`] is the real thing ([`wire`] its packets, [`listing`] its lists), [`ours`] the XDP program;
//! * [`rates`] is a load beside them, and what both count of it;
//! * [`view`] compares, [`run`] goes through a script, [`ties`] keeps it from what would be chance, [`shrink`] makes
//!   a failing one short.

mod generate;
mod ipvs;
mod lab;
mod listing;
mod ours;
mod rates;
mod run;
mod schedulers;
mod script;
mod shrink;
mod ties;
mod view;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::{clock, scope::Scope};

use crate::{
    ipvs::Ipvs,
    ours::Ours,
    run::{Difference, Directors},
    schedulers::{KINDS, Kind},
    script::Script,
};

/// Differences that are shown in full: shrinking takes a while.
const SHOWN: usize = 5;

#[derive(Parser)]
struct Args {
    /// Scripts of each scheduler
    #[arg(long, default_value_t = 11)]
    scripts: u64,
    /// Seed of the first script; the next has the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this scheduler
    #[arg(long)]
    scheduler: Option<String>,
}

/// Of all steps, how many may be left out, and after how many a timer may be held to less: a comparison that looks away
/// too often finds no difference either. Packets that part ties are only shown: they are compared as all others are.
const MOST_LEFT_OUT: (usize, usize) = (1, 10);
const MOST_WIDENED: (usize, usize) = (1, 20);

/// One line of the table.
struct Row {
    kind: &'static Kind,
    scripts: u64,
    steps: usize,
    left_out: usize,
    widened: usize,
    held: f64,
    parting: usize,
    packets: usize,
    flows: usize,
    templates: usize,
    differences: usize,
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all were alike.
fn run(args: &Args) -> Result<bool> {
    let wanted = |kind: &&Kind| args.scheduler.as_deref().is_none_or(|name| name == kind.name);
    let kinds: Vec<_> = KINDS.iter().filter(wanted).collect();
    let known = || KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    ensure!(!kinds.is_empty(), "no such scheduler is compared; these are: {}", known());
    let scope = Scope::unique()?;
    let ipvs = Ipvs::new(&scope).context("cannot set IPVS up")?;
    let ours = Ours::new().context("cannot set lb up")?;
    let mut directors = Directors::new(ipvs, ours);
    let mut rows = Vec::new();
    let mut shown = 0;
    for kind in kinds {
        let start = clock::now();
        let mut row = Row {
            kind,
            scripts: args.scripts,
            steps: 0,
            left_out: 0,
            widened: 0,
            held: 0.0,
            parting: 0,
            packets: 0,
            flows: 0,
            templates: 0,
            differences: 0,
            seconds: 0,
        };
        for seed in args.seed..args.seed + args.scripts {
            let script = generate::script(seed, kind);
            let outcome = directors.run(&script).with_context(|| format!("{} script {seed}", kind.name))?;
            row.steps += outcome.steps;
            row.left_out += outcome.left_out;
            row.widened += outcome.widened;
            row.held = row.held.max(outcome.held);
            row.parting += outcome.parting;
            row.packets += outcome.packets;
            row.flows += outcome.flows;
            row.templates += outcome.templates;
            if let Some(difference) = outcome.difference {
                row.differences += 1;
                shown += 1;
                if shown <= SHOWN {
                    show(&mut directors, &script, difference)?;
                } else {
                    println!("{} script {seed} differs too", kind.name);
                }
            }
        }
        row.seconds = start.elapsed().as_secs();
        rows.push(row);
    }
    let rates = rates::compare(&mut directors).context("the rates")?;
    print(&rows);
    println!(
        "timers: alike within {:.2} s; of templates that were armed again {:.2} s, and for as long as our sweeper was kept \
         waiting: {:.1} s at most, {:.1} s are allowed",
        view::TOLERANCE,
        view::TOLERANCE + view::LOOK,
        rows.iter().fold(0.0, |most: f64, row| most.max(row.held)),
        view::MOST_HELD
    );
    println!(
        "rates and counters under a load: {} compared, up to {} packets a second, {} differences",
        rates.compared,
        rates.most,
        rates.differences.len()
    );
    rates.differences.iter().for_each(|found| println!("  =>   {found}"));
    // A comparison of nothing finds no difference. Half of the scripts have a persistent service; one alone may open
    // nothing.
    for row in rows.iter().filter(|row| row.scripts >= 8) {
        ensure!(row.flows > 0, "no flow of {} was compared", row.kind.name);
        ensure!(row.templates > 0, "no template of {} was compared", row.kind.name);
    }
    let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
    let steps = sum(|row| row.steps);
    for (what, number, (most, of)) in [
        ("were left out", sum(|row| row.left_out), MOST_LEFT_OUT),
        ("had a timer held to less", sum(|row| row.widened), MOST_WIDENED),
    ] {
        ensure!(number * of <= steps * most, "of {steps} steps {number} {what}: too much is not compared");
    }
    Ok(rates.differences.is_empty() && rows.iter().all(|row| row.differences == 0))
}

/// The shortest transcript that shows the difference.
fn show(directors: &mut Directors, script: &Script, difference: Difference) -> Result<()> {
    let (short, difference) = shrink::shrink(directors, script, difference)?;
    println!(
        "\nDIFFERENCE with {}, seed {} (--scheduler {0} --seed {1} --scripts 1):",
        script.kind.name, script.seed
    );
    for (number, step) in short.steps.iter().enumerate() {
        println!("  {:>3}  {step}", number + 1);
    }
    for found in difference.found {
        println!("  =>   {found}");
    }
    println!();
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "scheduler    scripts  packets  flows compared  templates  steps compared  left out  timer held to less  \
         parting packets  differences  guest time"
    );
    for row in rows {
        println!(
            "{:<11} {:>8} {:>8} {:>15} {:>10} {:>15} {:>9} {:>19} {:>16} {:>12} {:>9} s",
            row.kind.name,
            row.scripts,
            row.packets,
            row.flows,
            row.templates,
            row.steps,
            row.left_out,
            row.widened,
            row.parting,
            row.differences,
            row.seconds
        );
    }
}
