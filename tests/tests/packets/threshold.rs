//! Connection thresholds: a backend that has too many gets no new ones until it has few enough.

use lb::{
    model::{Scheduler::Wrr, Service},
    plan::Desired,
};
use lb_common::{tcp::flag::*, verdict::Verdict::*};
use lb_tests::xdp::Director;

use crate::world::*;

fn limited(kind: Kind, limits: &[(u8, u32, u32)]) -> Desired {
    let numbers: Vec<u8> = limits.iter().map(|(number, ..)| *number).collect();
    let mut service: Service = kind.service(PORT, &numbers);
    for (backend, (_, upper, lower)) in service.backends.iter_mut().zip(limits) {
        (backend.upper_threshold, backend.lower_threshold) = (*upper, *lower);
    }
    Desired { services: vec![service], ..lab() }
}

/// Takes the flow of the client's port out of the table.
fn end(director: &Director, port: u16) {
    let flow = director.flows().into_iter().find(|flow| flow.client_port == port).expect("such a flow");
    assert!(director.maps().flush(&flow, director.clock.now()));
}

#[test]
fn an_overloaded_backend_is_passed_over() {
    for kind in ALL_KINDS {
        let mut director = director(&limited(kind, &[(1, 2, 0), (2, 0, 0)]));
        assert_eq!(open(&mut director, kind, 1000..1008), [1, 2, 1, 2, 2, 2, 2, 2], "{}", kind.name);
    }
}

#[test]
fn inactive_connections_count_too() {
    let mut director = director(&limited(TCP4, &[(1, 2, 0), (2, 0, 0)]));
    assert_eq!(open(&mut director, TCP4, 1000..1003), [1, 2, 1]);
    for port in [1000, 1002] {
        for flags in [ACK, FIN | ACK] {
            assert_eq!(send(&mut director, &TCP4.open().from_port(port).flags(flags)), Ok(1));
        }
    }
    assert_eq!(open(&mut director, TCP4, 1003..1006), [2, 2, 2]);
}

#[test]
fn when_all_are_overloaded_new_connections_are_dropped_and_established_ones_go_on() {
    for kind in [TCP4, TCP6, SCTP4, SCTP6] {
        let mut director = director(&limited(kind, &[(1, 1, 0), (2, 2, 0)]));
        assert_eq!(open(&mut director, kind, 1000..1003), [1, 2, 2]);
        for port in 1003..1006 {
            assert_eq!(send(&mut director, &kind.open().from_port(port)), Err(DroppedNoBackend));
        }
        assert_eq!(send(&mut director, &kind.later().from_port(1000)), Ok(1));
        assert_eq!(send(&mut director, &kind.later().from_port(1002)), Ok(2));
    }
}

/// As in IPVS, which ends what is over before it schedules: the next connection finds room.
#[test]
fn a_closed_connection_begun_again_without_room_is_gone() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&limited(kind, &[(1, 1, 0)]));
        assert_eq!(open(&mut director, kind, 1000..1001), [1]);
        for flags in [ACK, RST] {
            assert_eq!(send(&mut director, &kind.open().from_port(1000).flags(flags)), Ok(1));
        }
        let again = kind.open().from_port(1000);
        assert_eq!(send(&mut director, &again), Err(DroppedNoBackend), "{}: it counts until then", kind.name);
        assert!(director.flows().is_empty(), "{}", kind.name);
        assert_eq!(director.sweep_in(0).expect("swept"), 1, "{}", kind.name);
        assert_eq!(send(&mut director, &again), Ok(1), "{}", kind.name);
    }
}

#[test]
fn it_takes_new_ones_again_below_the_lower_threshold() {
    // Upper, lower, and how many are left when it does; three quarters of the upper one is the default.
    for (upper, lower, left) in [(8, 5, 4), (8, 0, 5), (1, 0, 0), (4, 4, 3)] {
        let mut director = director(&limited(TCP4, &[(1, upper, lower)]));
        let first = 1000;
        let last = first + upper as u16;
        open(&mut director, TCP4, first..last);
        for (ended, port) in (first..last).enumerate() {
            let remaining = upper as usize - ended;
            let expected = if remaining > left { Err(DroppedNoBackend) } else { Ok(1) };
            let seen = send(&mut director, &TCP4.open().from_port(5000));
            assert_eq!(seen, expected, "upper {upper} lower {lower}: {remaining} left");
            if seen.is_ok() {
                break;
            }
            end(&director, port);
        }
        if left == 0 {
            assert_eq!(send(&mut director, &TCP4.open().from_port(5000)), Ok(1));
        }
    }
}

/// A rotation that gives the overloaded one more turns in a row than the program tries: the others take its place,
/// but for those that take nobody.
#[test]
fn many_turns_of_an_overloaded_backend() {
    for kind in ALL_KINDS {
        let mut service = kind.weighted(PORT, Wrr, &[(1, 1000), (2, 0), (3, 1), (4, 1)]);
        for (backend, upper) in service.backends.iter_mut().zip([1, 0, 2, 1]) {
            backend.upper_threshold = upper;
        }
        let mut director = director(&Desired { services: vec![service], ..lab() });
        assert_eq!(open(&mut director, kind, 1000..1004), [1, 3, 3, 4], "{}", kind.name);
        let full = send(&mut director, &kind.open().from_port(1004));
        assert_eq!(full, Err(DroppedNoBackend), "{}", kind.name);
        end(&director, 1000);
        assert_eq!(open(&mut director, kind, 1005..1006), [1], "{}: it takes its turns again", kind.name);
    }
}

#[test]
fn an_edit_of_the_thresholds_takes_effect() {
    let mut director = director(&limited(TCP4, &[(1, 2, 0)]));
    open(&mut director, TCP4, 1000..1002);
    assert_eq!(send(&mut director, &TCP4.open().from_port(1002)), Err(DroppedNoBackend));
    for raised in [4, 0] {
        director.configure(&limited(TCP4, &[(1, raised, 0)])).expect("configured");
        assert_eq!(
            send(&mut director, &TCP4.open().from_port(2000 + raised as u16)),
            Ok(1),
            "raised to {raised}"
        );
    }
    // Four connections are above it (the kernel's `ip_vs_dest_update_overload` since 2026; before, the next connection
    // found out).
    director.configure(&limited(TCP4, &[(1, 3, 0)])).expect("configured");
    assert_eq!(send(&mut director, &TCP4.open().from_port(3000)), Err(DroppedNoBackend));
}
