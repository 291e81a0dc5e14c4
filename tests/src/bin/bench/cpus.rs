//! Two CPUs on the same maps: what the second costs the first. Each has flows of its own, as a NIC that spreads flows
//! over its queues hands them out, of one service.

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
    figures, stay_on,
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

/// ns per packet, the wrapper's included: of one CPU alone, and of the slower one of two at once.
#[derive(Serialize)]
pub struct Figure {
    name: &'static str,
    alone: (u32, u32),
    together: (u32, u32),
}

/// A table; an empty one on a machine of one CPU.
pub fn cpus(online: usize) -> Result<Vec<Figure>> {
    let mut figures_of_all = Vec::new();
    if online < 2 {
        println!("two CPUs: this machine has one");
        return Ok(figures_of_all);
    }
    let addresses = [1, 2].map(|number| backend(VIP4, number));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::with_limits(SIZES, LIMITS, &want)?;
    let mut feeders = [Feeder::new()?, Feeder::new()?];
    for feeder in &mut feeders {
        feeder.aim(Target::Director, &mut director)?;
    }
    establish(&mut feeders[0], &open(VIP4), 2 * FLOWS)?;
    println!(
        "{:<40}{:>20}{:>20}",
        format!("ns per packet, {ROUNDS} rounds"),
        "one CPU",
        "each of two at once"
    );
    let known = |flows: u32| {
        // Of the first half the one CPU's, of the second the other's.
        [0, 1].map(|cpu| Feed::of(&open(VIP4), flows).further_up(cpu))
    };
    let new = [0, 1].map(|cpu| Feed::new_flows(&open(VIP4)).from_number(NEW << cpu));
    let rows = [
        ("1 known flow", ACK, known(1)),
        ("64 k known flows", ACK, known(FLOWS)),
        ("new flow, rr, all of one service", SYN, new),
    ];
    for (name, flags, mut feeds) in rows {
        let frame = open(VIP4).flags(flags).bytes();
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if flags == ACK {
                for (feeder, feed) in feeders.iter_mut().zip(&mut feeds) {
                    let flows = u32::try_from(feed.mask + 1)?;
                    feeder.run(&frame, feed, flows)?;
                }
            }
            let [first, second] = &mut feeders;
            let [one, other] = &mut feeds;
            alone.push(first.run(&frame, one, PACKETS)?);
            let both = at_once([(first, one), (second, other)], &frame)?;
            together.push(both[0].max(both[1]));
            director.sweep_in(LATER)?;
        }
        let figure = Figure { name, alone: figures(&alone), together: figures(&together) };
        let pair = |(minimum, median)| format!("{minimum}/{median}");
        println!("{name:<40}{:>20}{:>20}", pair(figure.alone), pair(figure.together));
        figures_of_all.push(figure);
    }
    Ok(figures_of_all)
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
