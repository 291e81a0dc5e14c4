//! A table that is too small: what is established stays, what is new is placed by hash.

use std::collections::BTreeMap;

use lb::{
    model::{FlowSizes, Persistence, Scope, Timeouts},
    plan::Desired,
};
use lb_common::tcp::flag::*;
use lb_tests::xdp::Director;

use crate::world::*;

/// 16 buckets of four slots.
const TINY: FlowSizes = FlowSizes { ipv4: 16, wide: 16 };
const SLOTS: usize = 64;
const CLIENTS: u16 = 200;

fn tiny(kind: Kind) -> Director {
    let want = Desired { services: vec![kind.service(PORT, &[1, 2, 3])], ..lab() };
    Director::new(TINY, &want).expect("a director")
}

fn event(director: &Director, name: &str) -> u64 {
    let counters = director.counters().expect("counters");
    counters.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, times)| *times)
}

/// Opens and establishes connections from more clients than the table holds: the backend of each.
fn crowd(director: &mut Director, kind: Kind) -> BTreeMap<u16, u8> {
    let establish = |port: u16| {
        let backend = send(director, &kind.open().from_port(port)).expect("forwarded");
        assert_eq!(send(director, &kind.later().from_port(port)), Ok(backend), "{} port {port}", kind.name);
        (port, backend)
    };
    (1000..1000 + CLIENTS).map(establish).collect()
}

#[test]
fn established_flows_stay_and_new_ones_are_placed_by_hash() {
    for kind in ALL_KINDS {
        let mut director = tiny(kind);
        let backends = crowd(&mut director, kind);
        let stored = director.flows().len();
        assert!(stored <= SLOTS && stored > SLOTS / 2, "{}: {stored} flows stored", kind.name);
        assert!(event(&director, "event-placed-by-hash") >= u64::from(CLIENTS) - SLOTS as u64);
        assert_eq!(event(&director, "event-evicted"), 0, "{}", kind.name);
        // Every one of them goes on where it began, entry or not.
        for _ in 0..3 {
            for (port, backend) in &backends {
                let seen = send(&mut director, &kind.later().from_port(*port));
                assert_eq!(seen, Ok(*backend), "{} port {port}", kind.name);
            }
        }
        assert_eq!(director.flows().len(), stored, "{}", kind.name);
    }
}

/// Where there is no room for the connections, the client's template still says where they go.
#[test]
fn a_persistent_clients_connections_stay_together() {
    let mut service = TCP4.service(PORT, &[1, 2, 3]);
    service.options.persistence =
        Some(Persistence { timeout: 300, granularity: None, scope: Scope::Service });
    let mut director =
        Director::new(TINY, &Desired { services: vec![service], ..lab() }).expect("a director");
    let backends = crowd(&mut director, TCP4);
    assert!(event(&director, "event-placed-by-hash") > 0, "too few to fill the table");
    assert!(backends.values().all(|backend| *backend == 1), "{backends:?}");
}

#[test]
fn those_placed_by_hash_use_every_backend() {
    let mut director = tiny(TCP4);
    let stored_before = crowd(&mut director, TCP4);
    let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
    let mut by_hash: BTreeMap<u8, u32> = BTreeMap::new();
    for (_, backend) in stored_before.iter().filter(|(port, _)| !stored.contains(port)) {
        *by_hash.entry(*backend).or_default() += 1;
    }
    // 136 or more in thirds: fewer than 20 of one would be a matter of 1 in 10^7.
    assert!(by_hash.len() == 3 && by_hash.values().all(|count| *count >= 20), "{by_hash:?}");
}

#[test]
fn a_connection_is_counted_once_however_it_was_placed() {
    for kind in [TCP4, TCP6] {
        let mut director = tiny(kind);
        for port in crowd(&mut director, kind).into_keys() {
            send(&mut director, &kind.later().from_port(port)).expect("forwarded");
        }
        let snapshot = director.maps().snapshot().expect("a snapshot");
        let service = *snapshot.services.keys().next().expect("a service");
        let counted = director.maps().service_counters(service).expect("counters");
        assert_eq!((counted.connections, counted.packets), (u64::from(CLIENTS), 3 * u64::from(CLIENTS)));
    }
}

#[test]
fn those_placed_by_hash_stay_when_there_is_room_again() {
    for kind in ALL_KINDS {
        let mut director = tiny(kind);
        let backends = crowd(&mut director, kind);
        let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
        let empty = |director: &Director| {
            for flow in director.flows() {
                assert!(director.maps().flush(&flow, director.clock.now()));
            }
        };
        // One at a time: of several some could find both of their buckets full.
        for (port, backend) in backends.iter().filter(|(port, _)| !stored.contains(port)).take(20) {
            empty(&director);
            for _ in 0..2 {
                let seen = send(&mut director, &kind.later().from_port(*port));
                assert_eq!(seen, Ok(*backend), "{} port {port}", kind.name);
            }
            let entries: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
            assert_eq!(entries, [*port], "{}: it has an entry now", kind.name);
        }
    }
}

#[test]
fn those_placed_by_hash_go_on_as_long_as_they_send() {
    let timeouts = Timeouts { tcp_syn: 1, udp: 1, ..Timeouts::default() };
    for kind in [TCP4, TCP6] {
        let want = Desired { timeouts, services: vec![kind.service(PORT, &[1, 2, 3])], ..lab() };
        let mut director = Director::new(TINY, &want).expect("a director");
        let backends = crowd(&mut director, kind);
        let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
        let (port, backend) =
            backends.iter().find(|(port, _)| !stored.contains(port)).expect("one without an entry");
        // Three times as long as packets are placed by hash after the last that had to be.
        let end = director.tick_in(3);
        while !end.is_past(director.clock.now()) {
            assert_eq!(send(&mut director, &kind.later().from_port(*port)), Ok(*backend), "{}", kind.name);
        }
    }
}

#[test]
fn closing_flows_and_then_half_open_ones_give_way() {
    for kind in [TCP4, TCP6] {
        let mut director = tiny(kind);
        let (early, syn) = (1000..1400, kind.open());
        // Half-open ones fill the table and give way to each other.
        for port in early {
            send(&mut director, &syn.from_port(port)).expect("forwarded");
        }
        assert_eq!(event(&director, "event-placed-by-hash"), 0, "{}", kind.name);
        assert!(event(&director, "event-evicted") >= 400 - SLOTS as u64, "{}", kind.name);
        // A few of those that are left end; the next ones take their entries before any half-open one's.
        let ending: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).step_by(2).collect();
        for port in &ending {
            for flags in [ACK, FIN | ACK] {
                send(&mut director, &syn.from_port(*port).flags(flags)).expect("forwarded");
            }
        }
        let half_open = |director: &Director| {
            let flows = director.flows();
            flows
                .into_iter()
                .filter(|f| f.value.state().is_half_open())
                .map(|f| f.client_port)
                .collect::<Vec<_>>()
        };
        let before = half_open(&director);
        send(&mut director, &syn.from_port(9000)).expect("forwarded");
        let after = half_open(&director);
        let lost = before.iter().filter(|port| !after.contains(port)).count();
        let closing = director.flows().iter().filter(|flow| flow.value.state().is_closing()).count();
        // Both of its buckets without a closing flow: possible, and then a half-open one had to go.
        assert_eq!(lost + ending.len() - closing, 1, "{}: exactly one gave way", kind.name);
    }
}
