//! Who may open connections to a service, and how many: rules by prefix. What is known goes on.
//!
//! Limits here are of one a minute, so that within a test time gives nobody room.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use lb::{
    clock::kernel_hz,
    model::{Endpoint, Guard, Persistence, Scope, Service, sources::rule},
    plan::{Desired, plan},
};
use lb_common::{
    source::MAX_RULES,
    tcp::flag::*,
    verdict::Verdict::{self, *},
};
use lb_tests::{clock, packet::Packet, xdp::Director};

use crate::world::*;

fn ruled(service: Service, rules: &[&str]) -> Desired {
    let sources = rules.iter().map(|text| rule(text).expect("a rule")).collect();
    Desired { services: vec![Service { sources, ..service }], ..lab() }
}

/// Clients 1 and 2 of two networks each, beside the world's own; `number` 11 is client 1 of network 1.
fn client(kind: Kind, number: u8) -> IpAddr {
    let (network, host) = (number / 10, number % 10);
    match kind.is_ipv6 {
        true => format!("2001:db8:{network}::{host}").parse().expect("an address"),
        false => [10, 20, network, host].into(),
    }
}

/// The network of clients, or all of them.
fn network(kind: Kind, number: Option<u8>) -> String {
    match (kind.is_ipv6, number) {
        (true, Some(number)) => format!("2001:db8:{number}::/48"),
        (true, None) => "::/0".to_owned(),
        (false, Some(number)) => format!("10.20.{number}.0/24"),
        (false, None) => "0.0.0.0/0".to_owned(),
    }
}

fn from(packet: Packet, client: IpAddr) -> Packet {
    packet.with(|p| p.source.set_ip(client))
}

/// What becomes of a new connection from each of so many ports: how many were opened, and what the others got.
fn attempts(director: &mut Director, kind: Kind, client: IpAddr, ports: Range<u16>) -> (usize, Vec<Verdict>) {
    let open = from(kind.open(), client);
    let seen: Vec<_> = ports.map(|port| send(director, &open.from_port(port))).collect();
    let refused: Vec<Verdict> = seen.iter().filter_map(|seen| seen.err()).collect();
    (seen.len() - refused.len(), refused)
}

fn opens(director: &mut Director, kind: Kind, client: IpAddr, port: u16) -> Result<u8, Verdict> {
    send(director, &from(kind.open(), client).from_port(port))
}

#[test]
fn the_longest_prefix_decides_who_opens_connections() {
    for kind in ALL_KINDS {
        let one = client(kind, 11);
        let rules = [
            format!("{} deny", network(kind, None)),
            format!("{} allow", network(kind, Some(1))),
            format!("{one} deny"),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut director = director(&ruled(kind.service(PORT, &[1]), &rules));
        assert_eq!(opens(&mut director, kind, one, 1), Err(DroppedDenied), "{}", kind.name);
        assert_eq!(opens(&mut director, kind, client(kind, 12), 1), Ok(1), "{}", kind.name);
        assert_eq!(opens(&mut director, kind, client(kind, 21), 1), Err(DroppedDenied), "{}", kind.name);
        // Rules are changed under traffic, each by itself, and taken away.
        director.configure(&ruled(kind.service(PORT, &[1]), &rules[..1])).expect("configured");
        assert_eq!(opens(&mut director, kind, client(kind, 12), 2), Err(DroppedDenied), "{}", kind.name);
        assert_eq!(opens(&mut director, kind, client(kind, 12), 1), Ok(1), "{}: it is known", kind.name);
        director.configure(&ruled(kind.service(PORT, &[1]), &[])).expect("configured");
        for number in [11, 12, 21] {
            assert_eq!(opens(&mut director, kind, client(kind, number), 3), Ok(1), "{}", kind.name);
        }
        assert!(director.maps().snapshot().expect("a snapshot").rules.is_empty());
    }
}

#[test]
fn an_established_connection_goes_on_when_its_client_is_denied() {
    for kind in ALL_KINDS {
        let deny = format!("{} deny", network(kind, Some(1)));
        let mut director = director(&ruled(kind.service(PORT, &[1, 2]), &[]));
        let (open, later) = (from(kind.open(), client(kind, 11)), from(kind.later(), client(kind, 11)));
        let backend = send(&mut director, &open).expect("forwarded");
        assert_eq!(send(&mut director, &later), Ok(backend));
        director.configure(&ruled(kind.service(PORT, &[1, 2]), &[&deny])).expect("configured");
        for _ in 0..3 {
            assert_eq!(send(&mut director, &later), Ok(backend), "{}", kind.name);
        }
        if let Some([end, reset]) = kind.ending() {
            // Until it ends: its client's next one is new.
            assert_eq!(send(&mut director, &later.flags(end)), Ok(backend), "{}", kind.name);
            assert_eq!(send(&mut director, &later.flags(reset)), Ok(backend), "{}", kind.name);
            assert_eq!(send(&mut director, &open), Err(DroppedDenied), "{}", kind.name);
        }
        assert_eq!(send(&mut director, &open.from_port(1)), Err(DroppedDenied), "{}", kind.name);
    }
}

#[test]
fn a_source_opens_a_burst_and_then_what_its_rate_allows() {
    for kind in ALL_KINDS {
        let limit = format!("{} limit 1/m burst 5", network(kind, None));
        let mut director = director(&ruled(kind.service(PORT, &[1, 2]), &[&limit]));
        let (opened, refused) = attempts(&mut director, kind, client(kind, 11), 1..21);
        assert_eq!((opened, refused.as_slice()), (5, [DroppedLimited; 15].as_slice()), "{}", kind.name);
        assert_eq!(director.flows().len(), 5, "{}: who is refused leaves nothing behind", kind.name);
        // Its connections go on, and their first packets may come again.
        for port in 1..6 {
            let again = from(kind.open(), client(kind, 11)).from_port(port);
            assert!(send(&mut director, &again).is_ok(), "{} port {port}", kind.name);
            let later = from(kind.later(), client(kind, 11)).from_port(port);
            assert!(send(&mut director, &later).is_ok(), "{} port {port}", kind.name);
        }
        // Others have room of their own; of IPv6 a client is a /64.
        let same = kind.is_ipv6;
        let (opened, _) = attempts(&mut director, kind, client(kind, 12), 1..11);
        assert_eq!(opened, if same { 0 } else { 5 }, "{}", kind.name);
        assert_eq!(attempts(&mut director, kind, client(kind, 21), 1..11).0, 5, "{}", kind.name);
    }
}

#[test]
fn a_network_is_one_source_where_the_rule_says_so() {
    for kind in [TCP4, UDP6] {
        let (together, each) = if kind.is_ipv6 { (48, 128) } else { (24, 32) };
        let rules = [
            format!("{} limit 1/m burst 3 per {together}", network(kind, Some(1))),
            format!("{} limit 1/m burst 3 per {each}", network(kind, Some(2))),
            format!("{} allow", client(kind, 12)),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut director = director(&ruled(kind.service(PORT, &[1]), &rules));
        for (number, opened) in [(11, 3), (13, 0), (12, 9), (21, 3), (22, 3), (31, 9)] {
            let seen = attempts(&mut director, kind, client(kind, number), 1..10);
            assert_eq!(seen.0, opened, "{} client {number}", kind.name);
            assert!(seen.1.iter().all(|why| *why == DroppedLimited), "{}: {:?}", kind.name, seen.1);
        }
    }
}

/// The id of a service is part of a source, and of a rule.
#[test]
fn services_have_rules_and_limits_of_their_own() {
    let limited = ruled(TCP4.service(PORT, &[1]), &["0.0.0.0/0 limit 1/m burst 2"]).services.remove(0);
    let other = ruled(TCP4.service(81, &[1]), &["0.0.0.0/0 limit 1/m burst 4"]).services.remove(0);
    let free = TCP4.service(82, &[1]);
    let mut director = director(&Desired { services: vec![limited, other, free], ..lab() });
    for (port, opened) in [(PORT, 2), (81, 4), (82, 10)] {
        let open = TCP4.open().to_port(port);
        let seen = (1..11).filter(|from| send(&mut director, &open.from_port(*from)).is_ok());
        assert_eq!(seen.count(), opened, "port {port}");
    }
    // A deleted one's rules go with it.
    director.configure(&Desired { services: vec![TCP4.service(82, &[1])], ..lab() }).expect("configured");
    assert!(director.maps().snapshot().expect("a snapshot").rules.is_empty());
}

#[test]
fn they_hold_for_every_endpoint_of_a_group() {
    for kind in ALL_KINDS {
        let at = |port| Endpoint::new(kind.vip(), port, kind.protocol());
        let range = Endpoint { last_port: Some(5100), ..at(5000) };
        let group = Service { group: [at(81), range].into(), ..kind.service(PORT, &[1]) };
        let rules =
            [format!("{} deny", network(kind, Some(1))), format!("{} limit 1/m burst 3", client(kind, 21))];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut director = director(&ruled(group, &rules));
        let mut seen = Vec::new();
        for port in [PORT, 81, 5050, 5100] {
            let open = |number| from(kind.open(), client(kind, number)).to_port(port);
            assert_eq!(send(&mut director, &open(11)), Err(DroppedDenied), "{} port {port}", kind.name);
            assert_eq!(send(&mut director, &open(31)), Ok(1), "{} port {port}", kind.name);
            seen.push(send(&mut director, &open(21)));
        }
        // Its limit is the service's.
        assert_eq!(seen, [Ok(1), Ok(1), Ok(1), Err(DroppedLimited)], "{}", kind.name);
        // Every port.
        let mut whole = ruled(kind.service(0, &[1]), &rules);
        whole.services[0].name = "whole".parse().expect("a name");
        director.configure(&whole).expect("configured");
        let open = |number| from(kind.open(), client(kind, number)).to_port(777);
        assert_eq!(send(&mut director, &open(11)), Err(DroppedDenied), "{}", kind.name);
        assert_eq!(send(&mut director, &open(31)), Ok(1), "{}", kind.name);
    }
}

#[test]
fn with_one_packet_scheduling_each_datagram_is_a_connection() {
    for kind in [UDP4, UDP6] {
        let rules = [
            format!("{} deny", network(kind, Some(1))),
            format!("{} limit 1/m burst 4", network(kind, Some(2))),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut service = kind.service(PORT, &[1, 2]);
        service.options.ops = true;
        let mut director = director(&ruled(service, &rules));
        for (number, opened) in [(11, 0), (21, 4), (31, 10)] {
            let datagram = from(kind.open(), client(kind, number));
            let seen = (0..10).filter(|_| send(&mut director, &datagram).is_ok());
            assert_eq!(seen.count(), opened, "{} client {number}", kind.name);
        }
    }
}

#[test]
fn a_template_lets_nobody_in() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.persistence =
            Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
        let mut director = director(&ruled(service.clone(), &[]));
        let backend = opens(&mut director, kind, client(kind, 11), 1).expect("forwarded");
        let deny = format!("{} deny", network(kind, Some(1)));
        let limit = format!("{} limit 1/m burst 2", network(kind, Some(1)));
        director.configure(&ruled(service.clone(), &[&deny])).expect("configured");
        assert_eq!(opens(&mut director, kind, client(kind, 11), 2), Err(DroppedDenied), "{}", kind.name);
        director.configure(&ruled(service, &[&limit])).expect("configured");
        let seen = [3, 4, 5].map(|port| opens(&mut director, kind, client(kind, 11), port));
        assert_eq!(seen, [Ok(backend), Ok(backend), Err(DroppedLimited)], "{}", kind.name);
        // Nobody who is refused gets a template.
        let denied = client(kind, 12);
        director.configure(&ruled(kind.service(PORT, &[1, 2, 3]), &[&deny])).expect("configured");
        assert_eq!(opens(&mut director, kind, denied, 1), Err(DroppedDenied), "{}", kind.name);
        assert_eq!(
            director.flows().iter().filter(|flow| flow.value.is_template()).count(),
            1,
            "{}",
            kind.name
        );
    }
}

/// What is placed by hash has no entry by which it would be known: it is judged packet by packet, and counted once.
#[test]
fn under_the_guard_rules_hold_and_a_handshake_counts_once() {
    for kind in [TCP4, TCP6] {
        let rules = [
            format!("{} deny", network(kind, Some(1))),
            format!("{} limit 1/m burst 3", network(kind, Some(2))),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.guard = Guard::Rate(1);
        let mut director = director(&ruled(service, &rules));
        let guarded = |director: &Director| {
            let counters = director.counters().expect("counters");
            counters.iter().find(|(name, _)| *name == "event-guarded").map_or(0, |(_, times)| *times)
        };
        attempts(&mut director, kind, client(kind, 31), 1..41);
        assert!(guarded(&director) > 0, "{}", kind.name);
        // A denied client's flood does not use the guard's rate up, nor anything else.
        let before = guarded(&director);
        let (opened, refused) = attempts(&mut director, kind, client(kind, 11), 1..41);
        assert_eq!((opened, refused.len(), guarded(&director)), (0, 40, before), "{}", kind.name);
        let ack = from(kind.later(), client(kind, 11));
        assert_eq!(send(&mut director, &ack), Err(DroppedDenied), "{}", kind.name);
        let mut backends = Vec::new();
        for port in 1..6 {
            let open = from(kind.open(), client(kind, 21)).from_port(port);
            let Ok(backend) = send(&mut director, &open) else { continue };
            backends.push((port, backend));
            for _ in 0..3 {
                assert_eq!(send(&mut director, &open.flags(ACK)), Ok(backend), "{} port {port}", kind.name);
            }
        }
        assert_eq!(backends.len(), 3, "{}: {backends:?}", kind.name);
    }
}

/// A service that takes connections up in their middle: each is a new one.
#[test]
fn a_connection_that_is_taken_up_counts_too() {
    let mut service = TCP4.service(PORT, &[1]);
    service.options.sloppy_tcp = true;
    let rules = ["10.20.1.0/24 deny", "10.20.2.0/24 limit 1/m burst 3"];
    let mut director = director(&ruled(service, &rules));
    for (number, opened) in [(11, 0), (21, 3), (31, 8)] {
        let ack = from(TCP4.later(), client(TCP4, number));
        let seen = (1..9).filter(|port| send(&mut director, &ack.from_port(*port)).is_ok());
        assert_eq!(seen.count(), opened, "client {number}");
    }
}

/// The tables are pinned: neither another program nor another agent gives a source room.
#[test]
fn limits_outlive_program_and_agent() {
    let want = ruled(TCP4.service(PORT, &[1]), &["0.0.0.0/0 limit 1/m burst 3"]);
    let mut director = director(&want);
    assert_eq!(attempts(&mut director, TCP4, client(TCP4, 11), 1..9).0, 3);
    director.start_anew().expect("started anew");
    director.configure(&want).expect("adopted");
    assert_eq!(attempts(&mut director, TCP4, client(TCP4, 11), 11..19).0, 0);
    assert_eq!(attempts(&mut director, TCP4, client(TCP4, 12), 1..9).0, 3);
}

/// A hundred and sixty thousand spoofed sources, more than twice as many as there are places: a source far over its
/// limit stays limited, nobody who has room is refused, and it is told that sources were forgotten.
#[test]
fn a_spoofed_flood_lifts_no_limit_and_holds_nobody_up() {
    const SPOOFED: u32 = 4_000;
    let mut director = director(&ruled(TCP4.service(PORT, &[1, 2]), &["0.0.0.0/0 limit 1/m burst 100"]));
    let heavy = client(TCP4, 11);
    assert_eq!(attempts(&mut director, TCP4, heavy, 1..201).0, 100);
    for part in 0..40 {
        for number in part * SPOOFED..(part + 1) * SPOOFED {
            let spoofed = from(TCP4.open(), (0x0b00_0000 + number).to_be_bytes().into());
            director.send(&spoofed.bytes(), None).expect("sent");
        }
        let port = 1000 + part as u16 * 8;
        assert_eq!(attempts(&mut director, TCP4, heavy, port..port + 8).0, 0, "part {part} of the flood");
        let new = IpAddr::from([10, 30, part as u8, 1]);
        assert_eq!(attempts(&mut director, TCP4, new, 1..4).0, 3, "part {part} of the flood");
    }
    let counters = director.counters().expect("counters");
    let of = |name| counters.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, times)| *times);
    let forgotten = of("event-source-forgotten");
    assert!((94_000..150_000).contains(&forgotten), "{forgotten}");
    assert_eq!(of("dropped-limited"), 100 + 40 * 8);
}

/// As many as there may be, all of one family, then as many others in their place, then none. The times are printed: what
/// an edit costs while there are so many.
#[test]
fn as_many_rules_as_there_may_be_come_change_and_go() {
    for kind in [TCP4, TCP6] {
        let network = |n: u32| -> IpAddr {
            match kind.is_ipv6 {
                true => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n) << 64).into(),
                false => (0x0a10_0000 + n).to_be_bytes().into(),
            }
        };
        let length = if kind.is_ipv6 { 64 } else { 32 };
        let want = |numbers: Range<u32>, action: &str| {
            let text = |n| format!("{}/{length} {action}", network(n));
            let sources = numbers.map(|n| rule(&text(n)).expect("a rule")).collect();
            let service = Service { sources, ..kind.service(PORT, &[1]) };
            Desired { services: vec![service], hz: kernel_hz(), ..lab() }
        };
        let mut director = director(&want(0..0, ""));
        let change = |director: &mut Director, what: &str, want: &Desired| {
            let begin = clock::now();
            let now = director.maps().snapshot().expect("a snapshot");
            let read = clock::now();
            let ops = plan(want, &now).expect("a plan");
            let planned = clock::now();
            director.maps_mut().apply(&ops).unwrap_or_else(|error| panic!("{} {what}: {error:#}", kind.name));
            println!(
                "{} {what}: {} operations; read {:?}, planned {:?}, applied {:?}",
                kind.name,
                ops.len(),
                read - begin,
                planned - read,
                clock::now() - planned
            );
            let now = director.maps().snapshot().expect("a snapshot");
            assert!(plan(want, &now).expect("a plan").is_empty(), "{} {what}", kind.name);
        };
        let is_denied =
            |director: &mut Director, n, port| opens(director, kind, network(n), port) == Err(DroppedDenied);
        change(&mut director, "all come", &want(0..MAX_RULES, "deny"));
        assert!(is_denied(&mut director, 0, 1) && is_denied(&mut director, MAX_RULES - 1, 1));
        assert!(!is_denied(&mut director, MAX_RULES, 1));
        change(&mut director, "all change", &want(0..MAX_RULES, "allow"));
        assert!(!is_denied(&mut director, 0, 2));
        change(&mut director, "all are replaced", &want(MAX_RULES..2 * MAX_RULES, "deny"));
        assert!(!is_denied(&mut director, 0, 3) && is_denied(&mut director, MAX_RULES, 3));
        change(&mut director, "all go", &want(0..0, ""));
        assert!(!is_denied(&mut director, MAX_RULES, 4));
        assert!(director.maps().snapshot().expect("a snapshot").rules.is_empty());
    }
}
