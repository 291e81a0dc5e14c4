//! Packets of other kinds, and directors of other sizes: what else a packet may cost. Measured as in `packets`, with all
//! rows in each round.

mod directors;
mod rows;

use std::iter;

use anyhow::Result;
use lb_tests::feeder::{Feed, Feeder, Target};
use serde::Serialize;

use self::{
    directors::{Directors, Which},
    rows::{rows, wrappers},
};
use crate::{
    expected::Expected,
    pace::{Above, Pace},
    report::{Report, print_above},
};

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
    /// Sent in each round before measuring; what is measured are packets of the same flows.
    before: Vec<Run>,
    /// Of what is measured so many are sent before, too; then the next ones are measured.
    warm_up: u32,
    measured: Run,
    expected: Expected,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

/// Figures of one row.
#[derive(Serialize)]
pub struct Figure {
    name: String,
    #[serde(flatten)]
    above: Above,
}

/// Measures and prints the table.
pub fn cases() -> Result<Report<Figure>> {
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
    // The wrapper has one row for each family.
    let net = |name: &str, run: &Run, rounds: &[u32]| {
        let wrapper = wrappers.iter().find(|(wrapper, _)| wrapper.feed.is_ipv6 == run.feed.is_ipv6);
        let above = pace.above(rounds, wrapper.map_or(&[], |(_, rounds)| rounds));
        Figure { name: name.to_owned(), above }
    };
    let floor = net("bare MAC swap", &swap.0, &swap.1);
    let rows = rows.iter().map(|row| net(&row.name, &row.measured, &row.rounds));
    let figures: Vec<_> = iter::once(floor).chain(rows).collect();
    print_above(ROUNDS, figures.iter().map(|figure| (figure.name.clone(), &figure.above)));
    println!("\n{pace}");
    Ok(Report::new(&pace, figures))
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
        let Run { frame, feed, packets } = &mut row.measured;
        if row.warm_up != 0 {
            self.feeder.run(frame, feed, row.warm_up)?;
        }
        let (packets, send) = (*packets, || self.feeder.run(frame, feed, *packets));
        row.rounds.push(row.expected.hold(&row.name, director, packets, send)?);
        Ok(())
    }
}
