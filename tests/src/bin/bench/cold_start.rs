//! From empty maps to 4,096 services of 16 backends, as a started agent does it.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb::{
    model::{FlowSizes, Limits, Scheduler, Service},
    plan::{Desired, plan},
};
use lb_tests::{clock, xdp::Director};
use serde::Serialize;

use crate::{
    pace::Pace,
    report::{Report, ms},
    world::{VIP4, backend, desired, service},
};

const SERVICES: u16 = 4096;
const BACKENDS: u16 = 16;
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 18 };
const LIMITS: Limits = Limits { services: SERVICES as u32, destinations: 1 << 18, endpoints: 16384 };
const SCHEDULERS: [Scheduler; 4] = [Scheduler::Wlc, Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc];

#[derive(Serialize)]
pub struct Step {
    what: String,
    ms: f64,
}

/// Measures and prints the table.
pub fn cold_start() -> Result<Report<Step>> {
    println!("cold start, {SERVICES} services of {BACKENDS} backends");
    let mut pace = Pace::default();
    let steps = pace.round(steps)?;
    println!("\n{pace}");
    Ok(Report::new(&pace, steps))
}

fn steps() -> Result<Vec<Step>> {
    let mut steps = Steps { since: clock::now(), total: Duration::ZERO, all: Vec::new() };
    let mut director = Director::with_limits(SIZES, LIMITS, &desired(Vec::new()))?;
    steps.end("maps, program verified", false);
    let want = Desired { hz: director.meta().hz, ..desired(services()) };
    steps.end("(what is wanted)", false);
    let empty = director.maps().snapshot()?;
    steps.end("reading the empty maps", true);
    let ops = plan(&want, &empty)?;
    steps.end("plan", true);
    director.maps_mut().apply(&ops)?;
    steps.end(&format!("apply, {} operations", ops.len()), true);
    steps.line("reading, plan and apply", steps.total);
    let full = director.maps().snapshot()?;
    steps.end("reading the full maps", false);
    let again = plan(&want, &full)?;
    steps.end("plan, nothing to do", false);
    ensure!(again.is_empty(), "planning again after applying gave {} operations", again.len());
    ensure!(full.dests.len() == usize::from(SERVICES) * usize::from(BACKENDS), "{}", full.dests.len());
    Ok(steps.all)
}

struct Steps {
    since: Instant,
    total: Duration,
    all: Vec<Step>,
}

impl Steps {
    fn end(&mut self, what: &str, counts: bool) {
        let time = self.since.elapsed();
        if counts {
            self.total += time;
        }
        self.line(what, time);
        self.since = clock::now();
    }

    fn line(&mut self, what: &str, time: Duration) {
        println!("{what:<38}{:>8.0} ms", ms(time));
        self.all.push(Step { what: what.to_owned(), ms: ms(time) });
    }
}

/// Eight on each VIP, on backends that several services share.
fn services() -> Vec<Service> {
    let one = |n: u16| {
        let [high, low] = (n / 8).to_be_bytes();
        let vip = IpAddr::V4(Ipv4Addr::new(172, 18, high, low));
        let addresses = (0..BACKENDS).map(|i| backend(VIP4, 1 + (n * 7 + i) % 4096));
        service(vip, 1000 + n, SCHEDULERS[usize::from(n) % SCHEDULERS.len()], addresses)
    };
    (0..SERVICES).map(one).collect()
}
