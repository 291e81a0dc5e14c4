//! Flows end: by the sweeper, and by the data path alone when there is no agent.

use aya::maps::{Array, Map, MapData};
use lb::{
    model::{FlowSizes, PartialTimeouts, Timeouts},
    plan::Desired,
};
use lb_common::{
    counters::ConnCounts,
    sctp::chunk,
    tcp::{State, flag::*},
    verdict::Verdict::*,
};
use lb_tests::{
    wait::{PATIENCE, Seen, eventually},
    xdp::Director,
};

use crate::world::*;

/// Active and inactive connections of every backend together.
fn counts(director: &Director) -> (u64, u64) {
    let snapshot = director.maps().snapshot().expect("a snapshot");
    let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
    counts.fold((0, 0), |(active, inactive), c| (active + c.active, inactive + c.inactive))
}

#[test]
fn the_sweeper_frees_each_state_at_its_timeout() {
    // Flags that lead to a state, and IPVS's timeout of it.
    let lives: [(&[u8], u32); 6] = [
        (&[SYN], 60),
        (&[SYN, ACK], 900),
        (&[SYN, ACK, FIN | ACK], 120),
        (&[SYN, FIN | ACK], 120),
        (&[SYN, ACK, RST], 10),
        (&[SYN, ACK, 0], 10),
    ];
    for kind in [TCP4, TCP6] {
        let mut director = director(&every_kind());
        for (flags, timeout) in lives {
            for flags in flags {
                assert_eq!(send(&mut director, &kind.open().flags(*flags)), Ok(1));
            }
            // Ticks are coarse: a second before it lives, a second after it does not.
            assert_eq!(director.sweep_in(timeout - 1).expect("swept"), 0, "{} {flags:?}", kind.name);
            assert_eq!(director.flows().len(), 1);
            assert_eq!(director.sweep_in(timeout + 1).expect("swept"), 1, "{} {flags:?}", kind.name);
            assert_eq!((director.flows().len(), counts(&director)), (0, (0, 0)));
        }
    }
    use chunk::*;
    let lives: [(&[u8], u32); 6] = [
        (&[INIT], 4),
        (&[INIT, INIT], 61),
        (&[INIT, INIT_ACK], 61),
        (&[INIT, COOKIE_ECHO], 900),
        (&[INIT, COOKIE_ECHO, SHUTDOWN], 61),
        (&[INIT, COOKIE_ECHO, ABORT], 61),
    ];
    for kind in [SCTP4, SCTP6] {
        let mut director = director(&every_kind());
        for (chunks, timeout) in lives {
            for chunk in chunks {
                assert_eq!(send(&mut director, &kind.open().flags(*chunk)), Ok(1));
            }
            assert_eq!(director.sweep_in(timeout - 1).expect("swept"), 0, "{} {chunks:?}", kind.name);
            assert_eq!(director.sweep_in(timeout + 1).expect("swept"), 1, "{} {chunks:?}", kind.name);
            assert_eq!((director.flows().len(), counts(&director)), (0, (0, 0)));
        }
    }
    for kind in [UDP4, UDP6] {
        let mut director = director(&every_kind());
        assert_eq!(send(&mut director, &kind.open()), Ok(1));
        assert_eq!(director.sweep_in(299).expect("swept"), 0);
        assert_eq!(director.sweep_in(301).expect("swept"), 1);
    }
}

/// Counts that are wrong, as a program that was killed in the middle of a packet leaves them, are put right by the second
/// round that sees the same: what moves meanwhile is no error.
#[test]
fn the_sweeper_heals_counts() {
    let mut director = director(&every_kind());
    assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
    assert_eq!(send(&mut director, &UDP4.open()), Ok(1));
    let dest =
        director.flows().iter().find(|flow| flow.value.state() == State::UDP).expect("it").value.dest();
    let map = Map::from_map_data(MapData::from_pin(director.layout().map("CONNS")).expect("a pin"));
    let mut conns =
        Array::<_, [u64; size_of::<ConnCounts>() / 8]>::try_from(map.expect("a map")).expect("words");
    let mut words = conns.get(&dest, 0).expect("read");
    assert_eq!(words[..2], [0, 1]);
    // Two too many, and one below zero.
    [words[0], words[1]] = [2, u64::MAX];
    conns.set(dest, words, 0).expect("written");
    director.sweep_in(0).expect("swept");
    assert_eq!(conns.get(&dest, 0).expect("read")[..2], [2, u64::MAX], "one look is not enough");
    director.sweep_in(0).expect("swept");
    assert_eq!(conns.get(&dest, 0).expect("read")[..2], [0, 1]);
    assert_eq!(counts(&director), (1, 1));
}

/// An agent that was killed between freeing a slot and counting its flow out leaves a count without a flow. Overloaded by it,
/// the backend would get no connection any more, and so stay.
#[test]
fn the_sweeper_heals_counts_of_what_has_no_flows() {
    let mut want = every_kind();
    for service in &mut want.services {
        service.backends[0].upper_threshold = 1;
    }
    let mut director = director(&want);
    assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
    let flow = director.flows()[0];
    assert!(director.maps().flush(&flow, director.clock.now()));
    for _ in 0..2 {
        director.sweep_in(0).expect("swept");
    }
    let map = Map::from_map_data(MapData::from_pin(director.layout().map("CONNS")).expect("a pin"));
    let mut conns = Array::<_, ConnCounts>::try_from(map.expect("a map")).expect("counts");
    let left = ConnCounts { active: 1, overloaded: 1, ..ConnCounts::default() };
    conns.set(flow.value.dest(), left, 0).expect("written");
    assert_eq!(send(&mut director, &TCP4.open()), Err(DroppedNoBackend));
    director.sweep_in(0).expect("swept");
    assert_eq!(counts(&director), (1, 0), "one look is not enough");
    director.sweep_in(0).expect("swept");
    assert_eq!(counts(&director), (0, 0));
    assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
}

#[test]
fn timeouts_are_configurable() {
    let timeouts = Timeouts {
        tcp: 40,
        tcp_fin: 20,
        tcp_syn: 30,
        tcp_time_wait: 25,
        tcp_close: 5,
        udp: 50,
        sctp: 45,
        sctp_init1: 6,
        sctp_shutdown: 8,
        ..Timeouts::default()
    };
    let mut director = director(&Desired { timeouts, ..every_kind() });
    for (flags, timeout) in [
        (vec![SYN], 30),
        (vec![SYN, ACK], 40),
        (vec![SYN, ACK, FIN], 20),
        (vec![SYN, FIN], 25),
        (vec![SYN, ACK, RST], 5),
    ] {
        for flags in flags {
            assert_eq!(send(&mut director, &TCP4.open().flags(flags)), Ok(1));
        }
        assert_eq!(director.sweep_in(timeout - 1).expect("swept"), 0);
        assert_eq!(director.sweep_in(timeout + 1).expect("swept"), 1);
    }
    assert_eq!(send(&mut director, &UDP6.open()), Ok(1));
    assert_eq!(director.sweep_in(49).expect("swept"), 0);
    assert_eq!(director.sweep_in(51).expect("swept"), 1);
    let open = SCTP6.open();
    assert_eq!(send(&mut director, &open), Ok(1));
    for (chunk, timeout) in [(chunk::COOKIE_ECHO, 45), (chunk::SHUTDOWN, 8)] {
        assert_eq!(send(&mut director, &open.flags(chunk)), Ok(1));
        assert_eq!(director.sweep_in(timeout - 1).expect("swept"), 0);
    }
    assert_eq!(director.sweep_in(9).expect("swept"), 1);
    assert_eq!(send(&mut director, &open), Ok(1));
    assert_eq!(director.sweep_in(5).expect("swept"), 0);
    assert_eq!(director.sweep_in(7).expect("swept"), 1);
}

#[test]
fn a_services_own_timeouts_come_before_the_global_ones() {
    let timeouts = Timeouts { tcp: 40, udp: 50, ..Timeouts::default() };
    let own = PartialTimeouts { tcp_syn: Some(7), udp: Some(9), ..PartialTimeouts::default() };
    let mut want = Desired { timeouts, ..every_kind() };
    let has_own = |kind: &Kind| [TCP4, UDP6].contains(kind);
    for (kind, service) in ALL_KINDS.iter().zip(&mut want.services) {
        if has_own(kind) {
            service.options.timeouts = own;
        }
    }
    let mut director = director(&want);
    for (kind, timeout) in [(TCP4, 7), (TCP6, 60), (UDP4, 50), (UDP6, 9)] {
        assert_eq!(send(&mut director, &kind.open()), Ok(1));
        assert_eq!(director.sweep_in(timeout - 1).expect("swept"), 0, "{}", kind.name);
        assert_eq!(director.sweep_in(timeout + 1).expect("swept"), 1, "{}", kind.name);
    }
    for flags in [SYN, ACK] {
        assert_eq!(send(&mut director, &TCP4.open().flags(flags)), Ok(1));
    }
    assert_eq!(director.sweep_in(39).expect("swept"), 0, "what is not its own is the global one");
    assert_eq!(director.sweep_in(41).expect("swept"), 1);
    // A change holds from the next packet on, and can be taken back.
    assert_eq!(send(&mut director, &UDP6.open()), Ok(1));
    director.configure(&Desired { timeouts, ..every_kind() }).expect("configured");
    assert_eq!(director.sweep_in(8).expect("swept"), 0);
    assert_eq!(send(&mut director, &UDP6.later()), Ok(1));
    assert_eq!(director.sweep_in(49).expect("swept"), 0);
    assert_eq!(director.sweep_in(51).expect("swept"), 1);
}

#[test]
fn the_shortest_timeout_is_long_enough_for_a_flow_that_is_busy() {
    let timeouts = Timeouts::default().map(|_| 1);
    let mut director = director(&Desired { timeouts, ..every_kind() });
    assert_eq!(ALL_KINDS.map(|kind| send(&mut director, &kind.open())), [Ok(1); 6]);
    let end = director.tick_in(3);
    while !end.is_past(director.clock.now()) {
        assert_eq!(ALL_KINDS.map(|kind| send(&mut director, &kind.later())), [Ok(1); 6]);
    }
}

#[test]
fn an_expired_flow_is_none_even_before_anybody_frees_it() {
    let timeouts = Timeouts { tcp: 1, tcp_syn: 1, udp: 1, sctp: 1, sctp_init1: 1, ..Timeouts::default() };
    let want =
        Desired { timeouts, services: ALL_KINDS.map(|kind| kind.service(PORT, &[1, 2])).to_vec(), ..lab() };
    let mut director = director(&want);
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &kind.open()), Ok(1));
        assert_eq!(send(&mut director, &kind.later()), Ok(1));
    }
    all_expired(&director);
    for kind in [TCP4, TCP6, SCTP4, SCTP6] {
        assert_eq!(send(&mut director, &kind.later()), Err(DroppedNoFlow), "{}", kind.name);
    }
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &kind.open()), Ok(2), "{}: scheduled anew", kind.name);
    }
    assert_eq!(counts(&director), (2, 4), "the old ones are not counted any more");
}

#[test]
fn the_data_path_frees_what_has_expired_without_an_agent() {
    let timeouts = Timeouts { tcp: 1, tcp_syn: 1, tcp_fin: 1, ..Timeouts::default() };
    let sizes = FlowSizes { ipv4: 16, wide: 16 };
    for kind in [TCP4, TCP6] {
        let mut service = kind.service(PORT, &[1, 2]);
        service.backends[0].upper_threshold = 12;
        let want = Desired { timeouts, services: vec![service], ..lab() };
        let mut director = Director::new(sizes, &want).expect("a director");
        // Below what any of the 16 buckets would have to evict for.
        open(&mut director, kind, 1000..1024);
        assert_eq!(
            send(&mut director, &kind.open().from_port(1024)),
            Ok(2),
            "{}: 1 is overloaded",
            kind.name
        );
        all_expired(&director);
        // Each new connection sweeps one bucket, on its CPU: both CPUs go round all 16 in twice as many.
        let frees = |port: u16| send(&mut director, &kind.open().from_port(port)).expect("forwarded");
        let backends: Vec<u8> = (2000..2040).map(frees).collect();
        assert!(
            backends.contains(&1),
            "{}: the threshold was passed on the way down, {backends:?}",
            kind.name
        );
        all_expired(&director);
        let cpus = aya::util::nr_cpus().expect("CPUs") as u16;
        for port in 3000..3000 + 16 * cpus {
            send(&mut director, &kind.open().from_port(port)).expect("forwarded");
        }
        let counted = counts(&director);
        let live = director.flows().len() as u64;
        assert_eq!(counted, (live, 0), "{}: nothing expired is left and counted", kind.name);
    }
}

/// Waits until the clock has passed the expiry of every flow.
fn all_expired(director: &Director) {
    eventually(PATIENCE, "the flows to expire", || {
        let live = director.flows().len();
        Ok(if live == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{live} live")) })
    })
    .expect("expired");
}
