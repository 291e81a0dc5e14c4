//! Two CPUs on the same maps: what the second costs the first. Each has flows of its own, as a NIC that spreads flows
//! over its queues hands them out, of one service. Each round measures every row once.

use std::{sync::Barrier, thread};

use anyhow::{Context, Result, anyhow};
use lb::model::{FlowSizes, Limits, Scheduler};
use lb_common::tcp::flag::{ACK, SYN};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use crate::{
    pace::{Above, Pace},
    report::Report,
    stay_on,
    world::{PORT, VIP4, backend, desired, establish, open, service},
};

const ROUNDS: usize = 31;
/// Packets of a measurement, of each CPU.
const PACKETS: u32 = 16384;
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 10 };
const LIMITS: Limits = Limits { services: 64, destinations: 256, endpoints: 256 };
const FLOWS: u32 = 1 << 16;
const LATER: u32 = 100;
/// Beyond all that are established: 2^24 for each CPU.
const NEW: u64 = 1 << 22;

struct Row {
    name: &'static str,
    target: Target,
    flags: u8,
    /// One CPU's, and the other's.
    feeds: [Feed; 2],
    /// ns per packet of each round, the wrapper's cost included.
    alone: Vec<u32>,
    together: Vec<u32>,
}

/// Of one CPU alone, and of the slower one of two at once; the wrapper's cost of the same kind is taken off.
#[derive(Serialize)]
pub struct Figure {
    name: &'static str,
    alone: Above,
    together: Above,
}

/// Measures and prints the table; none on a machine of one CPU.
pub fn cpus(online: usize) -> Result<Option<Report<Figure>>> {
    if online < 2 {
        println!("two CPUs: this machine has one");
        return Ok(None);
    }
    let addresses = [1, 2].map(|number| backend(VIP4, number));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::with_limits(SIZES, LIMITS, &want)?;
    let mut feeders = [Feeder::new()?, Feeder::new()?];
    feeders[0].aim(Target::Director, &mut director)?;
    establish(&mut feeders[0], &open(VIP4), 2 * FLOWS)?;
    let (mut rows, mut pace) = (rows(), Pace::default());
    for _ in 0..ROUNDS {
        pace.round(|| rows.iter_mut().try_for_each(|row| row.measure(&mut feeders, &mut director)))?;
        // Each round finds as many flows as the first.
        director.sweep_in(LATER)?;
    }
    let Some((wrapper, rows)) = rows.split_first() else { return Ok(None) };
    let figures: Vec<_> = rows.iter().map(|row| row.figure(&pace, wrapper)).collect();
    let head = format!("ns per packet, {ROUNDS} rounds, minimum/median");
    println!("{head:<46}{:>20}{:>20}", "one CPU", "each of two at once");
    for Figure { name, alone, together } in &figures {
        println!("{name:<46}{alone:>20}{together:>20}");
    }
    println!("\n{pace}");
    Ok(Some(Report::new(&pace, figures)))
}

/// The wrapper is the first.
fn rows() -> [Row; 4] {
    let row =
        |name, target, flags, feeds| Row { name, target, flags, feeds, alone: vec![], together: vec![] };
    let known = |flows: u32| {
        // Of the first half the one CPU's, of the second the other's.
        [0, 1].map(|cpu| Feed::of(&open(VIP4), flows).further_up(cpu))
    };
    let new = [0, 1].map(|cpu| Feed::new_flows(&open(VIP4)).from_number(NEW << cpu));
    [
        row("wrapper", Target::Nothing, ACK, known(1)),
        row("1 known flow", Target::Director, ACK, known(1)),
        row("64 k known flows", Target::Director, ACK, known(FLOWS)),
        row("new flow, rr, all of one service", Target::Director, SYN, new),
    ]
}

impl Row {
    fn measure(&mut self, feeders: &mut [Feeder; 2], director: &mut Director) -> Result<()> {
        let frame = open(VIP4).flags(self.flags).bytes();
        for (feeder, feed) in feeders.iter_mut().zip(&mut self.feeds) {
            feeder.aim(self.target, director)?;
            if self.flags == ACK {
                let flows = u32::try_from(feed.mask + 1)?;
                feeder.run(&frame, feed, flows)?;
            }
        }
        let ([first, second], [one, other]) = (feeders, &mut self.feeds);
        self.alone.push(first.run(&frame, one, PACKETS)?);
        let both = at_once([(first, one), (second, other)], &frame)?;
        self.together.push(both[0].max(both[1]));
        Ok(())
    }

    fn figure(&self, pace: &Pace, wrapper: &Self) -> Figure {
        Figure {
            name: self.name,
            alone: pace.above(&self.alone, &wrapper.alone),
            together: pace.above(&self.together, &wrapper.together),
        }
    }
}

/// Each on a CPU of its own, beginning together.
fn at_once(parts: [(&mut Feeder, &mut Feed); 2], frame: &[u8]) -> Result<[u32; 2]> {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let runs: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(cpu, (feeder, feed))| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<u32> {
                    stay_on(cpu..cpu + 1)?;
                    barrier.wait();
                    feeder.run(frame, feed, PACKETS)
                })
            })
            .collect();
        let mut times = [0; 2];
        for (time, run) in times.iter_mut().zip(runs) {
            *time = run.join().map_err(|_| anyhow!("a thread panicked")).context("on two CPUs")??;
        }
        Ok(times)
    })
}
