//! What a new flow costs with each scheduler: those that look at every backend's load grow with their number. A service
//! of one director for each, so that all run the same copy of the program, on the same maps; each round measures every
//! one once.

use anyhow::Result;
use lb::model::{FlowSizes, HashFlags, Limits, Reject, Scheduler, Service};
use lb_common::verdict::Verdict;
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};
use serde::Serialize;

use crate::{
    expected::Expected,
    pace::{Above, Pace},
    report::Report,
    world::{PORT, VIP4, backend, desired, open, service},
};

const BACKENDS: [u16; 3] = [2, 32, 1024];
const ROUNDS: usize = 31;
/// Packets of a measurement. No more than two backends of the greatest weight take with ovf, and so few of all services
/// together that a quarter of the table's buckets get a flow.
const PACKETS: u32 = 8192;
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 10 };
const LIMITS: Limits = Limits { services: 64, destinations: 32768, endpoints: 64 };
/// Beyond the timeout of what a SYN alone opens, 60 s.
const LATER: u32 = 100;
const NO_FLAGS: HashFlags = HashFlags { fallback: false, port: false };
const FALLBACK: HashFlags = HashFlags { fallback: true, port: false };
const SCHEDULERS: [(Scheduler, Case); 17] = [
    (Scheduler::Rr, Case::Usual),
    (Scheduler::Wrr, Case::Usual),
    (Scheduler::Lc, Case::Usual),
    (Scheduler::Wlc, Case::Usual),
    (Scheduler::Sed, Case::Usual),
    (Scheduler::Nq, Case::Usual),
    (Scheduler::Fo, Case::Usual),
    (Scheduler::Ovf, Case::Usual),
    (Scheduler::Sh(NO_FLAGS), Case::Usual),
    (Scheduler::Mh(NO_FLAGS), Case::Usual),
    (Scheduler::Dh, Case::Usual),
    (Scheduler::Lblc, Case::Usual),
    (Scheduler::Lblcr, Case::Usual),
    (Scheduler::Twos, Case::Usual),
    (Scheduler::Wrr, Case::LongPeriod),
    (Scheduler::Sh(FALLBACK), Case::Full),
    (Scheduler::Mh(FALLBACK), Case::Full),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Usual,
    /// Weights whose rotation is too long for a table: it is walked over for each flow.
    LongPeriod,
    /// The backends that one client can come to have as many connections as they may have: it is refused.
    Full,
}

/// A service with the packets to it.
struct Row {
    scheduler: Scheduler,
    case: Case,
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
    scheduler: String,
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
    println!("{:<22}{}", "scheduler", BACKENDS.map(|n| format!("{:>16}", format!("{n} backends"))).concat());
    for line in figures.chunks(BACKENDS.len()) {
        let cells: String = line.iter().map(|figure| format!("{:>16}", figure.above)).collect();
        println!("{:<22}{cells}", line[0].scheduler);
    }
    println!("\n{pace}");
    Ok(Report::new(&pace, figures))
}

fn rows() -> Vec<Row> {
    let all = SCHEDULERS.into_iter().flat_map(|which| BACKENDS.map(|backends| (which, backends)));
    (PORT..).zip(all).map(|(port, (which, backends))| Row::new(port, which, backends)).collect()
}

impl Row {
    fn new(port: u16, (scheduler, case): (Scheduler, Case), backends: u16) -> Self {
        let addresses = (1..=backends).map(|number| backend(VIP4, number));
        let mut service = service(VIP4, port, scheduler, addresses);
        for (number, backend) in (0..).zip(&mut service.backends) {
            match case {
                // It gives no backend more active connections than its weight.
                Case::Usual if scheduler == Scheduler::Ovf => backend.weight = u16::MAX,
                Case::Usual => {}
                Case::LongPeriod => backend.weight = u16::MAX - number,
                Case::Full => backend.upper_threshold = 1,
            }
        }
        if case == Case::Full {
            service.options.reject = Reject::Drop;
        }
        Self { scheduler, case, backends, service, sent: Sent::to(port) }
    }

    fn expected(&self) -> Expected {
        match self.case {
            Case::Usual | Case::LongPeriod => Expected::each(Verdict::ForwardedTx),
            // The first ones fill it up.
            Case::Full => {
                Expected { others: self.backends.into(), ..Expected::each(Verdict::DroppedNoBackend) }
            }
        }
    }

    fn name(&self) -> String {
        let flags = if self.case == Case::Full { "-fallback, full" } else { "" };
        let long = if self.case == Case::LongPeriod { ", long period" } else { "" };
        format!("{}{flags}{long}", self.scheduler.name())
    }

    fn measure(&mut self, feeder: &mut Feeder, director: &Director) -> Result<()> {
        let (expected, name) = (self.expected(), self.name());
        expected.hold(&name, director, PACKETS, || self.sent.measure(feeder))
    }

    fn figure(&self, pace: &Pace, wrapper: &Sent) -> Figure {
        let above = pace.above(&self.sent.rounds, &wrapper.rounds);
        Figure { scheduler: self.name(), backends: self.backends, above }
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
