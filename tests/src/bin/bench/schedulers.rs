//! What a new flow costs with each scheduler: those that look at every backend's load grow with their number. A service
//! of one director for each, so that all run the same copy of the program, on the same maps; each round measures every
//! one once.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, HashFlags, Limits, Scheduler, Service};
use lb_common::verdict::Verdict;
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};
use serde::Serialize;

use crate::{
    pace::{Above, Pace},
    report::Report,
    world::{PORT, VIP4, backend, counted, desired, open, service},
};

const BACKENDS: [u16; 3] = [2, 32, 1024];
const ROUNDS: usize = 31;
/// Packets of a measurement. No more than two backends of the greatest weight take with ovf, and so few of all services
/// together that a quarter of the table's buckets get a flow.
const PACKETS: u32 = 8192;
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 10 };
const LIMITS: Limits = Limits { services: 64, destinations: 16384, endpoints: 64 };
/// Beyond the timeout of what a SYN alone opens, 60 s.
const LATER: u32 = 100;
const NO_FLAGS: HashFlags = HashFlags { fallback: false, port: false };
const SCHEDULERS: [Scheduler; 14] = [
    Scheduler::Rr,
    Scheduler::Wrr,
    Scheduler::Lc,
    Scheduler::Wlc,
    Scheduler::Sed,
    Scheduler::Nq,
    Scheduler::Fo,
    Scheduler::Ovf,
    Scheduler::Sh(NO_FLAGS),
    Scheduler::Mh(NO_FLAGS),
    Scheduler::Dh,
    Scheduler::Lblc,
    Scheduler::Lblcr,
    Scheduler::Twos,
];

/// A service with the packets to it.
struct Row {
    scheduler: Scheduler,
    backends: u16,
    service: Service,
    sent: Sent,
}

struct Sent {
    packet: Packet,
    feed: Feed,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

/// ns per new flow of IPv4.
#[derive(Serialize)]
pub struct Figure {
    scheduler: &'static str,
    backends: u16,
    #[serde(flatten)]
    above: Above,
}

/// Measures and prints the table.
pub fn schedulers() -> Result<Report<Figure>> {
    let (mut rows, mut wrapper) = (rows(), Sent::to(PORT));
    let services = rows.iter().map(|row| row.service.clone()).collect();
    let mut director = Director::with_limits(SIZES, LIMITS, &desired(services))?;
    let (mut feeder, mut pace) = (Feeder::new()?, Pace::default());
    for _ in 0..ROUNDS {
        pace.round(|| {
            feeder.aim(Target::Nothing, &mut director)?;
            wrapper.measure(&mut feeder)?;
            feeder.aim(Target::Director, &mut director)?;
            rows.iter_mut().try_for_each(|row| row.measure(&mut feeder, &director))
        })?;
        // Each round finds an empty table, and idle backends.
        director.sweep_in(LATER)?;
    }
    let figures: Vec<_> = rows.iter().map(|row| row.figure(&pace, &wrapper)).collect();
    println!("ns per new flow, {ROUNDS} rounds, minimum/median");
    println!("scheduler{}", BACKENDS.map(|n| format!("{:>16}", format!("{n} backends"))).concat());
    for line in figures.chunks(BACKENDS.len()) {
        let cells: String = line.iter().map(|figure| format!("{:>16}", figure.above)).collect();
        println!("{:<9}{cells}", line[0].scheduler);
    }
    println!("\n{pace}");
    Ok(Report::new(&pace, figures))
}

fn rows() -> Vec<Row> {
    let all = SCHEDULERS.into_iter().flat_map(|scheduler| BACKENDS.map(|backends| (scheduler, backends)));
    (PORT..).zip(all).map(|(port, (scheduler, backends))| Row::new(port, scheduler, backends)).collect()
}

impl Row {
    fn new(port: u16, scheduler: Scheduler, backends: u16) -> Self {
        let addresses = (1..=backends).map(|number| backend(VIP4, number));
        let mut service = service(VIP4, port, scheduler, addresses);
        if scheduler == Scheduler::Ovf {
            // It gives no backend more active connections than its weight.
            service.backends.iter_mut().for_each(|backend| backend.weight = u16::MAX);
        }
        Self { scheduler, backends, service, sent: Sent::to(port) }
    }

    fn measure(&mut self, feeder: &mut Feeder, director: &Director) -> Result<()> {
        let before = counted(director, Verdict::ForwardedTx.name())?;
        self.sent.measure(feeder)?;
        let forwarded = counted(director, Verdict::ForwardedTx.name())? - before;
        let name = self.scheduler;
        ensure!(forwarded == u64::from(PACKETS), "{name}: {forwarded} of {PACKETS} were forwarded");
        Ok(())
    }

    fn figure(&self, pace: &Pace, wrapper: &Sent) -> Figure {
        let above = pace.above(&self.sent.rounds, &wrapper.rounds);
        Figure { scheduler: self.scheduler.name(), backends: self.backends, above }
    }
}

impl Sent {
    fn to(port: u16) -> Self {
        let packet = open(VIP4).to_port(port);
        Self { feed: Feed::new_flows(&packet), packet, rounds: Vec::new() }
    }

    fn measure(&mut self, feeder: &mut Feeder) -> Result<()> {
        self.rounds.push(feeder.run(&self.packet.bytes(), &mut self.feed, PACKETS)?);
        Ok(())
    }
}
