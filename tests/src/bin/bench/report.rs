//! What a run showed, for programs: `--json`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use lb_tests::clock;
use serde::Serialize;

use crate::{
    cases, checks, cold_start, control, cpus, evictions, growth,
    pace::{Above, Pace, load},
    packets, schedulers, sweeper, trace, wire,
};

/// What is written as JSON: of the tables that were asked for.
#[derive(Default, Serialize)]
pub struct Reports {
    pub machine: Machine,
    pub packets: Option<packets::Packets>,
    pub wire: Option<wire::Wired>,
    pub cases: Option<Report<cases::Figure>>,
    /// None on a machine of one CPU.
    pub cpus: Option<Report<cpus::Figure>>,
    pub schedulers: Option<Report<schedulers::Figure>>,
    pub sweeper: Option<Report<sweeper::Figure>>,
    pub growth: Option<Report<growth::Figure>>,
    pub evictions: Option<Report<evictions::Figure>>,
    pub cold_start: Option<Report<cold_start::Step>>,
    pub control: Option<control::Control>,
    pub checks: Option<checks::Checks>,
    pub kinds: Option<checks::Kinds>,
    pub trace: Option<Report<trace::Figure>>,
}

/// A table.
#[derive(Serialize)]
pub struct Report<Row> {
    rounds: usize,
    /// In which the machine's clock ran slower than in its best, from 0 on. Of a table of several measurements they are
    /// numbered through.
    slow_rounds: Vec<usize>,
    rows: Vec<Row>,
}

impl<Row> Report<Row> {
    pub fn new(pace: &Pace, rows: Vec<Row>) -> Self {
        Self { rounds: pace.rounds(), slow_rounds: pace.slow(), rows }
    }
}

/// What a packet of each row costs, for people.
pub fn print_above<'a>(rounds: usize, rows: impl IntoIterator<Item = (String, &'a Above)>) {
    println!("{:<66}{:>9}{:>9}", format!("ns per packet, {rounds} rounds"), "minimum", "median");
    for (name, Above { minimum, median, .. }) in rows {
        println!("{name:<66}{minimum:>9}{median:>9}");
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Where and when: figures of two runs compare only if all of it is the same.
#[derive(Default, Serialize)]
pub struct Machine {
    cpu: String,
    kernel: String,
    /// When the run began.
    load: String,
    date: String,
}

impl Machine {
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo")?;
        // Not every architecture names its model.
        let model = text.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": ")).map_or("CPU of no name", |(_, name)| name);
        // What `uname -r` says.
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
        Ok(Self {
            cpu: model.to_owned(),
            kernel: kernel.trim().to_owned(),
            load: load()?,
            date: clock::realtime().to_string(),
        })
    }

    pub fn print(&self) {
        println!("{}, kernel {}, load {}, {}\n", self.cpu, self.kernel, self.load, self.date);
    }
}
