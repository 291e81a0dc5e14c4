//! What a service's options change: flows of a removed backend, connections taken up in their middle, datagrams that
//! are scheduled one by one, timeouts that are changed.

use lb::{
    model::{ExpireNodest, ServiceOptions, Timeouts},
    plan::Desired,
};
use lb_common::{
    counters::Counters,
    tcp::{State, flag::*},
    verdict::Verdict::*,
};
use lb_tests::xdp::Director;

use crate::world::*;

/// A service of one kind with these backends and options.
fn wanted(kind: Kind, backends: &[u8], options: ServiceOptions) -> Desired {
    let mut service = kind.service(PORT, backends);
    service.options = options;
    Desired { services: vec![service], ..lab() }
}

fn nodest(expire_nodest: ExpireNodest) -> ServiceOptions {
    ServiceOptions { expire_nodest, ..silent() }
}

/// Active and inactive connections of each destination, by its id.
fn counts(director: &Director) -> Vec<(u64, u64)> {
    let dests = director.maps().snapshot().expect("a snapshot").dests;
    let counts = dests.keys().map(|id| director.maps().conn_counts(*id));
    counts.map(|counts| (counts.active, counts.inactive)).collect()
}

/// What the service counted.
fn served(director: &Director) -> Counters {
    let services = director.maps().snapshot().expect("a snapshot").services;
    let id = services.keys().next().expect("a service");
    director.maps().service_counters(*id).expect("counted")
}

#[test]
fn a_datagram_to_a_removed_backend_goes_to_another_at_once() {
    for kind in [UDP4, UDP6] {
        for options in [nodest(ExpireNodest::Auto), nodest(ExpireNodest::Reschedule)] {
            let mut director = director(&wanted(kind, &[1, 2], options));
            assert_eq!(open(&mut director, kind, 1001..1003), [1, 2]);
            director.configure(&wanted(kind, &[2], options)).expect("configured");
            assert_eq!(
                [1001, 1002].map(|port| send(&mut director, &kind.open().from_port(port))),
                [Ok(2); 2]
            );
            assert_eq!(counts(&director), [(0, 0), (0, 2)], "{}: the old entry was taken over", kind.name);
            assert_eq!(director.flows().len(), 2);
            assert_eq!(served(&director).connections, 3, "it counts as a new one");
            let evicted =
                director.counters().expect("counters").into_iter().find(|(name, _)| name.contains("evicted"));
            assert!(matches!(evicted, Some((_, 0))), "{evicted:?}");
            // The backend that comes back gets none of it.
            director.configure(&wanted(kind, &[1, 2], options)).expect("configured");
            assert_eq!(send(&mut director, &kind.open().from_port(1001)), Ok(2));
        }
    }
}

#[test]
fn a_datagram_to_a_removed_backend_waits_for_it_where_it_shall_be_dropped() {
    for kind in [UDP4, UDP6] {
        let options = nodest(ExpireNodest::Drop);
        let mut director = director(&wanted(kind, &[1, 2], options));
        assert_eq!(open(&mut director, kind, 1001..1003), [1, 2]);
        director.configure(&wanted(kind, &[2], options)).expect("configured");
        assert_eq!(send(&mut director, &kind.open().from_port(1001)), Err(DroppedBackendRemoved));
        // The option holds from the next packet on.
        director.configure(&wanted(kind, &[2], nodest(ExpireNodest::Auto))).expect("configured");
        assert_eq!(send(&mut director, &kind.open().from_port(1001)), Ok(2));
    }
}

#[test]
fn only_a_syn_is_scheduled_anew() {
    for kind in [TCP4, TCP6] {
        let options = nodest(ExpireNodest::Reschedule);
        let mut director = director(&wanted(kind, &[1, 2], options));
        let packet = kind.open().from_port(1001);
        for flags in [SYN, ACK] {
            assert_eq!(send(&mut director, &packet.flags(flags)), Ok(1));
        }
        director.configure(&wanted(kind, &[2], options)).expect("configured");
        for (flags, expected) in [
            (ACK, Err(DroppedBackendRemoved)),
            (FIN | ACK, Err(DroppedBackendRemoved)),
            (SYN | ACK, Err(DroppedBackendRemoved)),
            (SYN, Ok(2)),
            (ACK, Ok(2)),
        ] {
            assert_eq!(send(&mut director, &packet.flags(flags)), expected, "{} {flags:#x}", kind.name);
        }
        assert_eq!((counts(&director), director.flows().len()), (vec![(0, 0), (1, 0)], 1));
        // TCP's own way is to wait for the backend.
        let options = nodest(ExpireNodest::Auto);
        director.configure(&wanted(kind, &[3], options)).expect("configured");
        for flags in [ACK, SYN] {
            assert_eq!(
                send(&mut director, &packet.flags(flags)),
                Err(DroppedBackendRemoved),
                "{}",
                kind.name
            );
        }
    }
}

#[test]
fn a_syn_of_a_drained_backends_connection_is_scheduled_anew() {
    for (expire_nodest, backend) in [(ExpireNodest::Reschedule, 2), (ExpireNodest::Drop, 1)] {
        let mut want = wanted(TCP4, &[1, 2], nodest(expire_nodest));
        let mut director = director(&want);
        let packet = TCP4.open().from_port(1001);
        assert_eq!(send(&mut director, &packet), Ok(1));
        want.services[0].backends[0].drained = true;
        director.configure(&want).expect("configured");
        assert_eq!(send(&mut director, &packet.flags(ACK)), Ok(1), "what is established goes on");
        assert_eq!(send(&mut director, &packet), Ok(backend), "{expire_nodest}");
    }
    let mut want = wanted(UDP4, &[1, 2], nodest(ExpireNodest::Reschedule));
    let mut director = director(&want);
    assert_eq!(send(&mut director, &UDP4.open()), Ok(1));
    want.services[0].backends[0].drained = true;
    director.configure(&want).expect("configured");
    assert_eq!(send(&mut director, &UDP4.open()), Ok(1), "a datagram does not say that it is the first");
}

#[test]
fn the_sweeper_ends_what_is_not_kept_for_a_removed_backend() {
    for (kind, expire_nodest, left) in [
        (UDP4, ExpireNodest::Auto, 0),
        (UDP6, ExpireNodest::Drop, 1),
        (TCP4, ExpireNodest::Auto, 1),
        (TCP6, ExpireNodest::Reschedule, 0),
    ] {
        let options = nodest(expire_nodest);
        let mut director = director(&wanted(kind, &[1, 2], options));
        assert_eq!(open(&mut director, kind, 1001..1003), [1, 2]);
        director.configure(&wanted(kind, &[2], options)).expect("configured");
        director.sweep_in(0).expect("swept");
        assert_eq!(director.flows().len(), 1 + left, "{} {expire_nodest}", kind.name);
        // What comes back finds what was kept.
        director.configure(&wanted(kind, &[1, 2], options)).expect("configured");
        let total: u64 = counts(&director).iter().map(|(active, inactive)| active + inactive).sum();
        assert_eq!(total as usize, 1 + left, "{} {expire_nodest}", kind.name);
    }
}

#[test]
fn without_another_backend_what_is_scheduled_anew_is_dropped_and_over() {
    let mut director = director(&wanted(UDP4, &[1], silent()));
    assert_eq!(send(&mut director, &UDP4.open()), Ok(1));
    director.configure(&wanted(UDP4, &[], silent())).expect("configured");
    assert_eq!(send(&mut director, &UDP4.open()), Err(DroppedNoBackend));
    director.configure(&wanted(UDP4, &[1], silent())).expect("configured");
    assert_eq!(
        (send(&mut director, &UDP4.open()), served(&director).connections, counts(&director)),
        (Ok(1), 2, vec![(0, 1)]),
        "a new one"
    );
}

#[test]
fn sloppy_tcp_takes_a_connection_up_in_its_middle() {
    // States as IPVS's from NONE: `tcp_states`, rows INPUT-ONLY.
    let cases = [
        (SYN, Ok(1), State::SYN_RECV),
        (ACK, Ok(1), State::ESTABLISHED),
        (SYN | ACK, Ok(1), State::SYN_RECV),
        (FIN | ACK, Ok(1), State::CLOSE),
        (0, Ok(1), State::CLOSE),
        (RST, Err(DroppedNoFlow), State::NONE),
        (RST | ACK, Err(DroppedNoFlow), State::NONE),
    ];
    let sloppy = ServiceOptions { sloppy_tcp: true, ..silent() };
    for kind in [TCP4, TCP6] {
        for (flags, expected, state) in cases {
            let mut director = director(&wanted(kind, &[1], sloppy));
            assert_eq!(send(&mut director, &kind.open().flags(flags)), expected, "{} {flags:#x}", kind.name);
            let states: Vec<_> = director.flows().iter().map(|flow| flow.value.state().name()).collect();
            let stored = expected.is_ok();
            assert_eq!(states, if stored { vec![state.name()] } else { vec![] }, "{} {flags:#x}", kind.name);
            assert_eq!(served(&director).connections, u64::from(stored));
            let active = u64::from(stored && state.is_active());
            assert_eq!(counts(&director), [(active, u64::from(stored) - active)], "{} {flags:#x}", kind.name);
        }
        // Off again: what is known goes on, and nothing else is taken up.
        let mut director = director(&wanted(kind, &[1], sloppy));
        assert_eq!(send(&mut director, &kind.later()), Ok(1));
        director.configure(&wanted(kind, &[1], silent())).expect("configured");
        assert_eq!(send(&mut director, &kind.later()), Ok(1));
        assert_eq!(send(&mut director, &kind.later().from_port(1001)), Err(DroppedNoFlow));
    }
}

#[test]
fn one_packet_scheduling_remembers_nothing_and_counts_each() {
    let ops = ServiceOptions { ops: true, ..silent() };
    for kind in [UDP4, UDP6] {
        let mut director = director(&wanted(kind, &[1, 2, 3], ops));
        let went: Vec<_> = (0..6).map(|_| send(&mut director, &kind.open())).collect();
        assert_eq!(went, [1, 2, 3, 1, 2, 3].map(Ok), "{}", kind.name);
        assert_eq!((director.flows().len(), counts(&director)), (0, vec![(0, 0); 3]));
        let counted = served(&director);
        assert_eq!((counted.connections, counted.packets), (6, 6));
        director.configure(&wanted(kind, &[], ops)).expect("configured");
        assert_eq!(send(&mut director, &kind.open()), Err(DroppedNoBackend));
    }
}

/// As in IPVS, where a connection of before is found in the table, and one of now is not put there.
#[test]
fn one_packet_scheduling_is_for_what_is_not_known() {
    let ops = ServiceOptions { ops: true, ..silent() };
    for kind in [UDP4, UDP6] {
        let mut director = director(&wanted(kind, &[1, 2], silent()));
        assert_eq!(open(&mut director, kind, 1001..1002), [1]);
        director.configure(&wanted(kind, &[1, 2], ops)).expect("configured");
        let went =
            [1001, 1002, 1001, 1002, 1002].map(|port| send(&mut director, &kind.open().from_port(port)));
        assert_eq!(went, [1, 2, 1, 1, 2].map(Ok), "{}", kind.name);
        assert_eq!(director.flows().len(), 1);
    }
}

#[test]
fn a_changed_timeout_holds_from_the_next_packet_on() {
    for kind in [TCP4, UDP6] {
        let with = |seconds| {
            let timeouts = Timeouts { tcp: seconds, udp: seconds, ..Timeouts::default() };
            Desired { timeouts, ..wanted(kind, &[1], silent()) }
        };
        let mut director = director(&with(900));
        for packet in [kind.open(), kind.later()] {
            assert_eq!(send(&mut director, &packet), Ok(1));
        }
        for seconds in [60, 1800, 20] {
            director.configure(&with(seconds)).expect("configured");
            assert_eq!(send(&mut director, &kind.later()), Ok(1));
            let left = director.clock.seconds_until(director.flows()[0].value.expiry());
            assert!((seconds - 1..=seconds + 1).contains(&left), "{}: {left} s left of {seconds}", kind.name);
        }
    }
}
