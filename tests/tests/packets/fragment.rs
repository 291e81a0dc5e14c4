//! Fragments of a packet to a service are dropped, so that the local stack, which owns the VIP too, does not answer.

use lb_common::verdict::Verdict::*;
use lb_tests::packet::Extension::*;

use crate::{
    table::{case, check, dropped, passed},
    world::*,
};

#[test]
fn fragments_of_a_service_are_dropped() {
    let mut director = director(&every_kind());
    for kind in KINDS {
        let open = kind.open();
        let name = |what: &str| format!("{} {what}", kind.name);
        check(
            &mut director,
            [
                case(name("first"), &open.fragment(0, true), dropped(DroppedFragment)),
                case(name("middle"), &open.fragment(1480, true), dropped(DroppedFragment)),
                case(name("last"), &open.fragment(2960, false), dropped(DroppedFragment)),
                case(name("farthest"), &open.fragment(65528, false), dropped(DroppedFragment)),
                case(
                    name("least"),
                    &open.fragment(8, false).with(|p| p.payload = vec![1; 8]),
                    dropped(DroppedFragment),
                ),
            ],
        );
        if kind.is_ipv6 {
            let first = open.extended(&[HopByHop(8), Routing(8)]).fragment(0, true);
            let later = open.extended(&[HopByHop(8), Routing(8)]).fragment(1400, true);
            check(
                &mut director,
                [
                    case(name("first, behind others"), &first, dropped(DroppedFragment)),
                    case(name("later, behind others"), &later, dropped(DroppedFragment)),
                ],
            );
        }
    }
}

#[test]
fn fragments_of_nobody_are_passed() {
    let mut want = lab();
    // One protocol of each family has a service.
    want.services = vec![TCP4.service(PORT, &[1]), UDP6.service(PORT, &[1])];
    let mut director = director(&want);
    for kind in KINDS {
        let open = kind.open();
        let elsewhere = open.with(|p| p.dest.set_ip(kind.backend(7)));
        let name = |what: &str| format!("{} {what}", kind.name);
        check(
            &mut director,
            [
                case(name("first, not a VIP"), &elsewhere.fragment(0, true), passed(PassedNoService)),
                case(name("later, not a VIP"), &elsewhere.fragment(1480, true), passed(PassedNoService)),
                case(
                    name("first, another port"),
                    &open.to_port(80).fragment(0, true),
                    passed(PassedNoService),
                ),
            ],
        );
        // Which port a later fragment is for cannot be told; which protocol can.
        let later = open.fragment(1480, false);
        let expected =
            if [TCP4, UDP6].contains(&kind) { dropped(DroppedFragment) } else { passed(PassedNoService) };
        check(&mut director, [case(name("later, of the VIP"), &later, expected)]);
    }
}

#[test]
fn fragments_of_a_wildcard_service_are_dropped_for_every_port() {
    let mut want = lab();
    want.services = KINDS.map(|kind| kind.service(0, &[1])).to_vec();
    let mut director = director(&want);
    for kind in KINDS {
        let open = kind.open();
        check(
            &mut director,
            [
                case(
                    format!("{} first", kind.name),
                    &open.to_port(9).fragment(0, true),
                    dropped(DroppedFragment),
                ),
                case(format!("{} later", kind.name), &open.fragment(1480, true), dropped(DroppedFragment)),
            ],
        );
    }
}
