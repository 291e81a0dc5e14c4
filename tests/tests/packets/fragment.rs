//! Fragments: the first decides where its datagram goes, the later ones follow, and none reaches the local stack, which
//! owns the VIP too.

use lb::plan::Desired;
use lb_common::verdict::Verdict::*;
use lb_tests::packet::{Extension::*, Packet};

use crate::{
    table::{answered, case, check, dropped, passed, tx},
    world::*,
};

/// The fragments of a datagram: the first, and those that come after it.
fn pieces(open: &Packet) -> [Packet; 4] {
    [
        open.fragment(0, true),
        open.fragment(1480, true),
        open.fragment(2960, true).with(|p| p.payload = vec![1; 8]),
        open.fragment(65528, false),
    ]
}

#[test]
fn later_fragments_follow_the_first() {
    for kind in ALL_KINDS {
        let services = vec![kind.service(PORT, &[1, 2, 3])];
        let mut director = director(&Desired { services, ..lab() });
        for (id, backend) in [(7, 1), (8, 2), (9, 3)] {
            let open = kind.open().from_port(id).with(|p| p.id = id.into());
            let cases = pieces(&open).map(|piece| {
                let sent = forwarded(&piece, backend);
                case(format!("{} to {backend}", kind.name), &piece, tx(&sent))
            });
            check(&mut director, cases);
        }
        // Those of an older datagram still go where that one's went.
        let late = kind.open().with(|p| p.id = 7).fragment(1480, false);
        check(&mut director, [case("late", &late, tx(&forwarded(&late, 1)))]);
        assert_eq!(director.flows().len(), 3, "a flow for each first fragment");
        let counted = director.maps().verdicts().expect("counters");
        let forwarded =
            counted.iter().find(|count| count.name == ForwardedTx.name()).map(|count| count.packets);
        assert_eq!(forwarded, Some(13));
    }
}

/// More datagrams at once than the table has room for: those it has forgotten are dropped, none goes astray.
#[test]
fn an_overflow_sends_nothing_to_another_backend() {
    const DATAGRAMS: u16 = 20_000;
    for kind in [UDP4, UDP6] {
        let mut director = director(&Desired { services: vec![kind.service(PORT, &[1, 2])], ..lab() });
        let piece = |id: u16, at, more| {
            let of = kind.open().from_port(1000 + id % 2).with(|p| p.id = id.into());
            of.fragment(at, more)
        };
        for id in 0..DATAGRAMS {
            let first = piece(id, 0, true).bytes();
            let (_, sent) = director.send(&first, None).expect("ran");
            assert_eq!(sent[..6], backend_mac((id % 2 + 1) as u8), "{} {id}", kind.name);
        }
        let mut forgotten = 0;
        // The last ones first: the table forgets what was used longest ago.
        for id in (0..DATAGRAMS).rev().step_by(16) {
            match send(&mut director, &piece(id, 1480, false)) {
                Err(DroppedFragment) => forgotten += 1,
                went => assert_eq!(went, Ok((id % 2 + 1) as u8), "{} {id}", kind.name),
            }
        }
        println!("{}: {forgotten} of {} datagrams forgotten", kind.name, DATAGRAMS / 16);
        assert!(forgotten >= (DATAGRAMS - 16384) / 16, "{}: the table is larger than it was", kind.name);
        assert!(forgotten < DATAGRAMS / 16, "{}: none got through", kind.name);
    }
}

/// RFC 1858 and 3128: ports may be in it, flags are not. docs/ipvs-differences.md.
#[test]
fn a_first_fragment_without_all_of_its_transport_header_opens_nothing() {
    /// Ethernet, IPv6, the fragment header.
    const HEADERS: usize = 14 + 40 + 8;
    let mut director = director(&every_kind());
    for bytes in [8, 16] {
        let [first, later, ..] = pieces(&TCP6.open().with(|p| p.id = 200 + bytes as u32));
        let mut frame = first.bytes();
        frame.truncate(HEADERS + bytes);
        frame[18..20].copy_from_slice(&(8 + bytes as u16).to_be_bytes());
        let ran = director.run(&frame).expect("it ran");
        assert_eq!(ran.moved, [(PassedMalformed.name(), 1)], "{bytes} bytes of TCP");
        assert_eq!(ran.frame, frame);
        check(&mut director, [case("later", &later, dropped(DroppedFragment))]);
    }
    assert!(director.flows().is_empty());
}

#[test]
fn a_later_fragment_without_its_first_is_dropped() {
    let mut director = director(&every_kind());
    for (id, kind) in (100..).zip(ALL_KINDS) {
        let [first, middle, least, last] = pieces(&kind.open().with(|p| p.id = id));
        let name = |what: &str| format!("{} {what}", kind.name);
        check(
            &mut director,
            [
                case(name("middle"), &middle, dropped(DroppedFragment)),
                case(name("least"), &least, dropped(DroppedFragment)),
                case(name("last"), &last, dropped(DroppedFragment)),
                case(name("first"), &first, tx(&forwarded(&first, 1))),
                case(name("of another datagram"), &middle.with(|p| p.id = 0x77), dropped(DroppedFragment)),
                case(
                    name("of another client"),
                    &middle.with(|p| p.source.set_ip(kind.backend(9))),
                    dropped(DroppedFragment),
                ),
                case(name("now"), &middle, tx(&forwarded(&middle, 1))),
            ],
        );
    }
}

#[test]
fn fragments_behind_extension_headers_are_found() {
    for kind in [TCP6, UDP6, SCTP6] {
        let mut director = director(&every_kind());
        let open = kind.open().extended(&[HopByHop(8), Routing(8)]);
        let (first, later) = (open.fragment(0, true), open.fragment(1400, true));
        check(
            &mut director,
            [
                case("before its first", &later, dropped(DroppedFragment)),
                case("first", &first, tx(&forwarded(&first, 1))),
                case("later", &later, tx(&forwarded(&later, 1))),
            ],
        );
        // A later fragment names what follows the fragment header of the first: an extension header here, which the
        // first cannot be remembered with.
        let odd = kind.open().fragment(1400, true);
        let odd = odd.with(|p| (p.id, p.extensions) = (5, [&p.extensions[..], &[DestOptions(8)]].concat()));
        check(&mut director, [case("an extension header behind it", &odd, dropped(DroppedFragment))]);
    }
}

#[test]
fn fragments_of_nobody_are_passed() {
    let mut want = lab();
    // One protocol of each family has a service, and not SCTP.
    want.services = vec![TCP4.service(PORT, &[1]), UDP6.service(PORT, &[1])];
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let open = kind.open();
        let elsewhere = open.with(|p| p.dest.set_ip(kind.backend(7)));
        let other_port = open.to_port(80).with(|p| p.id = 0x99);
        let name = |what: &str| format!("{} {what}", kind.name);
        check(
            &mut director,
            [
                case(name("first, not a VIP"), &elsewhere.fragment(0, true), passed(PassedNoService)),
                case(name("later, not a VIP"), &elsewhere.fragment(1480, true), passed(PassedNoService)),
                case(name("first, another port"), &other_port.fragment(0, true), passed(PassedNoService)),
                case(name("later, another port"), &other_port.fragment(1480, true), passed(PassedNoService)),
            ],
        );
        // Which port a later fragment is for cannot be told before its first has come; which protocol can.
        let later = open.fragment(1480, false);
        let expected =
            if [TCP4, UDP6].contains(&kind) { dropped(DroppedFragment) } else { passed(PassedNoService) };
        check(&mut director, [case(name("later, of the VIP"), &later, expected)]);
    }
}

#[test]
fn fragments_of_a_wildcard_service_follow_for_every_port() {
    let mut want = lab();
    want.services = ALL_KINDS.map(|kind| kind.service(0, &[1])).to_vec();
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let first = kind.open().to_port(9).fragment(0, true);
        let later = kind.open().fragment(1480, true);
        check(
            &mut director,
            [
                case(format!("{} first", kind.name), &first, tx(&forwarded(&first, 1))),
                case(format!("{} later", kind.name), &later, tx(&forwarded(&later, 1))),
            ],
        );
    }
}

#[test]
fn only_the_first_fragment_is_answered() {
    for kind in ALL_KINDS {
        let mut director = director(&every_kind());
        let [first, middle, ..] = pieces(&kind.open());
        check(&mut director, [case("first", &first, tx(&forwarded(&first, 1)))]);
        let first = first.ttl(1);
        check(
            &mut director,
            [
                case("first", &first, answered(AnsweredTtl, first.time_exceeded(ETH0_MAC, kind.router()))),
                case("later", &middle.ttl(1), dropped(DroppedTtl)),
            ],
        );
    }
}
