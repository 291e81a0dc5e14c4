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

use crate::{
    figures,
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

/// A table of CPU times and shares of a core.
pub fn sweeper() -> Result<()> {
    println!("sweeper, established flows of {BACKENDS} backends, {ROUNDS} rounds, CPU time");
    println!("of                      rated for      flows   ms minimum    ms median   s apart   of a core");
    for load in &LOADS {
        let rounds = rounds(load)?;
        let (minimum, median) = figures(&rounds);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let period = Sweep::period(median).as_secs_f64();
        let share = 100.0 * median.as_secs_f64() / period;
        println!(
            "{:<22}{:>11}{:>11}{:>13.1}{:>13.1}{period:>10.2}{share:>10.1} %",
            load.what,
            load.sizes.ipv4.max(load.sizes.wide),
            load.flows,
            ms(minimum),
            ms(median)
        );
    }
    Ok(())
}

fn rounds(&Load { sizes, flows, vip, persistent, .. }: &Load) -> Result<Vec<Duration>> {
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
        let (now, start) = (director.clock.now(), clock::cpu()?);
        last = director.maps().sweep(now, &last);
        times.push(clock::cpu()? - start);
        let (live, wanted) =
            (last.narrow_live + last.wide_live, u64::from(flows) * (1 + u64::from(persistent)));
        ensure!(live >= wanted * 999 / 1000, "{live} of {wanted} flows and templates live");
    }
    Ok(times)
}
