//! What is counted: per service, per backend, and every way out of the program.

use lb::plan::Desired;
use lb_common::{counters::Counters, tcp::flag::*, verdict::Verdict};
use lb_tests::xdp::Director;

use crate::world::*;

/// Counters by service id and by destination id.
fn counted(director: &Director) -> (Vec<Counters>, Vec<Counters>) {
    let (maps, snapshot) = (director.maps(), director.maps().snapshot().expect("a snapshot"));
    let services = snapshot.services.keys().map(|id| maps.service_counters(*id).expect("counters"));
    let dests = snapshot.dests.keys().map(|id| maps.dest_counters(*id).expect("counters").served);
    (services.collect(), dests.collect())
}

#[test]
fn connections_packets_and_bytes_are_counted_per_service_and_backend() {
    for kind in ALL_KINDS {
        let mut director = director(&Desired { services: vec![kind.service(PORT, &[1, 2])], ..lab() });
        let mut expected = [Counters::default(); 2];
        for (i, port) in (1000..1005u16).enumerate() {
            // Lengths of their own, and a trailer and tags that are not the packet's.
            for length in [0, 1, 100, 1400] {
                let packet = kind.open().from_port(port).with(|p| {
                    p.payload = vec![7; length];
                    p.trailer = vec![0; 20];
                });
                send(&mut director, &packet).expect("forwarded");
                expected[i % 2].packets += 1;
                expected[i % 2].bytes += packet.ip_length() as u64;
            }
            expected[i % 2].connections += 1;
        }
        // What is not forwarded does not count.
        let other =
            [kind.open().from_port(1000).ttl(1), kind.open().to_port(1), kind.open().fragment(8, true)];
        for packet in other {
            assert!(send(&mut director, &packet).is_err());
        }
        let (services, dests) = counted(&director);
        assert_eq!(dests, expected, "{}", kind.name);
        let [a, b] = expected;
        let sum = Counters {
            connections: a.connections + b.connections,
            packets: a.packets + b.packets,
            bytes: a.bytes + b.bytes,
        };
        assert_eq!(services, [sum], "{}", kind.name);
    }
}

#[test]
fn the_counters_of_a_deleted_service_are_not_its_successors() {
    let mut want = Desired { services: vec![TCP4.service(PORT, &[1])], ..lab() };
    let mut director = director(&want);
    send(&mut director, &TCP4.open()).expect("forwarded");
    want.services = Vec::new();
    director.configure(&want).expect("configured");
    director.sweep_in(1000).expect("swept");
    want.services = vec![TCP4.service(80, &[2])];
    director.configure(&want).expect("configured");
    assert_eq!(counted(&director), (vec![Counters::default()], vec![Counters::default()]));
}

#[test]
fn a_connection_that_is_scheduled_anew_counts_again() {
    let mut director = director(&Desired { services: vec![TCP4.service(PORT, &[1])], ..lab() });
    for flags in [SYN, SYN, ACK, RST, SYN, ACK] {
        send(&mut director, &TCP4.open().flags(flags)).expect("forwarded");
    }
    let (services, _) = counted(&director);
    assert_eq!((services[0].connections, services[0].packets), (2, 6));
}

#[test]
fn names_of_verdicts_say_what_is_done_with_the_packet() {
    for verdict in Verdict::ALL {
        let class = verdict.name().split('-').next();
        assert!(matches!(class, Some("forwarded" | "passed" | "answered" | "dropped")), "{}", verdict.name());
    }
}
