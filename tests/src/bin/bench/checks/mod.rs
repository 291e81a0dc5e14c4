//! What 10,000 health checks a second cost; and what one of each kind does, which is a table of its own.
//!
//! The agent has a CPU of its own, and so has this program with the servers. On a shared machine both go before
//! other sessions; how long the agent's threads waited for their CPU all the same is printed.

mod floor;
mod kinds;
mod measure;
mod world;

use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;
use lb_tests::config::{Config, Service};

use measure::{Measured, Requests};
use world::{PORT, PORTS, World, vip};

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

pub fn checks() -> Result<()> {
    let mut world = World::build(BACKENDS)?;
    let floor = floor::connects(&world, (RATE * 3.0) as u32)?;
    println!("a non-blocking connect and close by a bare loop: {floor:.1} us of CPU\n");
    let mut held = Vec::new();
    for (services, via, what) in [
        (100, "rip", "10,000 tcp checks of 10,000 backends at 1 s, each at its own address"),
        (
            50,
            "both",
            "10,000 tcp checks of 5,000 backends at 1 s, each at its own address and through the VIP",
        ),
    ] {
        println!("{what}");
        held.extend(load(&mut world, services, via, floor)?);
        println!();
    }
    world.finish();
    println!("{:<78}{:>10}", "target", "");
    for (what, holds) in held {
        println!("{what:<78}{:>10}", if holds { "held" } else { "MISSED" });
    }
    Ok(())
}

pub fn kinds() -> Result<()> {
    let mut world = World::build(BACKENDS)?;
    kinds::kinds(&mut world)?;
    world.finish();
    Ok(())
}

fn load(world: &mut World, services: u8, via: &str, floor: f64) -> Result<Vec<(String, bool)>> {
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
    measured.print(floor)?;
    let mut requests = Requests::default();
    let asked = Measured::over(world, || {
        requests = Requests::make(world, ASKED)?;
        Ok(())
    })?;
    requests.print(&asked);
    world.stop()?;
    let late = measured.late_us(0.99);
    Ok(vec![
        (format!("{via}: 10,000 checks a second on one CPU"), measured.rate() > RATE * 0.995),
        (format!("{via}: its threads take less than that CPU"), measured.cpu() < 1.0),
        (format!("{via}: 99 % begin within 10 ms"), late.is_some_and(|late| late <= PROMPT_US)),
        (format!("{via}: no healthy backend fails"), measured.failed() == 0 && measured.down == 0),
    ])
}
