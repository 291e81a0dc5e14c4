//! The director is a hop: a TTL that runs out here is answered with time exceeded, as a router does.

use lb::plan::{Desired, HostRoute};
use lb_common::{verdict::Verdict::*, vlan::Tags};
use lb_tests::packet::{Extension::*, Packet};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    table::{Expect, answered, case, check, dropped, passed},
    world::*,
};

fn expired(kind: Kind, packet: &Packet) -> Expect {
    answered(AnsweredTtl, packet.time_exceeded(ETH0_MAC, kind.router()))
}

#[test]
fn an_expired_ttl_is_answered() {
    let mut want = every_kind();
    want.links[0].tags = vec![Tags::new(100, 0), Tags::new(10, 20)];
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let last = kind.open().ttl(1);
        let answer = |what: &str, packet: Packet| {
            case(format!("{} {what}", kind.name), &packet, expired(kind, &packet))
        };
        check(
            &mut director,
            [
                answer("opening", last.clone()),
                answer("of an established flow", kind.later().ttl(1)),
                answer("no hop left at all", last.ttl(0)),
                answer("tagged", last.tagged(&[100])),
                answer("tagged twice", last.tagged(&[10, 20])),
                answer("long", last.with(|p| p.payload = vec![0x5a; 1440])),
                answer("odd", last.with(|p| p.payload.truncate(9))),
                answer("with a trailer", last.with(|p| p.trailer = vec![0xff; 33])),
                answer("priority kept", last.tagged(&[100]).with(|p| p.tags[0].priority = 0xd)),
            ],
        );
    }
}

#[test]
fn ipv4_options_are_quoted() {
    let mut director = director(&every_kind());
    let cases = (1..=10u8).flat_map(|words| {
        [TCP4, UDP4].map(|kind| {
            let mut options: Vec<u8> = (0..words * 4).map(|byte| byte.wrapping_mul(37)).collect();
            options[0] = 1;
            let packet = kind.open().ttl(1).with(|p| p.options = options);
            case(format!("{} {words} words", kind.name), &packet, expired(kind, &packet))
        })
    });
    check(&mut director, cases);
}

#[test]
fn ipv6_extension_headers_are_quoted_as_far_as_it_goes() {
    let mut director = director(&every_kind());
    for kind in [TCP6, UDP6] {
        let chain = kind.open().ttl(1).extended(&[HopByHop(8), DestOptions(16)]);
        check(&mut director, [case(kind.name, &chain, expired(kind, &chain))]);
    }
}

#[test]
fn nothing_is_quoted_that_a_short_datagram_does_not_have() {
    let mut director = director(&every_kind());
    for kind in [UDP4, UDP6] {
        for length in 0..10 {
            let packet = kind.open().ttl(1).with(|p| p.payload.truncate(length));
            let padded = packet.with(|p| p.trailer = vec![0xee; 24]);
            check(
                &mut director,
                [
                    case(format!("{} {length}", kind.name), &packet, expired(kind, &packet)),
                    case(format!("{} {length} padded", kind.name), &padded, expired(kind, &padded)),
                ],
            );
        }
    }
}

#[test]
fn every_checksum_of_an_answer_is_right() {
    for kind in ALL_KINDS {
        // Of its own: its allowance of answers is for these cases.
        let mut director = director(&every_kind());
        // Ports and payload run the sums through carries.
        let cases = (0..100u16).map(|i| {
            let packet = kind.open().ttl(1).from_port(1 + i * 655).with(|p| p.payload = vec![i as u8; 20]);
            case(format!("{} {i}", kind.name), &packet, expired(kind, &packet))
        });
        check(&mut director, cases);
    }
}

#[test]
fn without_an_address_of_its_own_the_director_answers_nothing() {
    let mut want = every_kind();
    (want.links[0].ipv4, want.links[0].ipv6) = (None, None);
    let mut director = director(&want);
    check(&mut director, ALL_KINDS.map(|kind| case(kind.name, &kind.open().ttl(1), dropped(DroppedTtl))));
}

#[test]
fn the_director_itself_is_no_hop() {
    let mut want = every_kind();
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(1), HostRoute::Local);
    }
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let name = |what: &str| format!("{} {what}", kind.name);
        check(
            &mut director,
            [
                case(name("TTL 1"), &kind.open().ttl(1), passed(PassedLocalBackend)),
                case(name("later, TTL 1"), &kind.later().ttl(1), passed(PassedLocalBackend)),
                case(name("TTL 64"), &kind.later(), passed(PassedLocalBackend)),
            ],
        );
    }
}

#[test]
fn answers_are_limited() {
    // As the program has it: per CPU and tick.
    const PER_TICK: u64 = 128;
    const SENT: u64 = 1000;
    // Every CPU has an allowance of its own.
    let mut cpu = CpuSet::new();
    cpu.set(0).expect("CPU 0");
    sched_setaffinity(Pid::from_raw(0), &cpu).expect("CPU 0 is ours");
    let mut director = director(&every_kind());
    let frame = TCP4.open().ttl(1).bytes();
    let start = director.clock.now();
    let answered = (0..SENT).filter(|_| director.send(&frame, None).expect("ran").0 == 3).count() as u64;
    // Both ends lie inside a tick.
    let ticks = director.clock.now().until(start) as u64 + 2;
    assert!(answered >= PER_TICK, "{answered} answers");
    assert!(answered <= PER_TICK * ticks, "{answered} answers in {ticks} ticks");
    let counters = director.counters().expect("counters");
    let counted = |name| counters.iter().find(|(counted, _)| *counted == name).map(|(_, times)| *times);
    assert_eq!(counted("answered-ttl"), Some(answered));
    assert_eq!(counted("dropped-ttl"), Some(SENT - answered));
}

#[test]
fn an_expired_ttl_of_nobody_is_not_ours_to_answer() {
    let mut director = director(&Desired { services: Vec::new(), ..every_kind() });
    check(&mut director, ALL_KINDS.map(|kind| case(kind.name, &kind.open().ttl(1), passed(PassedNoService))));
}
