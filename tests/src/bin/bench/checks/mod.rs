//! What 10,000 health checks a second cost; and what one of each kind does, which is a table of its own.
//!
//! The agent has a CPU of its own, and so has this program with the servers. On a shared machine both go before
//! other sessions; how long the agent's threads waited for their CPU all the same is printed.

mod floor;
mod kinds;
mod measure;
mod shown;
mod world;

use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;
use lb_tests::config::{Config, Service};
use serde::Serialize;

pub use self::kinds::Kinds;
use self::{
    measure::{Measured, Requests},
    shown::{Asked, Load},
    world::{PORT, PORTS, World, vip},
};
use crate::{pace::Pace, report::Report};

/// What is asked for.
const RATE: f64 = 10_000.0;
const MEASURED: Duration = Duration::from_secs(30);
/// Before that.
const SETTLED: Duration = Duration::from_secs(5);
const ASKED: Duration = Duration::from_secs(10);
/// Backends of each service.
const BACKENDS: u8 = 100;
/// A check that begins later than this, in microseconds, is late: one of a hundred may be.
const PROMPT_US: u64 = 10_000;

/// What the run showed.
#[derive(Serialize)]
pub struct Checks {
    /// Microseconds of CPU for a non-blocking connect and close.
    bare_loop_us: f64,
    #[serde(flatten)]
    report: Report<Row>,
    targets: Vec<Judged>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    load: Load,
    asked: Asked,
}

#[derive(Serialize)]
struct Judged {
    what: String,
    holds: bool,
}

/// Measures and prints the table and the targets.
pub fn checks() -> Result<Checks> {
    let mut world = World::build(BACKENDS)?;
    let floor = floor::connects(&world, (RATE * 3.0) as u32)?;
    println!("a non-blocking connect and close by a bare loop: {floor:.1} us of CPU\n");
    let (mut rows, mut targets, mut pace) = (Vec::new(), Vec::new(), Pace::default());
    for (services, via, what) in [
        (100, "rip", "10,000 tcp checks of 10,000 backends at 1 s, each at its own address"),
        (
            50,
            "both",
            "10,000 tcp checks of 5,000 backends at 1 s, each at its own address and through the VIP",
        ),
    ] {
        println!("{what}");
        // It begins and ends without an agent.
        let (row, judged) = pace.round(|| load(&mut world, services, via, (what, floor)))?;
        rows.push(row);
        targets.extend(judged);
        println!();
    }
    world.finish();
    println!("{pace}\n\n{:<78}{:>10}", "target", "");
    for Judged { what, holds } in &targets {
        println!("{what:<78}{:>10}", if *holds { "held" } else { "MISSED" });
    }
    Ok(Checks { bare_loop_us: floor, report: Report::new(&pace, rows), targets })
}

/// Measures and prints the other table.
pub fn kinds() -> Result<Kinds> {
    let (mut world, mut pace) = (World::build(BACKENDS)?, Pace::default());
    let (idle, rows) = pace.round(|| kinds::kinds(&mut world))?;
    println!("\n{pace}");
    world.finish();
    Ok(Kinds { idle_of_a_cpu: idle, report: Report::new(&pace, rows) })
}

fn load(
    world: &mut World,
    services: u8,
    via: &str,
    (what, floor): (&'static str, f64),
) -> Result<(Row, [Judged; 4])> {
    let of = |n: u8| Service {
        more: format!("checks: [{{tcp: , interval: 1s, via: {via}}}]"),
        ..Service::tcp(&format!("s{n}"), vip(n), PORT + u16::from(n) % PORTS, world.addresses.iter().copied())
    };
    let vips: Vec<IpAddr> = (0..services).map(vip).collect();
    let config = Config { add_to: None, ..Config::on_eth0("lab", (0..services).map(of).collect()) };
    world.start(&vips, &config)?;
    // Their first attempts come within the warm-up, ten times as many a second.
    thread::sleep(SETTLED);
    let measured = Measured::over(world, || {
        thread::sleep(MEASURED);
        Ok(())
    })?;
    let load = measured.load(what, floor);
    load.print();
    let mut requests = Requests::default();
    let asked = Measured::over(world, || {
        requests = Requests::make(world, ASKED)?;
        Ok(())
    })?;
    let asked = requests.asked(&asked);
    asked.print();
    world.stop()?;
    let targets = judge(via, &measured);
    Ok((Row { load, asked }, targets))
}

fn judge(via: &str, measured: &Measured) -> [Judged; 4] {
    let late = measured.late_us(0.99);
    [
        ("10,000 checks a second on one CPU", measured.rate() > RATE * 0.995),
        ("its threads take less than that CPU", measured.cpu() < 1.0),
        ("99 % begin within 10 ms", late.is_some_and(|late| late <= PROMPT_US)),
        ("no healthy backend fails", measured.failed() == 0 && measured.down == 0),
    ]
    .map(|(what, holds)| Judged { what: format!("{via}: {what}"), holds })
}
