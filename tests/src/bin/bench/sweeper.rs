//! What the agent's sweeper costs: it goes round once a second.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use lb::{
    dataplane::Sweep,
    model::{FlowSizes, Limits, Persistence, Scheduler, Scope},
};
use lb_common::tcp::flag::{ACK, SYN};
use lb_tests::{
    clock,
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use crate::{
    pace::Pace,
    report::{Report, ms},
    world::{PORT, VIP4, VIP6, backend, desired, open, service},
};

/// What the tables hold, what they are rated for, and live connections in them.
struct Load {
    what: &'static str,
    sizes: FlowSizes,
    flows: u32,
    vip: IpAddr,
    /// Each from a client of its own, that has a template in the wide table.
    persistent: bool,
}

const MILLION: u32 = 1 << 20;
const SMALL: u32 = 1 << 16;
const LOADS: [Load; 5] = [
    of_ipv4(MILLION, MILLION),
    of_ipv4(10_000_000, MILLION),
    of_ipv4(10_000_000, 10_000_000),
    Load {
        what: "IPv6",
        sizes: FlowSizes { ipv4: SMALL, wide: MILLION },
        flows: MILLION,
        vip: VIP6,
        persistent: false,
    },
    Load {
        what: "IPv4, a template each",
        sizes: FlowSizes { ipv4: MILLION, wide: MILLION },
        persistent: true,
        ..of_ipv4(MILLION, MILLION)
    },
];

const fn of_ipv4(rated: u32, flows: u32) -> Load {
    Load {
        what: "IPv4",
        sizes: FlowSizes { ipv4: rated, wide: 1 << 18 },
        flows,
        vip: VIP4,
        persistent: false,
    }
}

const BACKENDS: u16 = 32;
const ROUNDS: usize = 9;
const LIMITS: Limits = Limits { services: 4096, destinations: 16384, endpoints: 16384 };

/// Of one load. Times are of the CPU.
#[derive(Serialize)]
pub struct Figure {
    what: &'static str,
    rated_for: u32,
    flows: u32,
    minimum_ms: f64,
    median_ms: f64,
    /// From one round to the next.
    period_seconds: f64,
    share_of_a_core: f64,
}

/// Measures and prints the table.
pub fn sweeper() -> Result<Report<Figure>> {
    println!("sweeper, established flows of {BACKENDS} backends, {ROUNDS} rounds, CPU time");
    println!("of                      rated for      flows   ms minimum    ms median   s apart   of a core");
    let (mut figures, mut pace) = (Vec::new(), Pace::default());
    for load in &LOADS {
        let mut rounds = Pace::default();
        let times = times(load, &mut rounds)?;
        let figure = Figure::of(load, rounds.figures(&times));
        println!(
            "{:<22}{:>11}{:>11}{:>13.1}{:>13.1}{:>10.2}{:>10.1} %",
            figure.what,
            figure.rated_for,
            figure.flows,
            figure.minimum_ms,
            figure.median_ms,
            figure.period_seconds,
            100.0 * figure.share_of_a_core
        );
        figures.push(figure);
        pace.append(rounds);
    }
    println!("\n{pace}");
    Ok(Report::new(&pace, figures))
}

impl Figure {
    fn of(load: &Load, (minimum, median): (Duration, Duration)) -> Self {
        let period = Sweep::period(median).as_secs_f64();
        Self {
            what: load.what,
            rated_for: load.sizes.ipv4.max(load.sizes.wide),
            flows: load.flows,
            minimum_ms: ms(minimum),
            median_ms: ms(median),
            period_seconds: period,
            share_of_a_core: median.as_secs_f64() / period,
        }
    }
}

/// Of each round.
fn times(&Load { sizes, flows, vip, persistent, .. }: &Load, pace: &mut Pace) -> Result<Vec<Duration>> {
    let addresses = (1..=BACKENDS).map(|number| backend(vip, number));
    let mut served = service(vip, PORT, Scheduler::Rr, addresses);
    if persistent {
        served.options.persistence =
            Some(Persistence { timeout: 3600, granularity: None, scope: Scope::Service });
    }
    let mut director = Director::with_limits(sizes, LIMITS, &desired(vec![served]))?;
    let mut feeder = Feeder::new()?;
    feeder.aim(Target::Director, &mut director)?;
    for flags in [SYN, ACK] {
        let packet = open(vip);
        let mut feed = if persistent { Feed::new_clients(&packet) } else { Feed::new_flows(&packet) };
        feeder.run(&packet.flags(flags).bytes(), &mut feed, flows)?;
    }
    let mut last = Sweep::default();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(pace.round(|| {
            let (now, start) = (director.clock.now(), clock::cpu()?);
            last = director.maps().sweep(now, &last);
            Ok(clock::cpu()? - start)
        })?);
        let (live, wanted) =
            (last.narrow_live + last.wide_live, u64::from(flows) * (1 + u64::from(persistent)));
        ensure!(live >= wanted * 999 / 1000, "{live} of {wanted} flows and templates live");
    }
    Ok(times)
}
