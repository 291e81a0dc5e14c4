//! Packets of other kinds, and directors of other sizes: what else a packet may cost. Measured as in `packets`, with all
//! rows in each round.

mod directors;
mod rows;

use std::iter;

use anyhow::{Result, ensure};
use lb_common::verdict::Verdict;
use lb_tests::feeder::{Feed, Feeder, Target};
use serde::Serialize;

use self::{
    directors::{Directors, Which},
    rows::{rows, wrappers},
};
use crate::{figures, pace::Pace, world::counted};

const ROUNDS: usize = 31;
/// Packets of a measurement.
pub const PACKETS: u32 = 16384;
/// Seconds from now in which what only a SYN opened has expired, templates too, and nothing else has: the sweeper looks
/// for a template's connections when it has run out, and then gives it another minute.
const LATER: [u32; 2] = [100, 250];

/// Frames sent so often.
#[derive(Clone)]
pub struct Run {
    pub frame: Vec<u8>,
    pub feed: Feed,
    pub packets: u32,
}

/// One row.
pub struct Row {
    name: String,
    which: Which,
    /// Sent in each round before measuring.
    before: Vec<Run>,
    measured: Run,
    verdict: Verdict,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

/// Figures of one row, ns per packet above the wrapper.
#[derive(Serialize)]
pub struct Figure {
    name: String,
    minimum: i64,
    median: i64,
}

/// What the run showed.
#[derive(Serialize)]
pub struct Report {
    rounds: usize,
    /// In which the machine's clock ran slower than in its best.
    slow_rounds: usize,
    rows: Vec<Figure>,
}

/// Measures and prints the table.
pub fn cases() -> Result<Report> {
    let mut bench = Bench { directors: Directors::new()?, feeder: Feeder::new()? };
    let (mut wrappers, mut rows) = (wrappers(), rows());
    let mut swap = wrappers[0].clone();
    for run in rows::established() {
        bench.establish(run)?;
    }
    bench.directors.begin_to_move()?;
    let mut pace = Pace::default();
    for _ in 0..ROUNDS {
        pace.round(|| {
            wrappers.iter_mut().try_for_each(|(run, rounds)| bench.alone(Target::Nothing, run, rounds))?;
            bench.alone(Target::Swap, &mut swap.0, &mut swap.1)?;
            rows.iter_mut().try_for_each(|row| bench.measure(row))
        })?;
        // Each round finds as many flows as the first.
        bench.directors.sweep_in(&LATER)?;
    }
    let floor = net("bare MAC swap", &swap.0, &swap.1, &wrappers);
    let rows = rows.iter().map(|row| net(&row.name, &row.measured, &row.rounds, &wrappers));
    let rows: Vec<_> = iter::once(floor).chain(rows).collect();
    println!("{:<58}{:>9}{:>9}", format!("ns per packet, {ROUNDS} rounds"), "minimum", "median");
    for Figure { name, minimum, median } in &rows {
        println!("{name:<58}{minimum:>9}{median:>9}");
    }
    println!("\n{pace}");
    Ok(Report { rounds: ROUNDS, slow_rounds: pace.slow(), rows })
}

/// Figures of `run`'s rounds without the cost of the wrapper, which has one for each family.
fn net(name: &str, run: &Run, rounds: &[u32], wrappers: &[(Run, Vec<u32>)]) -> Figure {
    let above = |all: u32, wrapper: u32| i64::from(all) - i64::from(wrapper);
    let wrapper = wrappers.iter().find(|(wrapper, _)| wrapper.feed.is_ipv6 == run.feed.is_ipv6);
    let (least, middle) = wrapper.map_or((0, 0), |(_, rounds)| figures(rounds));
    let (minimum, median) = figures(rounds);
    Figure { name: name.to_owned(), minimum: above(minimum, least), median: above(median, middle) }
}

struct Bench {
    directors: Directors,
    feeder: Feeder,
}

impl Bench {
    fn establish(&mut self, (which, mut run): (Which, Run)) -> Result<()> {
        self.feeder.aim(Target::Director, self.directors.of(which))?;
        self.feeder.run(&run.frame, &mut run.feed, run.packets)?;
        Ok(())
    }

    /// Without a director.
    fn alone(&mut self, target: Target, run: &mut Run, rounds: &mut Vec<u32>) -> Result<()> {
        self.feeder.aim(target, self.directors.of(Which::Plain))?;
        rounds.push(self.feeder.run(&run.frame, &mut run.feed, run.packets)?);
        Ok(())
    }

    fn measure(&mut self, row: &mut Row) -> Result<()> {
        let director = self.directors.of(row.which);
        self.feeder.aim(Target::Director, director)?;
        for run in &mut row.before {
            // Of those that were sent last, the first ones are measured.
            row.measured.feed.counter = run.feed.counter;
            self.feeder.run(&run.frame, &mut run.feed, run.packets)?;
        }
        let before = counted(director, row.verdict.name())?;
        let Run { frame, feed, packets } = &mut row.measured;
        row.rounds.push(self.feeder.run(frame, feed, *packets)?);
        let times = counted(director, row.verdict.name())? - before;
        let name = &row.name;
        ensure!(times == u64::from(*packets), "{name}: {} {times} times for {packets}", row.verdict.name());
        Ok(())
    }
}
