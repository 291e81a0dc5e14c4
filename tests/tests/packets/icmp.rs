//! ICMP errors about a backend's answers go to that backend, whose path MTU discovery needs them; everything else of
//! ICMP goes to the director's stack.

use std::net::SocketAddr;

use lb::{
    model::{Guard, Persistence, Scope},
    plan::Desired,
};
use lb_common::{tcp::flag::ACK, verdict::Verdict::*};
use lb_tests::{
    packet::{ICMP, ICMPV6, Icmp, Packet},
    xdp::Director,
};

use crate::{
    table::{Case, Expect, case, check, passed, raw, tx_frame},
    world::*,
};

/// The router on the way to the client that cannot forward a backend's answers.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xd, 1];

/// What a backend answers `kind.open()` from port `port` with.
fn answer(kind: Kind, port: u16) -> Packet {
    let answer = kind.open().from_port(port).turned();
    if kind.is_udp { answer } else { answer.flags(ACK) }
}

fn error(kind: Kind, what: Icmp, about: &Packet, quoted: usize) -> Vec<u8> {
    about.error_to_sender(what, ETH0_MAC, ROUTER_MAC, kind.router(), quoted)
}

/// The error as it leaves for backend `number`.
fn to_backend(kind: Kind, frame: &[u8], number: u8) -> Expect {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&backend_mac(number));
    frame[6..12].copy_from_slice(&ETH0_MAC);
    if kind.is_ipv6 {
        frame[14 + 7] -= 1;
    } else {
        let header: [u8; 20] = frame[14..34].try_into().expect("a header");
        let mut header = etherparse::Ipv4Header::from_slice(&header).expect("valid").0;
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        frame[14..34].copy_from_slice(&header.to_bytes());
    }
    tx_frame(frame)
}

/// A director with two backends of every kind, and a connection of each client port from 1001 to each by turns.
fn connected(port: u16) -> Director {
    connected_by(port, None)
}

/// The same with a range of ports.
fn connected_by(port: u16, last_port: Option<u16>) -> Director {
    let mut services = KINDS.map(|kind| kind.service(port, &[1, 2])).to_vec();
    services.iter_mut().for_each(|service| service.endpoint.last_port = last_port);
    let mut director = director(&Desired { services, ..lab() });
    for kind in KINDS {
        let mut turn = |from| send(&mut director, &kind.open().from_port(from)).expect("forwarded");
        assert_eq!([turn(1001), turn(1002)], [1, 2]);
    }
    director
}

#[test]
fn an_error_about_a_connection_goes_to_its_backend() {
    for (port, last_port) in [(PORT, None), (0, None), (PORT - 6, Some(PORT + 6))] {
        let mut director = connected_by(port, last_port);
        for kind in KINDS {
            let before = director.flows().len();
            for (from, backend) in [(1001, 1), (1002, 2)] {
                let about = answer(kind, from);
                let least = if kind.is_ipv6 { 48 } else { 28 };
                let kinds = [Icmp::TooBig(1280), Icmp::TimeExceeded, Icmp::PortUnreachable];
                let cases = kinds.into_iter().flat_map(|what| {
                    [least, 400].map(|quoted| {
                        let frame = error(kind, what, &about, quoted);
                        let expect = to_backend(kind, &frame, backend);
                        raw(format!("{} {what:?} {quoted} bytes", kind.name), frame, expect)
                    })
                });
                check(&mut director, cases);
            }
            assert_eq!(director.flows().len(), before, "an error opens nothing");
        }
    }
}

/// Whatever it says is wrong (RFC 792, RFC 4443): net, host, protocol, source quench, parameter problem.
#[test]
fn errors_of_every_type_go_to_the_backend() {
    let types = |is_ipv6: bool| -> &[[u8; 2]] {
        const V4: &[[u8; 2]] = &[[3, 0], [3, 1], [3, 2], [3, 10], [3, 13], [4, 0], [11, 1], [12, 0], [12, 2]];
        const V6: &[[u8; 2]] = &[[1, 0], [1, 1], [1, 3], [1, 6], [3, 1], [4, 0], [4, 1], [4, 2], [127, 0]];
        if is_ipv6 { V6 } else { V4 }
    };
    let mut director = connected(PORT);
    for kind in KINDS {
        let at = 14 + if kind.is_ipv6 { 40 } else { 20 };
        let cases = types(kind.is_ipv6).iter().map(|what| {
            let mut frame = error(kind, Icmp::TimeExceeded, &answer(kind, 1002), 100);
            frame[at..at + 2].copy_from_slice(what);
            let expect = to_backend(kind, &frame, 2);
            raw(format!("{} type {} code {}", kind.name, what[0], what[1]), frame, expect)
        });
        check(&mut director, cases);
        // What is no error is the stack's, whatever it quotes.
        let mut frame = error(kind, Icmp::TimeExceeded, &answer(kind, 1002), 100);
        frame[at] = if kind.is_ipv6 { 133 } else { 9 };
        check(&mut director, [raw(format!("{} a router's", kind.name), frame, passed(PassedNotIp))]);
    }
}

#[test]
fn quoted_options_are_passed_over() {
    let mut director = connected(PORT);
    for kind in [TCP4, UDP4] {
        let about = answer(kind, 1002).with(|p| p.options = vec![1; 24]);
        let frame = error(kind, Icmp::TooBig(1280), &about, 20 + 24 + 8);
        let expect = to_backend(kind, &frame, 2);
        check(&mut director, [raw(kind.name, frame, expect)]);
    }
}

#[test]
fn an_error_leaves_state_and_timer_as_they_are() {
    let mut director = connected(PORT);
    let before = format!("{:?}", director.flows());
    for kind in KINDS {
        director.run(&error(kind, Icmp::TimeExceeded, &answer(kind, 1001), 100)).expect("ran");
    }
    assert_eq!(format!("{:?}", director.flows()), before);
}

/// Under the guard connections have no entry: the quoted packet, read backwards, says where the hash has placed them.
#[test]
fn an_error_about_a_connection_that_was_placed_by_hash_goes_to_its_backend() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.guard = Guard::Rate(1);
        let mut director = director(&Desired { services: vec![service], ..lab() });
        let backends: Vec<(u16, u8)> = (1000..1060)
            .map(|port| (port, send(&mut director, &kind.open().from_port(port)).expect("forwarded")))
            .collect();
        let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
        let without = backends.iter().filter(|(port, _)| !stored.contains(port));
        assert!(without.clone().count() > 40, "{}: {} stored", kind.name, stored.len());
        let cases = without.map(|(port, backend)| {
            let frame = error(kind, Icmp::TooBig(1280), &answer(kind, *port), 400);
            let expect = to_backend(kind, &frame, *backend);
            raw(format!("{} from {port}", kind.name), frame, expect)
        });
        check(&mut director, cases.collect::<Vec<_>>());
        assert_eq!(director.flows().len(), stored.len(), "an error opens nothing");
    }
}

/// Those of a persistent client are placed by its template, and so are the errors about them. Found by the fuzzer.
#[test]
fn an_error_about_a_persistent_clients_connection_without_an_entry_goes_to_its_backend() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.guard = Guard::Rate(1);
        let (timeout, granularity, scope) = (100, None, Scope::Service);
        service.options.persistence = Some(Persistence { timeout, granularity, scope });
        let mut director = director(&Desired { services: vec![service], ..lab() });
        assert_eq!(open(&mut director, kind, 1000..1060), [1; 60], "{}", kind.name);
        assert!(director.flows().len() < 20, "{}: the guard holds none", kind.name);
        let cases = (1000..1060).map(|port| {
            let frame = error(kind, Icmp::TooBig(1280), &answer(kind, port), 400);
            let expect = to_backend(kind, &frame, 1);
            raw(format!("{} from {port}", kind.name), frame, expect)
        });
        check(&mut director, cases.collect::<Vec<_>>());
    }
}

/// A port beside the range is the director's own, also while the range's connections are placed by hash. Found by the
/// fuzzer.
#[test]
fn an_error_about_a_port_beside_a_range_is_passed() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.endpoint.last_port = Some(PORT + 6);
        service.options.guard = Guard::Rate(1);
        let mut director = director(&Desired { services: vec![service], ..lab() });
        open(&mut director, kind, 1000..1060);
        let about =
            |port| error(kind, Icmp::TooBig(1280), &answer(kind, 9).with(|p| p.source.set_port(port)), 400);
        let within = director.run(&about(PORT + 6)).expect("ran").verdict().expect("one");
        assert_eq!(within, ForwardedTx, "{}: nothing is placed by hash", kind.name);
        check(&mut director, [raw(kind.name, about(PORT + 7), passed(PassedNoFlow))]);
    }
}

#[test]
fn an_error_about_nothing_of_ours_is_passed() {
    let mut director = connected(PORT);
    for kind in KINDS {
        let named = |what: &str, frame: Vec<u8>, verdict| -> Case {
            raw(format!("{} {what}", kind.name), frame, passed(verdict))
        };
        let about = |packet: &Packet| error(kind, Icmp::TimeExceeded, packet, 100);
        let known = answer(kind, 1001);
        let later_fragment =
            known.with(|p| p.fragment = Some(lb_tests::packet::Place { offset: 1480, more: false }));
        let to_another = {
            // Addressed to the VIP, but about a packet of another sender's.
            let mut frame = about(&known.with(|p| p.source.set_ip(kind.backend(7))));
            let at = if kind.is_ipv6 { 14 + 24 } else { 14 + 16 };
            let vip = match kind.vip() {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            frame[at..at + vip.len()].copy_from_slice(&vip);
            frame
        };
        check(
            &mut director,
            [
                named("an unknown client", about(&answer(kind, 9)), PassedNoFlow),
                named("another port", about(&known.with(|p| p.source.set_port(99))), PassedNotIp),
                named("about somebody else's", to_another, PassedNotIp),
                named(
                    "cut off",
                    about(&known)[..if kind.is_ipv6 { 100 } else { 64 }].to_vec(),
                    PassedMalformed,
                ),
            ],
        );
        if !kind.is_ipv6 {
            check(&mut director, [named("about a later fragment", about(&later_fragment), PassedNotIp)]);
        }
    }
}

#[test]
fn a_ping_to_the_vip_is_the_stacks() {
    let mut director = connected(PORT);
    for (kind, protocol, echo) in [(TCP4, ICMP, 8), (TCP6, ICMPV6, 128)] {
        let ports = |ip| SocketAddr::new(ip, 0);
        let ping = kind.open().with(|p| {
            (p.source, p.dest, p.protocol) = (ports(kind.client()), ports(kind.vip()), protocol);
            p.payload = vec![echo, 0, 0, 0, 0, 1, 0, 1, 9, 9];
        });
        check(&mut director, [case(kind.name, &ping, passed(PassedNotIp))]);
        let later = if kind.is_ipv6 { PassedNoService } else { PassedNotIp };
        let long = [(0, true, PassedNotIp), (1480, true, later), (2960, false, later)];
        let pieces = long.map(|(at, more, verdict)| {
            case(format!("{} from {at} on", kind.name), &ping.fragment(at, more), passed(verdict))
        });
        check(&mut director, pieces);
    }
}

#[test]
fn an_error_about_a_removed_backends_connection_reaches_nobody() {
    let mut director = connected(PORT);
    director
        .configure(&Desired { services: KINDS.map(|kind| kind.service(PORT, &[2])).to_vec(), ..lab() })
        .expect("configured");
    let frame = error(TCP4, Icmp::TooBig(1280), &answer(TCP4, 1001), 100);
    check(&mut director, [raw("tcp4", frame, crate::table::dropped(DroppedBackendRemoved))]);
}

#[test]
fn an_error_that_cannot_go_on_is_not_answered() {
    let mut director = connected(PORT);
    for kind in KINDS {
        let mut frame = error(kind, Icmp::TooBig(1280), &answer(kind, 1001), 100);
        if kind.is_ipv6 {
            frame[14 + 7] = 1;
        } else {
            frame[14 + 8] = 1;
        }
        check(&mut director, [raw(kind.name, frame, crate::table::dropped(DroppedTtl))]);
    }
}
