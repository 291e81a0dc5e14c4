//! Under pressure what is unfinished and idle gives way to the sweeper; what is established stays.

use std::collections::BTreeMap;

use lb::{
    model::{Guard, Persistence, Scope},
    plan::Desired,
};
use lb_common::tcp::{State, flag::*};
use lb_tests::xdp::Director;

use crate::world::*;

/// Client ports and what was sent from them.
const LIVES: [(u16, &[u8]); 5] = [
    (1, &[SYN]),
    (2, &[SYN, ACK]),
    (3, &[SYN, ACK, FIN | ACK]),
    (4, &[SYN, FIN | ACK]),
    (5, &[SYN, ACK, ACK]),
];

fn ports(director: &Director) -> BTreeMap<u16, State> {
    director.flows().iter().map(|flow| (flow.client_port, flow.value.state())).collect()
}

#[test]
fn the_sweeper_takes_what_is_unfinished_and_idle() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&every_kind());
        for (port, flags) in LIVES {
            for flags in flags {
                assert_eq!(send(&mut director, &kind.open().from_port(port).flags(*flags)), Ok(1));
            }
        }
        let udp = if kind.is_ipv6 { UDP6 } else { UDP4 };
        assert_eq!(send(&mut director, &udp.open().from_port(6)), Ok(1));
        let before = ports(&director);
        assert_eq!(before.len(), 6, "{}", kind.name);
        // Not idle long enough; no pressure.
        director.press(Some(10));
        director.sweep_in(8).expect("swept");
        director.press(None);
        director.sweep_in(30).expect("swept");
        assert_eq!(ports(&director), before, "{}", kind.name);
        director.press(Some(10));
        director.sweep_in(12).expect("swept");
        assert_eq!(director.pruned(), 3, "{}", kind.name);
        let left = ports(&director);
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), [2, 5, 6], "{}", kind.name);
        assert!(left.iter().all(|(port, state)| before[port] == *state), "{}: {left:?}", kind.name);
        // Counted out, and not as handshakes that ran out.
        let snapshot = director.maps().snapshot().expect("a snapshot");
        let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
        let sum =
            counts.fold((0, 0, 0), |sum, it| (sum.0 + it.active, sum.1 + it.inactive, sum.2 + it.incomplete));
        assert_eq!(sum, (2, 1, 0), "{}", kind.name);
        for port in [2, 5] {
            assert_eq!(
                send(&mut director, &kind.later().from_port(port)),
                Ok(1),
                "{} port {port}",
                kind.name
            );
        }
    }
}

/// A connection that was placed by hash waits as half-open, though it may be established.
#[test]
fn it_leaves_what_was_placed_by_hash() {
    let mut service = TCP4.service(PORT, &[1, 2]);
    service.options.guard = Guard::Rate(1);
    let mut director = director(&Desired { services: vec![service], ..lab() });
    // Beyond the guard's burst.
    open(&mut director, TCP4, 1000..1040);
    let stored = ports(&director);
    let port = (1000..1040).find(|port| !stored.contains_key(port)).expect("one without an entry");
    send(&mut director, &TCP4.later().from_port(port)).expect("forwarded");
    assert_eq!(ports(&director).get(&port), Some(&State::SYN_RECV));
    director.press(Some(10));
    director.sweep_in(20).expect("swept");
    assert_eq!(director.pruned(), stored.len() as u64);
    assert_eq!(ports(&director).into_keys().collect::<Vec<_>>(), [port]);
}

/// A template goes as its client's connections do, if none was ever established: IPVS drops it with the last of them.
#[test]
fn it_leaves_the_templates_of_established_connections() {
    let persistent = |kind: Kind| {
        let mut service = kind.service(PORT, &[1, 2]);
        service.options.persistence =
            Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
        service
    };
    let cases = [
        (TCP4, false, 8, 0, 1),
        (TCP4, false, 20, 11, 0),
        (TCP6, false, 20, 11, 0),
        (TCP4, true, 20, 9, 1),
        (TCP6, true, 20, 9, 1),
        // Of datagrams nobody knows.
        (UDP4, false, 20, 0, 1),
    ];
    for (kind, establishes, idle, pruned, left) in cases {
        let mut director = director(&Desired { services: vec![persistent(kind)], ..lab() });
        open(&mut director, kind, 1000..1010);
        if establishes {
            assert!(send(&mut director, &kind.later().from_port(1000)).is_ok());
        }
        director.press(Some(10));
        director.sweep_in(idle).expect("swept");
        let templates = director.flows().iter().filter(|flow| flow.value.is_template()).count();
        let name = format!("{}, established: {establishes}, idle for {idle} s", kind.name);
        assert_eq!((director.pruned(), templates), (pruned, left), "{name}");
    }
}
