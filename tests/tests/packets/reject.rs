//! What a client is told that cannot be served: its new connection, because no backend takes it; its segment, because
//! nobody knows the connection.

use lb::{
    model::{ExpireNodest, Protocol, Reject, ServiceOptions},
    plan::Desired,
};
use lb_common::{
    tcp::flag::{ACK, FIN, RST, SYN},
    verdict::Verdict::{self, *},
    vlan::Tags,
};
use lb_tests::packet::{Extension::*, Icmp, Packet};

use crate::{
    table::{Case, answered, case, check, dropped, passed},
    world::*,
};

/// A service of every kind with backend 1, if `has_backend`.
fn with(reject: Reject, has_backend: bool) -> Desired {
    let mut want = every_kind();
    want.links[0].tags = vec![Tags::new(100, 0), Tags::new(10, 20)];
    for service in &mut want.services {
        service.options = ServiceOptions { reject, ..ServiceOptions::default() };
        if !has_backend {
            service.backends.clear();
        }
    }
    want
}

fn unreachable(verdict: Verdict, kind: Kind, name: &str, packet: Packet) -> Case {
    let expect = answered(verdict, packet.icmp_error(Icmp::PortUnreachable, ETH0_MAC, kind.vip()));
    case(format!("{} {name}", kind.name), &packet, expect)
}

fn reset(verdict: Verdict, kind: Kind, name: &str, packet: Packet) -> Case {
    let expect = answered(verdict, packet.reset(ETH0_MAC));
    case(format!("{} {name}", kind.name), &packet, expect)
}

#[test]
fn a_connection_that_no_backend_takes_is_answered_with_port_unreachable() {
    for kind in ALL_KINDS {
        let mut director = director(&with(Reject::Icmp, false));
        let open = kind.open();
        check(
            &mut director,
            [
                unreachable(AnsweredNoBackend, kind, "opening", open.clone()),
                unreachable(AnsweredNoBackend, kind, "tagged", open.tagged(&[100])),
                unreachable(AnsweredNoBackend, kind, "tagged twice", open.tagged(&[10, 20])),
                unreachable(AnsweredNoBackend, kind, "long", open.with(|p| p.payload = vec![0x5a; 1440])),
                unreachable(
                    AnsweredNoBackend,
                    kind,
                    "with a trailer",
                    open.with(|p| p.trailer = vec![9; 17]),
                ),
            ],
        );
        if !kind.is_ipv6 {
            let options = open.with(|p| p.options = vec![1; 12]);
            check(&mut director, [unreachable(AnsweredNoBackend, kind, "options", options)]);
        }
        let first = open.fragment(0, true);
        check(
            &mut director,
            [
                unreachable(AnsweredNoBackend, kind, "first fragment", first),
                case("a later fragment", &open.fragment(1480, false), dropped(DroppedFragment)),
            ],
        );
    }
}

#[test]
fn a_segment_of_no_connection_is_answered_with_a_reset() {
    for kind in [TCP4, TCP6] {
        for how in [Reject::Icmp, Reject::Reset] {
            let mut director = director(&with(how, true));
            let later = kind.later();
            let cases = [
                ("ack", later.clone()),
                ("data", later.with(|p| p.payload = vec![7; 1400])),
                ("no payload", later.with(|p| p.payload.clear())),
                ("padded", later.with(|p| (p.payload, p.trailer) = (vec![], vec![0; 6]))),
                ("fin and ack", later.flags(FIN | ACK)),
                ("syn and ack", later.flags(SYN | ACK)),
                ("fin alone", later.flags(FIN)),
                ("no flags", later.flags(0)),
                ("tagged", later.tagged(&[100])),
                ("tagged twice", later.tagged(&[10, 20])),
            ];
            check(&mut director, cases.map(|(name, packet)| reset(AnsweredNoFlow, kind, name, packet)));
            let odd = if kind.is_ipv6 {
                later.extended(&[HopByHop(8), DestOptions(16)])
            } else {
                later.with(|p| p.options = vec![1; 40])
            };
            check(
                &mut director,
                [
                    reset(AnsweredNoFlow, kind, "options", odd.clone()),
                    reset(AnsweredNoFlow, kind, "options, without ack", odd.flags(FIN)),
                    case("a reset", &later.flags(RST), dropped(DroppedNoFlow)),
                    case("a reset with ack", &later.flags(RST | ACK), dropped(DroppedNoFlow)),
                ],
            );
            assert!(director.flows().is_empty(), "none of these opens anything");
        }
    }
}

#[test]
fn a_reset_for_a_connection_that_no_backend_takes() {
    for kind in ALL_KINDS {
        let mut director = director(&with(Reject::Reset, false));
        let open = kind.open();
        let case = if kind.protocol() != Protocol::Tcp {
            unreachable(AnsweredNoBackend, kind, "opening", open)
        } else {
            reset(AnsweredNoBackend, kind, "opening", open)
        };
        check(&mut director, [case]);
    }
}

#[test]
fn every_checksum_of_a_reset_is_right() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&with(Reject::Icmp, true));
        let cases = (0..60u16).map(|i| {
            let packet = kind.later().from_port(1 + i * 1091).with(|p| p.payload = vec![i as u8; i.into()]);
            reset(AnsweredNoFlow, kind, "", if i % 2 == 0 { packet } else { packet.flags(FIN) })
        });
        check(&mut director, cases);
    }
}

#[test]
fn nothing_is_said_or_the_stack_gets_it() {
    for kind in ALL_KINDS {
        let mut director = director(&with(Reject::Drop, false));
        check(&mut director, [case(kind.name, &kind.open(), dropped(DroppedNoBackend))]);
        director.configure(&with(Reject::Pass, false)).expect("configured");
        check(&mut director, [case(kind.name, &kind.open(), passed(PassedNoBackend))]);
        if !kind.is_udp {
            check(&mut director, [case(kind.name, &kind.later(), passed(PassedNoFlow))]);
            director.configure(&with(Reject::Drop, false)).expect("configured");
            check(&mut director, [case(kind.name, &kind.later(), dropped(DroppedNoFlow))]);
        }
    }
}

#[test]
fn a_removed_backends_connections_are_reset_where_they_shall_be() {
    for kind in [TCP4, TCP6] {
        let wanted = |backends: &[u8]| {
            let mut service = kind.service(PORT, backends);
            service.options.expire_nodest = ExpireNodest::Reset;
            Desired { services: vec![service], ..lab() }
        };
        let mut director = director(&wanted(&[1, 2]));
        assert_eq!(open(&mut director, kind, 1001..1003), [1, 2]);
        director.configure(&wanted(&[2])).expect("configured");
        let lost = kind.later().from_port(1001);
        check(
            &mut director,
            [
                reset(AnsweredBackendRemoved, kind, "in the middle", lost.clone()),
                case("its reset", &lost.flags(RST), dropped(DroppedBackendRemoved)),
            ],
        );
        assert_eq!(send(&mut director, &kind.later().from_port(1002)), Ok(2), "the other one goes on");
        assert_eq!(send(&mut director, &kind.open().from_port(1001)), Ok(2), "the client comes again");
    }
}

#[test]
fn a_deleted_service_resets_nothing() {
    let mut director = director(&with(Reject::Icmp, true));
    assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
    director.configure(&lab()).expect("configured");
    check(&mut director, [case("of nobody", &TCP4.later().from_port(9), passed(PassedNoService))]);
    assert_eq!(send(&mut director, &TCP4.later()), Ok(1), "what was open goes on");
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e): a source that is not one host is told nothing, whatever there is to
/// say.
#[test]
fn only_one_host_is_answered() {
    let sources4 = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.18", "240.0.0.1", "255.255.255.255"];
    let sources6 = ["::", "::1", "::ffff:10.1.2.3", "ff02::12"];
    for kind in ALL_KINDS {
        let sources: &[&str] = if kind.is_ipv6 { &sources6 } else { &sources4 };
        let each = |packet: Packet, verdict| {
            sources.iter().map(move |source| {
                let packet = packet.with(|p| p.source.set_ip(source.parse().expect("an address")));
                case(format!("{} from {source}", kind.name), &packet, dropped(verdict))
            })
        };
        for how in [Reject::Icmp, Reject::Reset] {
            let mut nobody = director(&with(how, false));
            check(&mut nobody, each(kind.open(), DroppedNoBackend));
            if !kind.is_udp {
                check(&mut nobody, each(kind.later(), DroppedNoFlow));
            }
        }
        let mut director = director(&with(Reject::Icmp, true));
        check(&mut director, each(kind.open().with(|p| p.ttl = 1), DroppedTtl));
    }
}

#[test]
fn answers_have_a_limit() {
    let mut director = director(&with(Reject::Icmp, true));
    let frame = TCP4.later().bytes();
    for _ in 0..4096 {
        director.send(&frame, None).expect("ran");
    }
    let counted = director.counters().expect("counters");
    let of = |name| counted.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, times)| *times);
    let (answers, drops) = (of(AnsweredNoFlow.name()), of(DroppedNoFlow.name()));
    assert_eq!(answers + drops, 4096);
    assert!(answers >= 128 && drops > 0, "{answers} answered, {drops} dropped");
}
