//! What the clients' packets tell of a backend: handshakes that run out, SYNs that come again, resets.

use std::collections::BTreeMap;

use lb::{
    model::{FlowSizes, Guard, ServiceOptions, Timeouts},
    plan::Desired,
};
use lb_common::{
    tcp::{self, State, flag::*},
    verdict::Verdict,
};
use lb_tests::{
    wait::{PATIENCE, Seen, eventually},
    xdp::Director,
};
use proptest::prelude::*;

use crate::world::*;

/// Incomplete handshakes, SYNs again, resets.
type Health = [u64; 3];

/// Of all backends together.
fn health(director: &Director) -> Health {
    let maps = director.maps();
    maps.snapshot().expect("a snapshot").dests.keys().fold([0; 3], |sum, id| {
        let counters = maps.dest_counters(*id).expect("counters");
        let of = [maps.conn_counts(*id).incomplete, counters.retransmissions, counters.resets];
        [0, 1, 2].map(|i| sum[i] + of[i])
    })
}

fn event(director: &Director, name: &str) -> u64 {
    let counters = director.counters().expect("counters");
    counters.into_iter().find(|(counted, _)| *counted == name).expect("a counter of that name").1
}

#[test]
fn a_client_that_hears_nothing_differs_from_one_that_gives_up() {
    // Segments of one connection, and what they and its end in ten minutes tell.
    let lives: [(&[u8], Health); 10] = [
        (&[SYN], [1, 0, 0]),
        (&[SYN, SYN, SYN], [1, 2, 0]),
        (&[SYN, ACK], [0, 0, 0]),
        (&[SYN, SYN, ACK, ACK], [0, 1, 0]),
        (&[SYN, ACK, SYN, ACK], [0, 0, 0]),
        (&[SYN, ACK, RST], [0, 0, 1]),
        (&[SYN, ACK, FIN | ACK, RST | ACK, RST], [0, 0, 1]),
        // Who scans ports hears an answer.
        (&[SYN, RST], [1, 0, 1]),
        (&[SYN, FIN | ACK, ACK], [0, 0, 0]),
        // A SYN in FIN_WAIT begins a handshake of its own.
        (&[SYN, ACK, FIN | ACK, SYN, SYN], [1, 1, 0]),
    ];
    for kind in [TCP4, TCP6] {
        for (segments, expected) in lives {
            let mut director = director(&every_kind());
            for flags in segments {
                assert_eq!(send(&mut director, &kind.open().flags(*flags)), Ok(1), "{segments:?}");
            }
            assert_eq!(health(&director)[0], 0, "not before its time is up");
            director.sweep_in(600).expect("swept");
            assert_eq!(health(&director), expected, "{} {segments:?}", kind.name);
        }
    }
}

#[test]
fn each_backend_has_its_own() {
    let mut director = director(&Desired { services: vec![TCP4.service(PORT, &[1, 2])], ..lab() });
    assert_eq!(open(&mut director, TCP4, 1000..1004), [1, 2, 1, 2]);
    for port in [1001, 1003] {
        send(&mut director, &TCP4.open().from_port(port)).expect("forwarded");
        send(&mut director, &TCP4.later().from_port(port)).expect("forwarded");
    }
    send(&mut director, &TCP4.later().from_port(1000)).expect("forwarded");
    send(&mut director, &TCP4.later().from_port(1000).flags(RST)).expect("forwarded");
    director.sweep_in(600).expect("swept");
    let maps = director.maps();
    let dests = maps.snapshot().expect("a snapshot").dests;
    let told: Vec<Health> = dests
        .keys()
        .map(|id| {
            let counters = maps.dest_counters(*id).expect("counters");
            [maps.conn_counts(*id).incomplete, counters.retransmissions, counters.resets]
        })
        .collect();
    assert_eq!(told, [[1, 0, 1], [0, 2, 0]]);
}

#[test]
fn datagrams_tell_nothing() {
    for kind in [UDP4, UDP6] {
        let mut director = director(&every_kind());
        for _ in 0..3 {
            assert_eq!(send(&mut director, &kind.open()), Ok(1));
        }
        director.sweep_in(600).expect("swept");
        assert_eq!(health(&director), [0; 3], "{}", kind.name);
    }
}

#[test]
fn who_is_evicted_or_flushed_had_no_time_to_answer() {
    for kind in [TCP4, TCP6] {
        let want = Desired { services: vec![kind.service(PORT, &[1])], ..lab() };
        let mut director = Director::new(FlowSizes { ipv4: 16, wide: 16 }, &want).expect("a director");
        open(&mut director, kind, 1000..1200);
        let (evicted, live) = (event(&director, "event-evicted"), director.flows().len() as u64);
        assert!(evicted > 0 && evicted + live == 200, "{evicted} evicted, {live} live");
        let flow = director.flows()[0];
        assert!(director.maps().flush(&flow, director.clock.now()));
        assert_eq!(health(&director), [0; 3]);
        director.sweep_in(600).expect("swept");
        assert_eq!(health(&director), [live - 1, 0, 0], "{}", kind.name);
    }
}

#[test]
fn the_data_path_counts_what_it_frees_itself() {
    let timeouts = Timeouts { tcp_syn: 1, ..Timeouts::default() };
    for kind in [TCP4, TCP6] {
        let want = Desired { timeouts, services: vec![kind.service(PORT, &[1])], ..lab() };
        let mut director = Director::new(FlowSizes { ipv4: 16, wide: 16 }, &want).expect("a director");
        open(&mut director, kind, 1000..1024);
        eventually(PATIENCE, "the flows to expire", || {
            let live = director.flows().len();
            Ok(if live == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{live} live")) })
        })
        .expect("expired");
        // The same client's entry is taken over, others' slots are swept and given away.
        open(&mut director, kind, 1000..1001);
        assert!(health(&director)[0] >= 1, "{}: taken over", kind.name);
        let cpus = aya::util::nr_cpus().expect("CPUs") as u16;
        let opened = 1024..1024 + 16 * cpus;
        for port in opened.clone() {
            for flags in [SYN, ACK] {
                send(&mut director, &kind.open().from_port(port).flags(flags)).expect("forwarded");
            }
        }
        assert_eq!(event(&director, "event-evicted"), 0);
        // The agent's sweeper has the rest: the client that came back, and any that is left.
        director.sweep_in(600).expect("swept");
        assert_eq!(health(&director), [25, 0, 0], "{}", kind.name);
    }
}

/// Of a connection that was placed by hash nobody knows whether its handshake is complete.
#[test]
fn what_was_placed_by_hash_is_not_judged() {
    let mut service = TCP4.service(PORT, &[1]);
    service.options = ServiceOptions { guard: Guard::Rate(1), ..silent() };
    let mut director = director(&Desired { services: vec![service], ..lab() });
    open(&mut director, TCP4, 1000..1100);
    let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
    let without = (1000..1100).find(|port| !stored.contains(port)).expect("one without an entry");
    // Its ACK makes one, half-open.
    assert_eq!(send(&mut director, &TCP4.later().from_port(without)), Ok(1));
    assert_eq!(director.flows().len(), stored.len() + 1);
    director.sweep_in(600).expect("swept");
    assert_eq!(health(&director), [stored.len() as u64, 0, 0]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Packet { kind: usize, client: u16, flags: u8 },
    Sweep { seconds: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        4 => Just(SYN),
        3 => Just(ACK),
        1 => Just(FIN | ACK),
        2 => prop_oneof![Just(RST), Just(RST | ACK)],
        1 => Just(0u8),
        1 => Just(SYN | ACK),
    ];
    prop_oneof![
        30 => (0..2usize, 0..4u16, flags).prop_map(|(kind, client, flags)| Step::Packet { kind, client, flags }),
        1 => prop_oneof![Just(0), Just(400), Just(2000)].prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

proptest! {
    #![proptest_config(random(32, 200))]
    /// Whatever clients do, what is told is what happened, one for one.
    #[test]
    fn health_is_exact(steps in prop::collection::vec(step(), 20..200)) {
        let timeouts =
            Timeouts { tcp_fin: 200, tcp_syn: 200, tcp_time_wait: 200, tcp_close: 200, ..Timeouts::default() };
        let mut director = director(&Desired { timeouts, ..every_kind() });
        let mut flows: BTreeMap<(usize, u16), State> = BTreeMap::new();
        let mut expected: Health = [0; 3];
        for step in steps {
            match step {
                Step::Packet { kind, client, flags } => {
                    let packet = [TCP4, TCP6][kind].open().from_port(1000 + client).flags(flags);
                    let begins = flags & (SYN | ACK | RST) == SYN;
                    let known = flows.get(&(kind, client)).copied();
                    let goes_on = known.filter(|s| !(begins && matches!(*s, State::TIME_WAIT | State::CLOSE)));
                    let outcome = send(&mut director, &packet);
                    if goes_on.is_none() && !begins {
                        prop_assert_eq!(outcome, Err(Verdict::DroppedNoFlow));
                        continue;
                    }
                    prop_assert_eq!(outcome, Ok(1));
                    if let Some(state) = goes_on {
                        expected[1] += u64::from(begins && state == State::SYN_RECV);
                        expected[2] += u64::from(flags & RST != 0 && state != State::CLOSE);
                    }
                    flows.insert((kind, client), tcp::next(goes_on.unwrap_or(State::NONE), flags));
                }
                Step::Sweep { seconds } => {
                    director.sweep_in(seconds).expect("swept");
                    flows.retain(|_, state| {
                        let stays = timeouts.of(*state) > seconds;
                        expected[0] += u64::from(!stays && *state == State::SYN_RECV);
                        stays
                    });
                }
            }
            prop_assert_eq!(health(&director), expected, "after {:?}", step);
        }
    }
}
