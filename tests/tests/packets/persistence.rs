//! Persistence: a client's connections go where its first one went (`ip_vs_sched_persist` in `ip_vs_core.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb::{
    dataplane::FlowEntry,
    model::{Persistence, Scheduler::Rr, Scope},
    plan::{Desired, dest_address},
};
use lb_common::{tcp::flag::*, template::ASSURED, verdict::Verdict::*};
use lb_tests::{packet::Packet, xdp::Director};

use crate::world::*;

const TIMEOUT: u32 = 15;

fn persistent(kind: Kind, weights: &[(u8, u16)], granularity: Option<u8>) -> Desired {
    let mut service = kind.weighted(PORT, Rr, weights);
    service.options.persistence = Some(Persistence { timeout: TIMEOUT, granularity, scope: Scope::Service });
    Desired { services: vec![service], ..lab() }
}

/// The kind's client number `n`, of two in each /24 or /64.
fn from_client(kind: Kind, n: u8) -> Packet {
    let address: IpAddr = if kind.is_ipv6 {
        Ipv6Addr::new(0xfd00, 0xc, 0, u16::from(n / 2), 0, 0, 0, u16::from(n)).into()
    } else {
        Ipv4Addr::new(10, 1, n / 2, n).into()
    };
    kind.open().with(|p| p.source.set_ip(address))
}

fn opened(director: &mut Director, kind: Kind, client: u8, port: u16) -> u8 {
    send(director, &from_client(kind, client).from_port(port)).expect("forwarded")
}

fn templates(director: &Director) -> Vec<FlowEntry> {
    director.flows().into_iter().filter(|flow| flow.value.is_template()).collect()
}

/// Seconds until the only template runs out.
fn left(director: &Director) -> u32 {
    let [template] = templates(director)[..] else { panic!("one template: {:?}", templates(director)) };
    director.clock.seconds_until(director.maps().expiry(template.value))
}

#[test]
fn a_client_stays_with_its_backend() {
    for kind in ALL_KINDS {
        let mut director = director(&persistent(kind, &[(1, 1), (2, 1), (3, 1)], None));
        for round in 0..3 {
            for client in 0..6 {
                let backend = opened(&mut director, kind, client, 1000 + round);
                assert_eq!(backend, client % 3 + 1, "{} client {client} round {round}", kind.name);
            }
        }
        assert_eq!((templates(&director).len(), director.flows().len()), (6, 6 + 18), "{}", kind.name);
        // Templates are no connections, to the sweeper neither, which would heal the counts twice over by now.
        for _ in 0..4 {
            let snapshot = director.maps().snapshot().expect("a snapshot");
            let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
            assert_eq!(
                counts.map(|counts| counts.active + counts.inactive).sum::<u64>(),
                18,
                "{}",
                kind.name
            );
            director.sweep_in(0).expect("swept");
        }
    }
}

#[test]
fn a_network_of_clients_may_count_as_one() {
    for (kind, granularity) in [(TCP4, 24), (UDP6, 64), (SCTP4, 24)] {
        let mut director = director(&persistent(kind, &[(1, 1), (2, 1)], Some(granularity)));
        let turns: Vec<u8> = (0..8).map(|client| opened(&mut director, kind, client, 1000)).collect();
        assert_eq!(turns, [1, 1, 2, 2, 1, 1, 2, 2], "{}", kind.name);
        assert_eq!(templates(&director).len(), 4);
    }
}

#[test]
fn all_ports_of_an_address_share_a_template() {
    let mut service = TCP4.service(0, &[1, 2]);
    service.options.persistence =
        Some(Persistence { timeout: TIMEOUT, granularity: None, scope: Scope::Service });
    let mut director = director(&Desired { services: vec![service], ..lab() });
    let to = |port: u16| TCP4.open().with(|p| p.dest.set_port(port));
    for port in [20, 21, 4000] {
        assert_eq!(send(&mut director, &to(port)), Ok(1), "port {port}");
    }
    assert_eq!(opened(&mut director, TCP4, 9, 1000), 2);
}

#[test]
fn a_quiesced_backend_keeps_its_clients_and_a_removed_one_does_not() {
    let mut director = director(&persistent(TCP4, &[(1, 1), (2, 1)], None));
    assert_eq!(opened(&mut director, TCP4, 0, 1000), 1);
    director.configure(&persistent(TCP4, &[(1, 0), (2, 1)], None)).expect("configured");
    assert_eq!(opened(&mut director, TCP4, 0, 1001), 1, "as in IPVS");
    assert_eq!(opened(&mut director, TCP4, 1, 1000), 2, "but no new clients");
    director.configure(&persistent(TCP4, &[(2, 1)], None)).expect("configured");
    assert_eq!(opened(&mut director, TCP4, 0, 1002), 2);
    assert_eq!(templates(&director).len(), 2, "the old template was taken over");
    // The connections of the removed backend are dropped, the new one's are not.
    assert_eq!(
        send(&mut director, &from_client(TCP4, 0).from_port(1000).flags(ACK)),
        Err(DroppedBackendRemoved)
    );
    assert_eq!(send(&mut director, &from_client(TCP4, 0).from_port(1002).flags(ACK)), Ok(2));
}

#[test]
fn a_quiesced_backend_loses_its_clients_where_templates_shall_expire() {
    for kind in [TCP4, UDP6, SCTP4] {
        let mut want = persistent(kind, &[(1, 1), (2, 1)], None);
        want.services[0].options.expire_quiescent_template = true;
        let mut director = director(&want);
        assert_eq!(opened(&mut director, kind, 0, 1000), 1);
        want.services[0].backends[0].drained = true;
        director.configure(&want).expect("configured");
        assert_eq!(opened(&mut director, kind, 0, 1001), 2, "{}", kind.name);
        let later = from_client(kind, 0).from_port(1000).flags(kind.later().flags);
        assert_eq!(send(&mut director, &later), Ok(1));
        want.services[0].backends[0].drained = false;
        director.configure(&want).expect("configured");
        assert_eq!(opened(&mut director, kind, 0, 1002), 2, "the old template does not come back");
    }
}

/// IPVS re-keys a template that leads nobody (`ip_vs_check_template`).
#[test]
fn a_template_that_led_nowhere_is_over_when_its_backend_comes_back() {
    let mut director = director(&persistent(TCP4, &[(1, 1)], None));
    assert_eq!(opened(&mut director, TCP4, 0, 1000), 1);
    director.configure(&persistent(TCP4, &[], None)).expect("configured");
    assert_eq!(send(&mut director, &from_client(TCP4, 0).from_port(1001)), Err(DroppedNoBackend));
    assert!(templates(&director).is_empty());
    director.configure(&persistent(TCP4, &[(2, 1), (1, 1)], None)).expect("configured");
    assert_eq!(opened(&mut director, TCP4, 0, 1001), 2);
}

#[test]
fn an_overloaded_backend_keeps_its_clients() {
    let mut want = persistent(TCP4, &[(1, 1), (2, 1)], None);
    want.services[0].backends[0].upper_threshold = 1;
    let mut director = director(&want);
    assert_eq!(opened(&mut director, TCP4, 0, 1000), 1);
    assert_eq!(opened(&mut director, TCP4, 0, 1001), 1);
    assert_eq!(opened(&mut director, TCP4, 1, 1000), 2);
}

#[test]
fn a_syn_on_a_closing_connection_stays_too() {
    let mut director = director(&persistent(TCP4, &[(1, 1), (2, 1)], None));
    assert_eq!(opened(&mut director, TCP4, 0, 1000), 1);
    for flags in [ACK, RST, SYN] {
        let packet = from_client(TCP4, 0).from_port(1000).flags(flags);
        assert_eq!(send(&mut director, &packet), Ok(1), "{flags:#x}");
    }
}

#[test]
fn a_template_is_assured_by_a_connection_that_is_established() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&persistent(kind, &[(1, 1)], None));
        opened(&mut director, kind, 0, 1000);
        assert!(templates(&director).iter().all(|template| template.value.state() != ASSURED));
        send(&mut director, &from_client(kind, 0).from_port(1000).flags(ACK)).expect("forwarded");
        assert!(templates(&director).iter().all(|template| template.value.state() == ASSURED));
    }
    let mut director = director(&persistent(UDP4, &[(1, 1)], None));
    for _ in 0..3 {
        opened(&mut director, UDP4, 0, 1000);
    }
    assert!(templates(&director).iter().all(|template| template.value.state() != ASSURED), "as in IPVS");
}

/// On accelerated time. The sweeper sees one that has run out in one round and decides in the next.
#[test]
fn a_template_lives_as_long_as_it_controls_connections() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&persistent(kind, &[(1, 1)], None));
        opened(&mut director, kind, 0, 1000);
        send(&mut director, &from_client(kind, 0).from_port(1000).flags(FIN | ACK)).expect("forwarded");
        // TIME_WAIT, 120 s. It runs out after 15 s and is armed again for 60 s, after 17 s and after 79.
        for seconds in [14, 16, 17, 76, 78, 79, 119] {
            director.sweep_in(seconds).expect("swept");
            assert_eq!(templates(&director).len(), 1, "{} after {seconds} s", kind.name);
        }
        // The connection ends after 120 s; the template is looked at again after 139 s.
        for (seconds, left) in [(121, 1), (138, 1), (140, 1), (141, 0)] {
            director.sweep_in(seconds).expect("swept");
            assert_eq!(templates(&director).len(), left, "{} after {seconds} s", kind.name);
        }
        assert!(director.flows().is_empty());
    }
}

/// The connections of a template that leads nobody any more do not keep the next one alive, nor assure it.
#[test]
fn a_template_controls_only_what_goes_to_its_backend() {
    let mut director = director(&persistent(TCP4, &[(1, 1), (2, 1)], None));
    assert_eq!(opened(&mut director, TCP4, 0, 1000), 1);
    director.configure(&persistent(TCP4, &[(2, 1)], None)).expect("configured");
    assert_eq!(opened(&mut director, TCP4, 0, 1001), 2);
    director.configure(&persistent(TCP4, &[(1, 1), (2, 1)], None)).expect("configured");
    assert_eq!(send(&mut director, &from_client(TCP4, 0).from_port(1000).flags(ACK)), Ok(1));
    assert!(templates(&director).iter().all(|template| template.value.state() != ASSURED));
    let of_two = director.flows().into_iter().find(|flow| flow.client_port == 1001).expect("the connection");
    assert!(director.maps().flush(&of_two, director.clock.now()));
    for seconds in [TIMEOUT + 1, TIMEOUT + 2] {
        director.sweep_in(seconds).expect("swept");
    }
    assert!(templates(&director).is_empty(), "the connection to 1 is none of its");
}

/// `ip_vs_sched_persist` alone begins a template's time anew.
#[test]
fn new_connections_renew_it_and_packets_of_others_do_not() {
    for kind in [TCP4, UDP6, SCTP4] {
        let mut director = director(&persistent(kind, &[(1, 1), (2, 1)], None));
        let later = from_client(kind, 0).from_port(1000).flags(kind.later().flags);
        opened(&mut director, kind, 0, 1000);
        // One before INIT's four seconds are over.
        for seconds in [3, 7] {
            director.pass(seconds).expect("it passed");
            assert_eq!(send(&mut director, &later), Ok(1));
        }
        assert!((4..=5).contains(&left(&director)), "{}: {} s left", kind.name, left(&director));
        opened(&mut director, kind, 0, 1001);
        assert!((TIMEOUT - 1..=TIMEOUT).contains(&left(&director)), "{}: {} s", kind.name, left(&director));
    }
}

/// Its number would be given to another one, and the client led there.
#[test]
fn a_removed_backend_is_not_forgotten_before_the_template_that_leads_there() {
    let mut want = persistent(UDP4, &[(1, 1), (2, 1)], None);
    let mut director = director(&want);
    assert_eq!(opened(&mut director, UDP4, 0, 1000), 1);
    let id = templates(&director)[0].value.dest();
    let is_there = |director: &Director| {
        let dest = director.maps().snapshot().expect("a snapshot").dests.remove(&id);
        dest.is_some_and(|dest| dest_address(&dest) == UDP4.backend(1))
    };
    want.services[0].backends.remove(0);
    director.configure(&want).expect("configured");
    for _ in 0..3 {
        director.sweep_in(0).expect("swept");
    }
    assert_eq!((director.flows().len(), templates(&director).len()), (1, 1), "the connection has ended");
    assert!(is_there(&director));
    for seconds in [TIMEOUT + 1, TIMEOUT + 2, TIMEOUT + 2] {
        director.sweep_in(seconds).expect("swept");
    }
    assert!(director.flows().is_empty() && !is_there(&director), "and then it is");
}

/// A range has the number of its address's port 0, though that is another service's.
#[test]
fn templates_of_a_range_are_not_those_of_the_port_0_behind_it() {
    for (kind, scope) in [(TCP4, Scope::Endpoint), (UDP6, Scope::Endpoint), (TCP4, Scope::Service)] {
        let (mut range, mut rest) = (kind.service(PORT - 6, &[1]), kind.service(0, &[2]));
        range.endpoint.last_port = Some(PORT + 6);
        range.name = range.endpoint.default_name();
        for service in [&mut range, &mut rest] {
            service.options.persistence = Some(Persistence { timeout: TIMEOUT, granularity: None, scope });
        }
        let mut director = director(&Desired { services: vec![range, rest], ..lab() });
        let connect = |director: &mut Director, (client, port)| {
            let packet = kind.open().from_port(client).to_port(port);
            send(director, &packet).expect("forwarded")
        };
        let went = [(1, 9), (2, PORT), (3, 9), (4, PORT)].map(|to| connect(&mut director, to));
        assert_eq!((went, templates(&director).len()), ([2, 1, 2, 1], 2), "{} {scope:?}", kind.name);
    }
}

/// Where each endpoint has templates of its own, its number stands in their keys.
#[test]
fn a_deleted_endpoint_is_not_forgotten_before_its_templates() {
    const LONG: u32 = 600;
    let mut want = persistent(UDP4, &[(1, 1)], None);
    want.services[0].options.persistence =
        Some(Persistence { timeout: LONG, granularity: None, scope: Scope::Endpoint });
    let mut director = director(&want);
    opened(&mut director, UDP4, 0, 1000);
    let id = templates(&director)[0].endpoint.expect("an endpoint's");
    let is_there = |director: &Director| {
        let endpoints = director.maps().snapshot().expect("a snapshot").endpoints;
        endpoints.values().any(|endpoint| endpoint.id() == id)
    };
    director.configure(&lab()).expect("configured");
    for _ in 0..3 {
        // Its connection has ended.
        director.sweep_in(301).expect("swept");
        assert!(is_there(&director));
    }
    assert_eq!((director.flows().len(), templates(&director).len()), (1, 1));
    for seconds in [LONG + 1, LONG + 2, LONG + 2] {
        director.sweep_in(seconds).expect("swept");
    }
    assert!(director.flows().is_empty() && !is_there(&director));
}

/// `ip_vs_conn_expire` overwrites the timeout.
#[test]
fn once_armed_again_new_connections_renew_it_for_a_minute() {
    let mut director = director(&persistent(TCP4, &[(1, 1)], None));
    opened(&mut director, TCP4, 0, 1000);
    for seconds in [TIMEOUT + 1, TIMEOUT + 2] {
        director.sweep_in(seconds).expect("swept");
    }
    assert!(left(&director) >= 60 + TIMEOUT, "{}", left(&director));
    opened(&mut director, TCP4, 0, 1002);
    assert!((59..=60).contains(&left(&director)), "{}", left(&director));
}

/// A connection that is taken up in its middle is established at once.
#[test]
fn a_sloppy_connection_assures_its_template() {
    let mut want = persistent(TCP4, &[(1, 1)], None);
    want.services[0].options.sloppy_tcp = true;
    let mut director = director(&want);
    assert_eq!(send(&mut director, &from_client(TCP4, 0).flags(ACK)), Ok(1));
    assert!(templates(&director).iter().all(|template| template.value.state() == ASSURED));
}

#[test]
fn a_template_without_connections_ends_at_its_timeout() {
    let mut director = director(&persistent(TCP4, &[(1, 1), (2, 1)], None));
    opened(&mut director, TCP4, 0, 1000);
    let flow = director.flows().into_iter().find(|flow| !flow.value.is_template()).expect("the connection");
    assert!(director.maps().flush(&flow, director.clock.now()));
    director.sweep_in(TIMEOUT - 1).expect("swept");
    director.sweep_in(TIMEOUT + 1).expect("swept");
    assert_eq!(templates(&director).len(), 1);
    director.sweep_in(TIMEOUT + 2).expect("swept");
    assert_eq!(director.flows().len(), 0);
    assert_eq!(opened(&mut director, TCP4, 0, 1001), 2, "the rotation goes on");
}
