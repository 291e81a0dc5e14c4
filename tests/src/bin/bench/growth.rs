//! What a move of all flows to tables of twice the size costs the agent, and the packets meanwhile.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, Limits, Scheduler};
use lb_tests::{
    clock,
    feeder::{Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use crate::{
    pace::Pace,
    report::{Report, ms},
    world::{PORT, VIP4, backend, desired, establish, open, service},
};

/// Established flows, in a table that is rated for as many.
const FLOWS: [u32; 2] = [1 << 20, 10_000_000];
const WIDE: u32 = 1 << 10;
const LIMITS: Limits = Limits { services: 4096, destinations: 16384, endpoints: 16384 };
const BACKENDS: u16 = 32;
/// Rounds of the sweeper that a move may take while no packet comes.
const ROUNDS: u32 = 3;

/// Of so many flows.
#[derive(Serialize)]
pub struct Figure {
    flows: u32,
    /// To make the tables, and load the program.
    begin_ms: f64,
    /// Of the CPU.
    move_ms: f64,
    end_ms: f64,
}

/// Measures and prints the table.
pub fn growth() -> Result<Report<Figure>> {
    println!("flow tables of twice the size, established flows of {BACKENDS} backends");
    println!("     flows  ms to begin (new tables, program)   ms of CPU to move them all   ms to end");
    let (mut figures, mut pace) = (Vec::new(), Pace::default());
    for flows in FLOWS {
        let figure = pace.round(|| measure(flows))?;
        let Figure { begin_ms, move_ms, end_ms, .. } = figure;
        println!("{flows:>10}{begin_ms:>36.0}{move_ms:>29.0}{end_ms:>12.0}");
        figures.push(figure);
    }
    println!("\n{pace}");
    Ok(Report::new(&pace, figures))
}

fn measure(flows: u32) -> Result<Figure> {
    let sizes = FlowSizes { ipv4: flows, wide: WIDE };
    let addresses = (1..=BACKENDS).map(|number| backend(VIP4, number));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::with_limits(sizes, LIMITS, &want)?;
    let mut feeder = Feeder::new()?;
    feeder.aim(Target::Director, &mut director)?;
    establish(&mut feeder, &open(VIP4), flows)?;
    let live = director.flows().len() as u64;
    ensure!(live >= u64::from(flows) * 999 / 1000, "{live} of {flows} flows live");
    let start = clock::now();
    director.begin_resize(FlowSizes { ipv4: 2 * flows, ..sizes })?;
    let began = start.elapsed();
    let start = clock::cpu()?;
    let mut done = 0;
    for _ in 0..ROUNDS {
        let round = director.move_flows();
        done += round.moved;
        if round.left == 0 {
            break;
        }
    }
    let moved = clock::cpu()? - start;
    ensure!(done == live, "{done} of {live} flows moved");
    let start = clock::now();
    director.end_resize()?;
    let ended = start.elapsed();
    ensure!(director.flows().len() as u64 == live, "{} of {live} flows at the end", director.flows().len());
    Ok(Figure { flows, begin_ms: ms(began), move_ms: ms(moved), end_ms: ms(ended) })
}
