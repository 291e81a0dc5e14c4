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

const PACKETS: u32 = 4096;
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
    let mut director =
        Director::with_limits(SIZES, LIMITS, &Desired { services: services(), ..lab() }).expect("a director");
    let mut feeder = Feeder::new().expect("the maker of packets");
    let (mut ways, mut fewest) = (ways(), Fewest { floor: u32::MAX, ways: [u32::MAX; WAYS] });
    feeder.aim(Target::Director, &mut director).expect("aimed");
    for kind in KINDS {
        for packet in [kind.open(), kind.later()] {
            feeder.run(&packet.bytes(), &mut Feed::of(&packet, 1024), 1024).expect("established");
        }
    }
    let flood = TCP4.open().to_port(GUARDED);
    feeder
        .run(&flood.bytes(), &mut Feed::new_flows(&flood), PACKETS)
        .expect("what the guard lets pass at once");
    for _ in 0..rounds {
        let packet = TCP4.later();
        feeder.aim(Target::Swap, &mut director).expect("aimed");
        let least = feeder.run(&packet.bytes(), &mut Feed::of(&packet, 1), PACKETS).expect("it ran");
        fewest.floor = fewest.floor.min(least);
        feeder.aim(Target::Director, &mut director).expect("aimed");
        for (Way { packet, feed, .. }, fewest) in ways.iter_mut().zip(&mut fewest.ways) {
            *fewest = feeder.run(&packet.bytes(), feed, PACKETS).expect("it ran").min(*fewest);
        }
        director.sweep_in(LATER).expect("swept");
    }
    fewest
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
