//! SCTP: which chunks open, move on and end an association, and what becomes of those that belong to none.

use lb::{
    model::{ExpireNodest, Guard, Persistence, Reject, Scope, ServiceOptions},
    plan::Desired,
};
use lb_common::{
    sctp::{chunk::*, flags, next},
    tcp::State,
    template::ASSURED,
    verdict::Verdict::{self, *},
};
use lb_tests::{
    packet::{Icmp, Packet},
    xdp::Director,
};

use crate::{
    table::{answered, case, check, dropped, passed, raw, tx, tx_frame},
    world::*,
};

const SCTP_KINDS: [Kind; 2] = [SCTP4, SCTP6];

fn wanted(kind: Kind, backends: &[u8], options: ServiceOptions) -> Desired {
    let mut service = kind.service(PORT, backends);
    service.options = options;
    Desired { services: vec![service], ..lab() }
}

/// State of the only flow, and the counts of its backend: active, inactive.
fn now(director: &Director) -> (State, u64, u64) {
    let flows = director.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let counts = director.maps().conn_counts(flows[0].value.dest());
    (flows[0].value.state(), counts.active, counts.inactive)
}

fn seconds_left(director: &Director) -> u32 {
    director.clock.seconds_until(director.flows()[0].value.expiry())
}

#[test]
fn an_association_goes_through_its_states() {
    const INIT1: State = State::SCTP_INIT1;
    const UP: State = State::SCTP_ESTABLISHED;
    const DOWN: State = State::SCTP_SHUTDOWN_RECEIVED;
    const OVER: State = State::SCTP_CLOSED;
    let lives: [&[(u8, State)]; 6] = [
        &[
            (INIT, INIT1),
            (COOKIE_ECHO, UP),
            (DATA, UP),
            (SACK, UP),
            (HEARTBEAT, UP),
            (SHUTDOWN, DOWN),
            (SACK, DOWN),
            (SHUTDOWN_COMPLETE, OVER),
            (DATA, OVER),
        ],
        &[(INIT, INIT1), (INIT, State::SCTP_INIT), (DATA, State::SCTP_INIT), (COOKIE_ECHO, UP), (INIT, UP)],
        // The backend had begun.
        &[(INIT, INIT1), (INIT_ACK, State::SCTP_COOKIE_ECHOED), (COOKIE_ACK, UP), (SHUTDOWN_ACK, OVER)],
        &[(INIT, INIT1), (COOKIE_ECHO, UP), (ABORT, OVER), (HEARTBEAT_ACK, OVER)],
        &[(INIT, INIT1), (ABORT, OVER)],
        &[(INIT, INIT1), (ERROR, INIT1), (200, INIT1), (COOKIE_ECHO, UP), (200, UP)],
    ];
    for kind in SCTP_KINDS {
        for life in lives {
            let mut director = director(&wanted(kind, &[1], silent()));
            for (step, (chunk, state)) in life.iter().enumerate() {
                let packet = kind.open().flags(*chunk);
                check(&mut director, [case(kind.name, &packet, tx(&forwarded(&packet, 1)))]);
                // Nothing but ESTABLISHED is active, as IPVS has it.
                let active = u64::from(*state == UP);
                assert_eq!(now(&director), (*state, active, 1 - active), "{} {step} of {life:?}", kind.name);
                let (left, whole) = (seconds_left(&director), state.default_timeout());
                assert!((whole - 1..=whole + 1).contains(&left), "{left} s left in {state:?}");
            }
        }
    }
}

/// State of the flow from a client's port.
fn state_of(director: &Director, port: u16) -> Option<State> {
    director.flows().iter().find(|flow| flow.client_port == port).map(|flow| flow.value.state())
}

#[test]
fn an_abort_behind_a_cookie_ends_it() {
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1], silent()));
        let mut port = 1000;
        for (first, second, state) in [
            (COOKIE_ECHO, Some(ABORT), State::SCTP_CLOSED),
            (COOKIE_ACK, Some(ABORT), State::SCTP_CLOSED),
            (COOKIE_ECHO, Some(DATA), State::SCTP_ESTABLISHED),
            (COOKIE_ECHO, None, State::SCTP_ESTABLISHED),
            // Behind others IPVS does not look.
            (SACK, Some(ABORT), State::SCTP_INIT1),
        ] {
            // A cookie of every length, padded to four bytes.
            for length in [0, 1, 3, 4, 37, 1000] {
                port += 1;
                let open = kind.open().from_port(port);
                send(&mut director, &open).expect("forwarded");
                let packet = open.flags(first);
                let packet = packet.with(|p| (p.payload, p.second_chunk) = (vec![ABORT; length], second));
                assert_eq!(send(&mut director, &packet), Ok(1));
                let now = state_of(&director, port);
                assert_eq!(now, Some(state), "{} {first} {second:?} {length}", kind.name);
            }
        }
        // Behind the end of the IP packet nothing counts, nor where the chunk says that it ends farther on.
        let open = kind.open().from_port(7);
        send(&mut director, &open).expect("forwarded");
        let packet = open.flags(COOKIE_ACK).with(|p| p.payload.clear());
        let trailer = [ABORT, 0, 0, 4, 0, 0];
        assert_eq!(send(&mut director, &packet.with(|p| p.trailer = trailer.to_vec())), Ok(1));
        assert_eq!(state_of(&director, 7), Some(State::SCTP_INIT1));
        let mut frame = packet.bytes();
        let length = frame.len();
        for claimed in [0, 3, 5, 0x1000, 0x7fff, 0xffff] {
            frame[length - 2..].copy_from_slice(&u16::to_be_bytes(claimed));
            director.run(&frame).expect("ran");
            assert_eq!(state_of(&director, 7), Some(State::SCTP_INIT1), "{claimed}");
        }
    }
}

#[test]
fn an_init_opens_and_nothing_else_does() {
    let sloppy = ServiceOptions { sloppy_sctp: true, ..silent() };
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1], silent()));
        for chunk in (0..=u8::MAX).filter(|chunk| *chunk != INIT) {
            assert_eq!(send(&mut director, &kind.open().flags(chunk)), Err(DroppedNoFlow), "{chunk}");
        }
        assert!(director.flows().is_empty());
        director.configure(&wanted(kind, &[1], sloppy)).expect("configured");
        for chunk in 0..=SHUTDOWN_COMPLETE + 1 {
            let port = 1000 + u16::from(chunk);
            let packet = kind.open().from_port(port).flags(chunk);
            let sent = send(&mut director, &packet);
            let first = if chunk == ABORT { None } else { Some(next(State::NONE, flags(chunk))) };
            assert_eq!(state_of(&director, port), first, "{} {chunk}", kind.name);
            assert_eq!(sent, if chunk == ABORT { Err(DroppedNoFlow) } else { Ok(1) });
        }
        // The first chunk alone says whether it may; what is behind it, what becomes of it.
        let aborted = kind.open().from_port(2000).flags(COOKIE_ECHO).with(|p| p.second_chunk = Some(ABORT));
        assert_eq!(send(&mut director, &aborted), Ok(1));
        assert_eq!(state_of(&director, 2000), Some(State::SCTP_CLOSED));
    }
    // TCP's option is not SCTP's.
    let sloppy = ServiceOptions { sloppy_tcp: true, ..silent() };
    let mut director = director(&wanted(SCTP4, &[1], sloppy));
    assert_eq!(send(&mut director, &SCTP4.later()), Err(DroppedNoFlow));
}

#[test]
fn an_init_on_a_closed_association_is_scheduled_anew() {
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1, 2], silent()));
        let went = [INIT, COOKIE_ECHO, ABORT, INIT, COOKIE_ECHO]
            .map(|chunk| send(&mut director, &kind.open().flags(chunk)));
        assert_eq!(went, [1, 1, 1, 2, 2].map(Ok), "{}", kind.name);
        assert_eq!(now(&director), (State::SCTP_ESTABLISHED, 1, 0));
    }
}

#[test]
fn what_belongs_to_no_association_is_answered() {
    for kind in SCTP_KINDS {
        let with = |reject, backends: &[u8]| {
            wanted(kind, backends, ServiceOptions { reject, ..ServiceOptions::default() })
        };
        let unknown = |packet: Packet| {
            let expect =
                answered(AnsweredNoFlow, packet.icmp_error(Icmp::ProtocolUnreachable, ETH0_MAC, kind.vip()));
            case(kind.name, &packet, expect)
        };
        for reject in [Reject::Icmp, Reject::Reset] {
            let mut director = director(&with(reject, &[1]));
            let short = kind.later().with(|p| p.payload.clear());
            check(
                &mut director,
                [
                    unknown(kind.later()),
                    unknown(kind.open().flags(ABORT)),
                    unknown(kind.open().flags(DATA).with(|p| p.payload = vec![7; 1400])),
                    unknown(short.with(|p| p.payload = vec![1; 3])),
                    unknown(short),
                ],
            );
            director.configure(&with(reject, &[])).expect("configured");
            let (open, long) = (kind.open(), kind.open().with(|p| p.payload = vec![7; 1400]));
            let refused = |packet: &Packet| {
                answered(AnsweredNoBackend, packet.icmp_error(Icmp::PortUnreachable, ETH0_MAC, kind.vip()))
            };
            check(&mut director, [case("init", &open, refused(&open)), case("long", &long, refused(&long))]);
        }
        let mut director = director(&with(Reject::Drop, &[1]));
        check(&mut director, [case("drop", &kind.later(), dropped(DroppedNoFlow))]);
        director.configure(&with(Reject::Pass, &[1])).expect("configured");
        check(&mut director, [case("pass", &kind.later(), passed(PassedNoFlow))]);
        let other = kind.open().to_port(PORT + 1);
        check(&mut director, [case("another port", &other, passed(PassedNoService))]);
    }
}

#[test]
fn protocols_of_one_port_are_apart() {
    let mut director = director(&Desired {
        services: vec![TCP4.service(PORT, &[1]), UDP4.service(PORT, &[2]), SCTP4.service(PORT, &[3])],
        ..lab()
    });
    for _ in 0..2 {
        let went = [TCP4, UDP4, SCTP4].map(|kind| send(&mut director, &kind.open()));
        assert_eq!(went, [1, 2, 3].map(Ok));
    }
    assert_eq!(director.flows().len(), 3);
}

#[test]
fn headers_that_are_cut_off_are_passed() {
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1], silent()));
        let packet = kind.open().with(|p| p.payload.clear());
        let (frame, header) = (packet.bytes(), if kind.is_ipv6 { 54 } else { 34 });
        for length in header..header + 16 {
            check(
                &mut director,
                [raw(format!("{length} bytes"), frame[..length].to_vec(), passed(PassedMalformed))],
            );
        }
        // The frame is long enough, but the IP packet ends before.
        let ends = packet.with(|p| p.claimed_length = Some(if kind.is_ipv6 { 15 } else { 35 }));
        check(&mut director, [case("ends", &ends, passed(PassedMalformed))]);
        check(&mut director, [case("whole", &packet, tx(&forwarded(&packet, 1)))]);
    }
}

#[test]
fn fragments_follow_the_first() {
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1, 2], silent()));
        send(&mut director, &kind.open().from_port(1)).expect("forwarded");
        let open = kind.open().with(|p| p.payload = vec![5; 1400]);
        let (first, later) = (open.fragment(0, true), open.fragment(1416, false));
        check(
            &mut director,
            [
                case("before its first", &later, dropped(DroppedFragment)),
                case("first", &first, tx(&forwarded(&first, 2))),
                case("later", &later, tx(&forwarded(&later, 2))),
            ],
        );
    }
    // An address that has no SCTP service has none of its fragments.
    let others = KINDS.map(|kind| kind.service(PORT, &[1])).to_vec();
    let mut director = director(&Desired { services: others, ..lab() });
    check(&mut director, [case("of nobody", &SCTP4.open().fragment(1416, false), passed(PassedNoService))]);
}

#[test]
fn an_icmp_error_about_an_association_goes_to_its_backend() {
    for kind in SCTP_KINDS {
        let mut director = director(&wanted(kind, &[1, 2], silent()));
        for port in [1001, 1002] {
            send(&mut director, &kind.open().from_port(port)).expect("forwarded");
        }
        for (port, backend) in [(1001, 1), (1002, 2)] {
            let about = kind.open().from_port(port).flags(SACK).turned();
            let frame = about.error_to_sender(Icmp::TooBig(1280), ETH0_MAC, CLIENT_MAC, kind.client(), 1000);
            let mut expected = frame.clone();
            expected[..6].copy_from_slice(&backend_mac(backend));
            expected[6..12].copy_from_slice(&ETH0_MAC);
            if kind.is_ipv6 {
                expected[14 + 7] -= 1;
            } else {
                // TTL, and its checksum (RFC 1624).
                expected[14 + 8] -= 1;
                let sum = u16::from_be_bytes([expected[24], expected[25]]);
                let (sum, carry) = sum.overflowing_add(0x0100);
                expected[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
            }
            check(&mut director, [raw(format!("{} {port}", kind.name), frame, tx_frame(expected))]);
        }
    }
}

#[test]
fn a_template_is_assured_by_an_established_association() {
    for kind in SCTP_KINDS {
        let persistence = Persistence { timeout: 300, granularity: None, scope: Scope::default() };
        let options = ServiceOptions { persistence: Some(persistence), ..silent() };
        let mut director = director(&wanted(kind, &[1, 2], options));
        let assured = |director: &Director| {
            let flows = director.flows();
            let template = flows.iter().find(|flow| flow.value.is_template()).expect("a template");
            template.value.state() == ASSURED
        };
        for port in [1001, 1002, 1003] {
            assert_eq!(send(&mut director, &kind.open().from_port(port)), Ok(1), "{}", kind.name);
            assert!(!assured(&director));
        }
        assert_eq!(send(&mut director, &kind.later().from_port(1002)), Ok(1));
        assert!(assured(&director));
        // A controlled one is not given to another backend (`is_new_conn_expected`).
        for chunk in [ABORT, INIT] {
            assert_eq!(send(&mut director, &kind.open().from_port(1002).flags(chunk)), Ok(1));
        }
    }
}

#[test]
fn a_removed_backends_associations() {
    for kind in SCTP_KINDS {
        for (expire_nodest, init) in [
            (ExpireNodest::Drop, Err(DroppedBackendRemoved)),
            (ExpireNodest::Auto, Err(DroppedBackendRemoved)),
            (ExpireNodest::Reschedule, Ok(2)),
            // There is no reset for SCTP.
            (ExpireNodest::Reset, Ok(2)),
        ] {
            let options = ServiceOptions { expire_nodest, ..silent() };
            let mut director = director(&wanted(kind, &[1, 2], options));
            assert_eq!(send(&mut director, &kind.open()), Ok(1));
            director.configure(&wanted(kind, &[2], options)).expect("configured");
            assert_eq!(send(&mut director, &kind.later()), Err(DroppedBackendRemoved), "{expire_nodest}");
            assert_eq!(send(&mut director, &kind.open()), init, "{expire_nodest}");
        }
    }
}

/// INITs that come too fast are placed by hash, and so is what follows; a later packet tells what is established.
#[test]
fn a_flood_of_inits_leaves_associations_in_the_making_where_they_are() {
    for kind in SCTP_KINDS {
        let options = ServiceOptions { guard: Guard::Rate(1), ..silent() };
        let mut director = director(&wanted(kind, &[1, 2, 3], options));
        let backends: Vec<u8> = (1000..1200)
            .map(|port| send(&mut director, &kind.open().from_port(port)).expect("sent"))
            .collect();
        let stored = |director: &Director| director.flows().len();
        let before = stored(&director);
        assert!(before < 100, "{before} have an entry");
        let last = 1199;
        let backend = backends[199];
        assert_eq!(state_of(&director, last), None, "placed by hash");
        assert_eq!(send(&mut director, &kind.later().from_port(last)), Ok(backend));
        assert_eq!(state_of(&director, last), Some(State::SCTP_NONE), "half-open until a later packet");
        assert_eq!(send(&mut director, &kind.open().from_port(last).flags(DATA)), Ok(backend));
        assert_eq!(state_of(&director, last), Some(State::SCTP_ESTABLISHED));
    }
}

#[test]
fn what_the_clients_tell_of_their_backend_is_counted() {
    let mut director = director(&wanted(SCTP4, &[1], silent()));
    for chunk in [INIT, INIT, INIT, COOKIE_ECHO, ABORT, ABORT] {
        send(&mut director, &SCTP4.open().flags(chunk)).expect("forwarded");
    }
    let dest = director.flows()[0].value.dest();
    let counted = director.maps().dest_counters(dest).expect("counters");
    assert_eq!((counted.retransmissions, counted.resets), (2, 1));
    // One that is never completed.
    send(&mut director, &SCTP4.open().from_port(7)).expect("forwarded");
    director.sweep_in(100).expect("swept");
    assert_eq!(director.maps().conn_counts(dest).incomplete, 1);
}

/// A verdict of every packet that is not forwarded is a drop with a reason, or the stack's.
#[test]
fn a_removed_service_leaves_its_associations() {
    let mut director = director(&wanted(SCTP4, &[1], silent()));
    assert_eq!(send(&mut director, &SCTP4.open()), Ok(1));
    director.configure(&lab()).expect("configured");
    assert_eq!(send(&mut director, &SCTP4.later()), Ok(1), "what was open goes on");
    let of_nobody: Result<u8, Verdict> = Err(PassedNoService);
    assert_eq!(send(&mut director, &SCTP4.open().from_port(9)), of_nobody);
}
