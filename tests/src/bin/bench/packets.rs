//! What the director's program costs per packet, measured by the kernel (BPF_PROG_TEST_RUN) beside a bare MAC swap.
//!
//! A program of lb-ebpf/src/bench.rs makes the packets and calls the one under test; what it costs itself is measured
//! in the same rounds and taken off.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, Scheduler};
use lb_common::{
    tcp::flag::{ACK, SYN},
    verdict::Verdict,
};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};

use crate::{
    figures,
    world::{PORT, VIP4, VIP6, backend, counted, desired, open, service},
};

const ROUNDS: usize = 31;
/// Packets of a measurement.
const PACKETS: u32 = 16384;
/// Rated for twice as many flows as there are.
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 18 };
const FLOWS4: u32 = 1 << 19;
const FLOWS6: u32 = 1 << 16;

/// One line of the table.
struct Scenario {
    name: &'static str,
    target: Target,
    frame: Vec<u8>,
    feed: Feed,
    /// Packets to send before measuring, one of each flow, so that every expiry is fresh (writing one is a cost of
    /// slow flows, twice a second at most) and the cache holds what it would.
    warm_up: u32,
    /// Counted for each packet of the director's.
    verdict: Option<Verdict>,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

/// A table of ns per packet.
pub fn packets() -> Result<()> {
    let services = [VIP4, VIP6].map(|vip| service(vip, PORT, Scheduler::Rr, [1, 2].map(|n| backend(vip, n))));
    let director = Director::new(SIZES, &desired(services.to_vec()))?;
    let mut bench = Bench { director, feeder: Feeder::new()? };
    let mut scenarios = scenarios();
    bench.establish(&open(VIP4), FLOWS4)?;
    bench.establish(&open(VIP6), FLOWS6)?;
    let stored = bench.director.flows().len();
    let opened = (FLOWS4 + FLOWS6) as usize;
    ensure!(stored == opened, "{stored} of {opened} flows are in the tables");
    for _ in 0..ROUNDS {
        for scenario in &mut scenarios {
            bench.measure(scenario)?;
        }
    }
    print(&scenarios);
    println!("\n{} instructions verified", bench.director.verified_instructions()?);
    Ok(())
}

fn print(scenarios: &[Scenario]) {
    println!("ns per packet, {ROUNDS} rounds          minimum   median");
    for scenario in scenarios.iter().filter(|scenario| scenario.target != Target::Nothing) {
        let wrapper = scenarios
            .iter()
            .find(|other| other.target == Target::Nothing && other.feed.is_ipv6 == scenario.feed.is_ipv6);
        let (minimum, median) = figures(&scenario.rounds);
        let (without, median_without) = wrapper.map_or((0, 0), |wrapper| figures(&wrapper.rounds));
        let net = |all: u32, wrapper: u32| i64::from(all) - i64::from(wrapper);
        println!("{:<34}{:>9}{:>9}", scenario.name, net(minimum, without), net(median, median_without));
    }
}

fn scenarios() -> Vec<Scenario> {
    let (ack4, ack6) = (open(VIP4).flags(ACK), open(VIP6).flags(ACK));
    let other = ack4.with(|p| p.dest.set_ip([172, 18, 14, 200].into()));
    let tx = Some(Verdict::ForwardedTx);
    let line = |name, target, packet: &Packet, flows: u32, verdict| Scenario {
        name,
        target,
        frame: packet.bytes(),
        feed: Feed::of(packet, flows),
        warm_up: flows,
        verdict,
        rounds: Vec::new(),
    };
    // Beyond all that are established, and none twice.
    let mut new = line("IPv4, new flow", Target::Director, &open(VIP4), 1, tx);
    (new.feed.counter, new.feed.mask, new.warm_up) = (u64::from(FLOWS4), u64::MAX, 0);
    vec![
        line("wrapper, IPv4", Target::Nothing, &ack4, 1, None),
        line("wrapper, IPv6", Target::Nothing, &ack6, 1, None),
        line("bare MAC swap", Target::Swap, &ack4, 1, None),
        line("not a VIP", Target::Director, &other, 1, Some(Verdict::PassedNoService)),
        line("IPv4, 1 known flow", Target::Director, &ack4, 1, tx),
        line("IPv4, 1 k known flows", Target::Director, &ack4, 1 << 10, tx),
        line("IPv4, 64 k known flows", Target::Director, &ack4, 1 << 16, tx),
        line("IPv4, 512 k known flows", Target::Director, &ack4, FLOWS4, tx),
        new,
        line("IPv6, 1 known flow", Target::Director, &ack6, 1, tx),
        line("IPv6, 64 k known flows", Target::Director, &ack6, FLOWS6, tx),
    ]
}

struct Bench {
    director: Director,
    feeder: Feeder,
}

impl Bench {
    /// Opens flows and completes their handshake.
    fn establish(&mut self, open: &Packet, flows: u32) -> Result<()> {
        self.feeder.aim(Target::Director, &mut self.director)?;
        for flags in [SYN, ACK] {
            self.feeder.run(&open.flags(flags).bytes(), &mut Feed::of(open, flows), flows)?;
        }
        Ok(())
    }

    fn measure(&mut self, scenario: &mut Scenario) -> Result<()> {
        self.feeder.aim(scenario.target, &mut self.director)?;
        if scenario.warm_up != 0 {
            self.feeder.run(&scenario.frame, &mut scenario.feed, scenario.warm_up)?;
        }
        let before = self.counted(scenario.verdict)?;
        let nanoseconds = self.feeder.run(&scenario.frame, &mut scenario.feed, PACKETS)?;
        if scenario.verdict.is_some() {
            let counted = self.counted(scenario.verdict)? - before;
            ensure!(
                counted == u64::from(PACKETS),
                "{}: counted {counted} times for {PACKETS}",
                scenario.name
            );
        }
        scenario.rounds.push(nanoseconds);
        Ok(())
    }

    fn counted(&self, verdict: Option<Verdict>) -> Result<u64> {
        verdict.map_or(Ok(0), |verdict| counted(&self.director, verdict.name()))
    }
}
