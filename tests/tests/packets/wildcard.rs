//! Port-0 services: every port of an address.

use lb::model::FlowSizes;
use lb_common::{tcp::flag::*, verdict::Verdict::*};
use lb_tests::xdp::Director;

use crate::{
    table::{case, check, dropped, passed, tx},
    world::*,
};

#[test]
fn a_wildcard_service_takes_every_port_but_those_that_have_their_own() {
    let mut want = lab();
    for kind in ALL_KINDS {
        want.services.extend([kind.service(0, &[1]), kind.service(80, &[2])]);
    }
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let cases = [1, 79, 81, 3306, 65535].map(|port| {
            let packet = kind.open().to_port(port);
            case(format!("{} {port}", kind.name), &packet, tx(&forwarded(&packet, 1)))
        });
        check(&mut director, cases);
        let (exact, zero) = (kind.open().to_port(80), kind.open().to_port(0));
        check(
            &mut director,
            [
                case(format!("{} exact", kind.name), &exact, tx(&forwarded(&exact, 2))),
                case(format!("{} port 0", kind.name), &zero, tx(&forwarded(&zero, 1))),
                case(
                    format!("{} not the VIP", kind.name),
                    &exact.with(|p| p.dest.set_ip(kind.backend(9))),
                    passed(PassedNoService),
                ),
            ],
        );
    }
    check(
        &mut director,
        [TCP4, TCP6].map(|kind| case("no flow", &kind.later().to_port(5), dropped(DroppedNoFlow))),
    );
}

#[test]
fn ports_of_a_wildcard_service_are_flows_of_their_own() {
    let mut want = lab();
    want.services = ALL_KINDS.map(|kind| kind.service(0, &[1, 2])).to_vec();
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let ports = |packet: lb_tests::packet::Packet| (0..6u16).map(move |port| packet.to_port(port));
        let opened: Vec<_> = ports(kind.open()).map(|p| send(&mut director, &p)).collect();
        assert_eq!(opened, [1, 2, 1, 2, 1, 2].map(Ok), "{}", kind.name);
        let later: Vec<_> = ports(kind.later()).map(|p| send(&mut director, &p)).collect();
        assert_eq!(later, opened, "{}", kind.name);
    }
}

#[test]
fn a_flow_of_the_wildcard_service_survives_a_service_of_its_own_port() {
    let mut want = lab();
    want.services = ALL_KINDS.map(|kind| kind.service(0, &[1])).to_vec();
    let mut director = director(&want);
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &kind.open()), Ok(1));
        assert_eq!(send(&mut director, &kind.later()), Ok(1));
        want.services.push(kind.service(PORT, &[2]));
    }
    director.configure(&want).expect("configured");
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &kind.later()), Ok(1), "{}: established", kind.name);
        assert_eq!(send(&mut director, &kind.open().from_port(50000)), Ok(2), "new: exact before wildcard");
        assert_eq!(send(&mut director, &kind.later().from_port(50000)), Ok(2));
        assert_eq!(send(&mut director, &kind.later()), Ok(1), "established still");
    }
    for kind in [TCP4, TCP6] {
        assert_eq!(send(&mut director, &kind.later().from_port(50001)), Err(DroppedNoFlow));
    }
    // The exact services go again: their flows stay, their ports are the wildcard's.
    want.services.truncate(ALL_KINDS.len());
    director.configure(&want).expect("configured");
    for kind in ALL_KINDS {
        let deleted = kind.later().from_port(50000);
        assert_eq!(send(&mut director, &deleted), Ok(2), "{}: a flow of the deleted service", kind.name);
        assert_eq!(send(&mut director, &kind.later()), Ok(1));
        assert_eq!(send(&mut director, &kind.open().from_port(50002)), Ok(1), "new: the wildcard");
    }
    for kind in [TCP4, TCP6] {
        assert_eq!(send(&mut director, &kind.later().from_port(50001)), Err(DroppedNoFlow));
    }
}

#[test]
fn a_finished_flow_of_a_deleted_service_does_not_take_the_wildcards() {
    for kind in [TCP4, TCP6] {
        let mut want = lab();
        want.services = vec![kind.service(0, &[1]), kind.service(PORT, &[2])];
        let mut director = director(&want);
        for flags in [SYN, ACK, RST] {
            assert_eq!(send(&mut director, &kind.open().flags(flags)), Ok(2));
        }
        want.services.truncate(1);
        director.configure(&want).expect("configured");
        // The same client port, within the ten seconds that the old connection is kept.
        for flags in [SYN, ACK, ACK] {
            assert_eq!(send(&mut director, &kind.open().flags(flags)), Ok(1), "{}", kind.name);
        }
    }
}

#[test]
fn a_flow_of_the_wildcard_service_survives_an_overflow_of_its_port() {
    for kind in [TCP4, TCP6] {
        let mut want = lab();
        want.services = vec![kind.service(0, &[9])];
        let mut director = Director::new(FlowSizes { ipv4: 16, wide: 16 }, &want).expect("a director");
        for packet in [kind.open(), kind.later()] {
            assert_eq!(send(&mut director, &packet), Ok(9));
        }
        // So many connections to a service of its own that packets without an entry are placed by hash.
        want.services.push(kind.service(PORT, &[1, 2]));
        director.configure(&want).expect("configured");
        for port in 1000..1200 {
            let backend = send(&mut director, &kind.open().from_port(port)).expect("forwarded");
            assert_eq!(send(&mut director, &kind.later().from_port(port)), Ok(backend));
        }
        assert!(send(&mut director, &kind.later().from_port(999)).is_ok(), "by hash");
        assert_eq!(send(&mut director, &kind.later()), Ok(9), "{}: established", kind.name);
    }
}
