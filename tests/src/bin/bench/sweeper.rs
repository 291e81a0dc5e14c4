//! What the agent's sweeper costs: it goes round once a second.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb::{
    dataplane::Sweep,
    model::{FlowSizes, Limits, Scheduler},
};
use lb_common::tcp::flag::{ACK, SYN};
use lb_tests::{
    clock,
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};

use crate::{
    figures,
    world::{PORT, VIP4, backend, desired, open, service},
};

/// What a table is rated for, and live flows in it.
const TABLES: [(u32, u32); 3] = [(1 << 20, 1 << 20), (10_000_000, 1 << 20), (10_000_000, 10_000_000)];
const BACKENDS: u16 = 32;
const ROUNDS: usize = 9;
const LIMITS: Limits = Limits { services: 4096, destinations: 16384, endpoints: 16384 };

/// A table of CPU times and shares of a core.
pub fn sweeper() -> Result<()> {
    println!("sweeper, established flows of {BACKENDS} backends, {ROUNDS} rounds, CPU time");
    println!(" rated for      flows   ms minimum    ms median   s apart   of a core");
    for (rated, flows) in TABLES {
        let rounds = rounds(rated, flows)?;
        let (minimum, median) = figures(&rounds);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let period = Sweep::period(median).as_secs_f64();
        let share = 100.0 * median.as_secs_f64() / period;
        println!(
            "{rated:>10}{flows:>11}{:>13.1}{:>13.1}{period:>10.2}{share:>10.1} %",
            ms(minimum),
            ms(median)
        );
    }
    Ok(())
}

fn rounds(rated: u32, flows: u32) -> Result<Vec<Duration>> {
    let addresses = (1..=BACKENDS).map(|number| backend(VIP4, number));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::with_limits(FlowSizes { ipv4: rated, wide: 1 << 18 }, LIMITS, &want)?;
    let mut feeder = Feeder::new()?;
    feeder.aim(Target::Director, &mut director)?;
    for flags in [SYN, ACK] {
        feeder.run(&open(VIP4).flags(flags).bytes(), &mut Feed::new_flows(&open(VIP4)), flows)?;
    }
    let mut last = Sweep::default();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let (now, start) = (director.clock.now(), clock::cpu()?);
        last = director.maps().sweep(now, &last);
        times.push(clock::cpu()? - start);
        let live = last.narrow_live;
        ensure!(live >= u64::from(flows) * 999 / 1000, "{live} of {flows} flows live");
    }
    Ok(times)
}
