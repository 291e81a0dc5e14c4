//! Two CPUs and the agent at once on a table of few buckets: nothing is lost, left locked or counted wrongly.
//! `lb-common/tests/slots` tries every interleaving of a model; this is the compiled program on the kernel's maps.

use std::{collections::BTreeMap, thread};

use lb::{dataplane::Sweep, model::FlowSizes, plan::Desired};
use lb_common::tcp::flag::*;
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::world::*;

/// 64 buckets of four slots.
const SMALL: FlowSizes = FlowSizes { ipv4: 64, wide: 64 };
/// Twice as many as there are slots, each CPU all of them.
const FLOWS: u32 = 512;
const ROUNDS: u32 = 60;
/// A life in the order of its packets, from a begin to an end that lets the next one begin.
const LIFE: [u8; 5] = [SYN, ACK, SYN, FIN | ACK, RST];
const ESTABLISHED: std::ops::Range<u16> = 100..120;

#[test]
fn two_cpus_and_the_sweeper_on_few_buckets() {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).expect("CPUs");
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).take(2).collect();
    for kind in [TCP4, TCP6] {
        let want = Desired { services: vec![kind.service(PORT, &[1, 2, 3])], ..lab() };
        let mut director = Director::new(SMALL, &want).expect("a director");
        let established: BTreeMap<u16, u8> = ESTABLISHED
            .map(|port| {
                let backend = send(&mut director, &kind.open().from_port(port)).expect("forwarded");
                assert_eq!(send(&mut director, &kind.later().from_port(port)), Ok(backend));
                (port, backend)
            })
            .collect();
        let mut feeders: Vec<Feeder> = cpus
            .iter()
            .map(|_| {
                let mut feeder = Feeder::new().expect("a feeder");
                feeder.aim(Target::Director, &mut director).expect("aimed");
                feeder
            })
            .collect();
        let sweeps = thread::scope(|scope| {
            let threads: Vec<_> = cpus
                .iter()
                .zip(&mut feeders)
                .map(|(cpu, feeder)| scope.spawn(move || storm(kind, *cpu, feeder)))
                .collect();
            let mut sweeps = 0;
            while threads.iter().any(|thread| !thread.is_finished()) {
                // Without the round before it heals nothing.
                director.maps().sweep(director.clock.now(), &Sweep::default());
                sweeps += 1;
            }
            threads.into_iter().for_each(|thread| thread.join().expect("fed"));
            sweeps
        });
        let packets = cpus.len() * (ROUNDS * FLOWS) as usize * LIFE.len();
        println!("{}: {packets} packets on {} CPUs beside {sweeps} sweeps", kind.name, cpus.len());
        assert!(sweeps > 0, "nobody swept");
        counts_are_those_of_the_slots(&director, kind);
        for (port, backend) in established {
            assert_eq!(
                send(&mut director, &kind.later().from_port(port)),
                Ok(backend),
                "{} {port}",
                kind.name
            );
        }
    }
}

/// Every client's packets again and again, on one CPU.
fn storm(kind: Kind, cpu: usize, feeder: &mut Feeder) {
    let mut one = CpuSet::new();
    one.set(cpu).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &one).expect("pinned");
    for round in 0..ROUNDS {
        // The other CPU's packets of the same flows are others at the same time.
        for step in 0..LIFE.len() {
            let flags = LIFE[(step + cpu + round as usize) % LIFE.len()];
            let packet = kind.open().flags(flags);
            let mut feed = Feed::of(&packet, FLOWS);
            feeder.run(&packet.bytes(), &mut feed, FLOWS).expect("ran");
        }
    }
}

fn counts_are_those_of_the_slots(director: &Director, kind: Kind) {
    let [counted, recount] = recounted(director);
    assert_eq!(counted, recount, "{}: counted, and in the slots", kind.name);
    assert!(recount.values().any(|counts| *counts != (0, 0)), "{}: nothing is left to count", kind.name);
}
