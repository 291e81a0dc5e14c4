//! What a packet costs, against the least that a packet can cost on the machine that this runs on: the same packets to a
//! program that swaps two MAC addresses. It is `cargo xtask bench` in small, and no measurement: it fails when a way has
//! become longer than on any processor that was seen, which nobody meant. In the VM, whose clock counts instructions,
//! `instructions` looks closer.

use lb::{
    model::{FlowSizes, Guard, Limits, Persistence, Scheduler, Scope, Service},
    plan::Desired,
};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};

use crate::world::*;

pub const PACKETS: u32 = 4096;
/// Fits into the caches: how far memory is away is the machine's affair.
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 16, wide: 1 << 12 };
const LIMITS: Limits = Limits { services: 64, destinations: 256, endpoints: 256 };
const LATER: u32 = 100;
/// Ports of further services.
const PERSISTENT: u16 = 3307;
const GUARDED: u16 = 3308;
const LOAD: u16 = 3309;

pub struct Way {
    pub name: &'static str,
    packet: Packet,
    feed: Feed,
    /// Nanoseconds over those of the floor, the wrapper included in both. Wide: half as much again as the most that was
    /// seen, since processors differ: of the first six an AMD EPYC had 1.3, 2.5, 3.7, 3.0, 2.5 and 8.1, an Intel Xeon 1.6, 2.7,
    /// 5.5, 2.8, 2.7 and 13.8, within a twentieth while nine others wanted its two CPUs.
    times: f64,
}

fn way(name: &'static str, packet: Packet, feed: impl FnOnce(&Packet) -> Feed, times: f64) -> Way {
    Way { name, feed: feed(&packet), packet, times }
}

pub const WAYS: usize = 10;

pub fn ways() -> [Way; WAYS] {
    let one = |packet: &Packet| Feed::of(packet, 1);
    let many = |packet: &Packet| Feed::of(packet, 1024);
    // Beyond those that are established.
    let new = |packet: &Packet| Feed::new_flows(packet).from_number(1 << 16);
    let nobody = TCP4.later().with(|p| p.dest.set_ip([172, 18, 14, 222].into()));
    [
        way("not a VIP", nobody, one, 2.4),
        way("IPv4, 1 known flow", TCP4.later(), one, 4.1),
        way("IPv4, 1 k known flows", TCP4.later(), many, 8.3),
        way("IPv6, 1 known flow", TCP6.later(), one, 4.5),
        way("UDP, 1 known flow", UDP4.later(), one, 4.1),
        way("IPv4, new flow", TCP4.open(), new, 20.7),
        way("IPv6, new flow", TCP6.open(), new, 21.4),
        way("IPv4, new flow, wlc over 9", TCP4.open().to_port(LOAD), new, 26.4),
        way("IPv4, new flow of a client with a template", TCP4.open().to_port(PERSISTENT), new, 21.2),
        way("IPv4, SYN flood over the guard", TCP4.open().to_port(GUARDED), new, 17.1),
    ]
}

/// Fewest ns that a packet took, of so many rounds: in some of them nobody else is on the CPU.
pub struct Fewest {
    pub floor: u32,
    pub ways: [u32; WAYS],
}

#[test]
fn no_way_is_longer_than_it_ever_was() {
    let Fewest { floor, ways: fewest } = measure(40);
    none_has_grown(ways().iter().zip(fewest).map(|(Way { name, times, .. }, nanoseconds)| {
        let measured = f64::from(nanoseconds) / f64::from(floor.max(1));
        (format!("{name:<44}{measured:>6.2} x the floor of {floor} ns, at most {times}"), measured > *times)
    }));
}

/// Of each way what was found, and whether that is too much.
#[track_caller]
pub fn none_has_grown(found: impl IntoIterator<Item = (String, bool)>) {
    let mut grown = Vec::new();
    for (line, is_too_much) in found {
        println!("{line}");
        grown.extend(is_too_much.then_some(line));
    }
    let grown = grown.join("\n");
    assert!(grown.is_empty(), "{grown}\nCompare with the build before: `cargo xtask bench --beside lb.o`");
}

pub fn measure(rounds: usize) -> Fewest {
    let mut bench = Bench::new();
    let (mut ways, mut fewest) = (ways(), Fewest { floor: u32::MAX, ways: [u32::MAX; WAYS] });
    for _ in 0..rounds {
        fewest.floor = fewest.floor.min(bench.floor());
        for (way, fewest) in ways.iter_mut().zip(&mut fewest.ways) {
            *fewest = bench.run(way).min(*fewest);
        }
        bench.sweep();
    }
    fewest
}

/// A director with a service for each of [`ways`], and what feeds it.
pub struct Bench {
    pub director: Director,
    pub feeder: Feeder,
}

impl Bench {
    /// Every flow that is to be known is established, and the guard has seen its flood.
    pub fn new() -> Self {
        let want = Desired { services: services(), ..lab() };
        let director = Director::with_limits(SIZES, LIMITS, &want).expect("a director");
        let mut bench = Self { director, feeder: Feeder::new().expect("the maker of packets") };
        bench.feeder.aim(Target::Director, &mut bench.director).expect("aimed");
        for kind in KINDS {
            for packet in [kind.open(), kind.later()] {
                bench.feeder.run(&packet.bytes(), &mut Feed::of(&packet, 1024), 1024).expect("established");
            }
        }
        let flood = TCP4.open().to_port(GUARDED);
        let mut feed = Feed::new_flows(&flood);
        bench.feeder.run(&flood.bytes(), &mut feed, PACKETS).expect("what the guard lets pass at once");
        bench
    }

    /// What the least costs a packet.
    pub fn floor(&mut self) -> u32 {
        let packet = TCP4.later();
        self.feeder.aim(Target::Swap, &mut self.director).expect("aimed");
        self.feeder.run(&packet.bytes(), &mut Feed::of(&packet, 1), PACKETS).expect("it ran")
    }

    /// What a way costs a packet.
    pub fn run(&mut self, way: &mut Way) -> u32 {
        self.feeder.aim(Target::Director, &mut self.director).expect("aimed");
        self.feeder.run(&way.packet.bytes(), &mut way.feed, PACKETS).expect("it ran")
    }

    /// Makes room for the next round's flows.
    pub fn sweep(&mut self) {
        self.director.sweep_in(LATER).expect("swept");
    }
}

fn services() -> Vec<Service> {
    let mut persistent = TCP4.service(PERSISTENT, &[1, 2]);
    persistent.options.persistence =
        Some(Persistence { timeout: 300, granularity: None, scope: Scope::Service });
    let mut guarded = TCP4.service(GUARDED, &[1, 2]);
    guarded.options.guard = Guard::Rate(1);
    let load = TCP4.weighted(LOAD, Scheduler::Wlc, &[1, 2, 3, 4, 5, 6, 7, 8, 9].map(|number| (number, 1)));
    [persistent, guarded, load].into_iter().chain(KINDS.map(|kind| kind.service(PORT, &[1, 2]))).collect()
}
