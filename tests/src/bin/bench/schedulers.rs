//! What a new flow costs with each scheduler: those that look at every backend's load grow with their number.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, HashFlags, Limits, Scheduler};
use lb_common::verdict::Verdict;
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};

use crate::{
    figures,
    world::{PORT, VIP4, backend, counted, desired, open, service},
};

const BACKENDS: [u16; 3] = [2, 32, 1024];
/// No more than two backends of the greatest weight take all packets of with ovf.
const ROUNDS: usize = 7;
/// Packets of a measurement.
const PACKETS: u32 = 16384;
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 10 };
const LIMITS: Limits = Limits { services: 16, destinations: 4096, endpoints: 64 };
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

/// A table of ns per new flow of IPv4, the wrapper's cost taken off.
pub fn schedulers() -> Result<()> {
    let mut director = Director::with_limits(SIZES, LIMITS, &desired(Vec::new()))?;
    let mut feeder = Feeder::new()?;
    let (packet, mut feed) = (open(VIP4), Feed::new_flows(&open(VIP4)));
    let wrapper: Vec<u32> = {
        feeder.aim(Target::Nothing, &mut director)?;
        (0..ROUNDS).map(|_| feeder.run(&packet.bytes(), &mut feed, PACKETS)).collect::<Result<_>>()?
    };
    feeder.aim(Target::Director, &mut director)?;
    println!("ns per new flow, median of {ROUNDS}");
    println!("scheduler{}", BACKENDS.map(|n| format!("{:>16}", format!("{n} backends"))).concat());
    for scheduler in SCHEDULERS {
        let mut line = format!("{:<9}", scheduler.name());
        for backends in BACKENDS {
            let addresses = (1..=backends).map(|number| backend(VIP4, number));
            let mut service = service(VIP4, PORT, scheduler, addresses);
            if scheduler == Scheduler::Ovf {
                // It gives no backend more active connections than its weight.
                service.backends.iter_mut().for_each(|backend| backend.weight = u16::MAX);
            }
            director.configure(&desired(vec![service]))?;
            let before = counted(&director, Verdict::ForwardedTx.name())?;
            let rounds: Vec<u32> = (0..ROUNDS)
                .map(|_| feeder.run(&packet.bytes(), &mut feed, PACKETS))
                .collect::<Result<_>>()?;
            let forwarded = counted(&director, Verdict::ForwardedTx.name())? - before;
            let sent = ROUNDS as u64 * u64::from(PACKETS);
            ensure!(forwarded == sent, "{scheduler}: {forwarded} of {sent} were forwarded");
            let net = i64::from(figures(&rounds).1) - i64::from(figures(&wrapper).1);
            line += &format!("{net:>16}");
            director.configure(&desired(Vec::new()))?;
            for _ in 0..2 {
                director.sweep_in(LATER)?;
            }
        }
        println!("{line}");
    }
    Ok(())
}
