//! The answers to health checks through the VIP go to the checks, and nothing of a service moves.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lb::{
    model::Protocol,
    plan::{Desired, LinkSpec, ProbeSpec},
};
use lb_common::{
    sctp::chunk,
    tcp::flag::{ACK, RST, SYN},
    verdict::Verdict::*,
    vlan::Tags,
};
use lb_tests::packet::{ICMP, ICMPV6, Icmp, Mac, Packet};

use crate::{
    bytes::of_services,
    table::{case, check, frame_to_check, passed, raw, to_check, tx},
    world::*,
};

const PROBE: &str = "lb-probe1";
/// Of the checks' end.
const PROBE_MAC: Mac = [2, 0, 0, 0, 0xd, 1];
const FIRST: u16 = 61000;
const LAST: u16 = 61009;

/// The director's own address, which checks come from.
fn own(kind: Kind) -> IpAddr {
    kind.router()
}

fn probing() -> Desired {
    let mut want = every_kind();
    let veth = LinkSpec { name: PROBE.to_owned(), mac: [2, 0, 0, 0, 0xd, 2], ..want.links[1].clone() };
    want.links.push(LinkSpec { untagged: false, ..veth });
    want.links[0].tags = vec![Tags::new(100, 0)];
    let sources = BTreeSet::from([own(TCP4), own(TCP6)]);
    want.probes = Some(ProbeSpec { link: PROBE.to_owned(), mac: PROBE_MAC, sources, ports: FIRST..=LAST });
    want
}

/// What a backend answers a check with.
fn answer(kind: Kind) -> Packet {
    let (vip, own) = (SocketAddr::new(kind.vip(), PORT), SocketAddr::new(own(kind), FIRST));
    let packet = match kind.protocol() {
        Protocol::Tcp => Packet::tcp(vip, own, SYN | ACK),
        Protocol::Udp => Packet::udp(vip, own),
        // Of a program that asks.
        Protocol::Sctp => Packet::sctp(vip, own, chunk::INIT_ACK),
    };
    packet.with(|p| (p.to, p.from) = (ETH0_MAC, backend_mac(1)))
}

/// The same as the check gets it.
fn given(answer: &Packet) -> Packet {
    answer.with(|p| {
        (p.to, p.from) = (PROBE_MAC, ETH0_MAC);
        p.tags.clear();
    })
}

#[test]
fn an_answer_from_a_vip_goes_to_the_check() {
    let mut director = director(&probing());
    for kind in ALL_KINDS {
        let name = |what: &str| format!("{} {what}", kind.name);
        let answer = answer(kind);
        let to = |what: &str, packet: Packet| case(name(what), &packet, to_check(&given(&packet)));
        let cases = [
            to("first port", answer.clone()),
            to("last port", answer.to_port(LAST)),
            to("tagged", answer.tagged(&[100])),
            to("TTL 1", answer.ttl(1)),
            // A port of the VIP that no service has: the check asks there, if it was told so.
            to("another port of the VIP", answer.from_port(PORT + 7)),
            to("a full frame", answer.with(|p| p.payload = vec![7; 1440])),
        ];
        check(&mut director, cases);
        if kind.protocol() == Protocol::Tcp {
            check(&mut director, [RST, RST | ACK, ACK].map(|flags| to("more", answer.flags(flags))));
        }
    }
}

/// A server that does not listen, a firewall, a router: the check learns of it at once.
#[test]
fn an_error_about_a_check_goes_to_it() {
    let mut director = director(&probing());
    for kind in ALL_KINDS {
        let asked = answer(kind).turned();
        let error = |port| {
            let about = asked.from_port(port);
            about.error_to_sender(Icmp::PortUnreachable, ETH0_MAC, backend_mac(1), kind.backend(1), 48)
        };
        let mut given = error(FIRST);
        given[..6].copy_from_slice(&PROBE_MAC);
        given[6..12].copy_from_slice(&ETH0_MAC);
        let elsewhere = asked.with(|p| p.dest.set_ip(kind.backend(1)));
        let elsewhere =
            elsewhere.error_to_sender(Icmp::PortUnreachable, ETH0_MAC, backend_mac(1), kind.backend(1), 48);
        let cases = [
            raw(format!("{} about a check", kind.name), error(FIRST), frame_to_check(given)),
            raw(format!("{} about another port", kind.name), error(FIRST - 1), passed(PassedNotIp)),
            raw(format!("{} about a connection to no VIP", kind.name), elsewhere, passed(PassedNotIp)),
        ];
        check(&mut director, cases);
    }
}

/// An ICMP message of this type with an echo's identifier.
fn echo(packet: &Packet, [kind4, kind6]: [u8; 2], id: u16) -> Packet {
    let (protocol, kind) = if packet.source.is_ipv4() { (ICMP, kind4) } else { (ICMPV6, kind6) };
    let [high, low] = id.to_be_bytes();
    packet.with(|p| {
        p.protocol = protocol;
        p.payload = vec![kind, 0, 0, 0, high, low, 0, 1, 9, 9];
    })
}

const REPLY: [u8; 2] = [0, 129];
const REQUEST: [u8; 2] = [8, 128];

#[test]
fn an_echo_reply_from_a_vip_goes_to_the_check() {
    let mut director = director(&probing());
    for kind in [TCP4, TCP6] {
        let name = |what: &str| format!("{} {what}", kind.name);
        let reply = echo(&answer(kind), REPLY, FIRST);
        let last = echo(&answer(kind), REPLY, LAST);
        let tagged = reply.tagged(&[100]);
        let to = |what: &str, packet: &Packet| case(name(what), packet, to_check(&given(packet)));
        let cases = [to("first identifier", &reply), to("last identifier", &last), to("tagged", &tagged)];
        check(&mut director, cases);
        let left = |what: &str, packet: Packet| case(name(what), &packet, passed(PassedNotIp));
        let cases = [
            left("an identifier of nobody's", echo(&answer(kind), REPLY, FIRST - 1)),
            left("a request", echo(&answer(kind), REQUEST, FIRST)),
            left("another message", echo(&answer(kind), [13, 135], FIRST)),
            left("the other family's reply", echo(&answer(kind), [129, 0], FIRST)),
            left("from the backend's own address", reply.with(|p| p.source.set_ip(kind.backend(1)))),
            left("to another address", reply.with(|p| p.dest.set_ip(kind.backend(7)))),
            // A host that pings the VIP from what it takes for its own.
            left("to the VIP", reply.with(|p| p.dest.set_ip(kind.vip()))),
            left("cut off", reply.with(|p| p.payload.truncate(4))),
        ];
        check(&mut director, cases);
    }
}

#[test]
fn an_error_about_an_echo_goes_to_its_check() {
    let mut director = director(&probing());
    for kind in [TCP4, TCP6] {
        let error = |types, id| {
            let about = echo(&answer(kind).turned(), types, id);
            about.error_to_sender(Icmp::PortUnreachable, ETH0_MAC, backend_mac(1), kind.backend(1), 48)
        };
        let mut given = error(REQUEST, FIRST);
        given[..6].copy_from_slice(&PROBE_MAC);
        given[6..12].copy_from_slice(&ETH0_MAC);
        let cases = [
            raw(format!("{} about a check", kind.name), error(REQUEST, FIRST), frame_to_check(given)),
            raw(format!("{} about another one", kind.name), error(REQUEST, FIRST - 1), passed(PassedNotIp)),
        ];
        check(&mut director, cases);
    }
}

#[test]
fn what_is_no_answer_to_a_check_is_left_alone() {
    let mut director = director(&probing());
    for kind in ALL_KINDS {
        let name = |what: &str| format!("{} {what}", kind.name);
        let answer = answer(kind);
        let left = |what: &str, packet: Packet| case(name(what), &packet, passed(PassedNoService));
        let to = |mac| answer.with(|p| p.to = mac);
        let cases = [
            left("the port before", answer.to_port(FIRST - 1)),
            left("the port behind", answer.to_port(LAST + 1)),
            left("from the backend's own address", answer.with(|p| p.source.set_ip(kind.backend(1)))),
            left("from a client", answer.with(|p| p.source.set_ip(kind.client()))),
            left("to another address", answer.with(|p| p.dest.set_ip(kind.backend(7)))),
            left("a first fragment", answer.fragment(0, true)),
            case(name("another host's MAC"), &to(backend_mac(2)), passed(PassedNotForUs)),
        ];
        check(&mut director, cases);
        // A client whose port is one of the checks'.
        let client = kind.open().from_port(FIRST);
        check(&mut director, [case(name("a client"), &client, tx(&forwarded(&client, 1)))]);
    }
}

#[test]
fn checks_come_and_go_with_what_is_wanted() {
    let mut director = director(&every_kind());
    let answers = |expect: fn(&Packet) -> crate::table::Expect| {
        ALL_KINDS.map(|kind| case(kind.name, &answer(kind), expect(&given(&answer(kind)))))
    };
    check(&mut director, answers(|_| passed(PassedNoService)));
    director.configure(&probing()).expect("configured");
    check(&mut director, answers(to_check));
    let mut want = probing();
    want.probes.as_mut().expect("it is there").ports = LAST + 1..=LAST + 10;
    director.configure(&want).expect("configured");
    check(&mut director, answers(|_| passed(PassedNoService)));
    director.configure(&every_kind()).expect("configured");
    check(&mut director, answers(|_| passed(PassedNoService)));
}

#[test]
fn no_flow_no_cursor_and_no_counter_of_a_service_moves() {
    let mut director = director(&probing());
    for kind in ALL_KINDS {
        send(&mut director, &kind.open()).expect("forwarded");
    }
    let before = of_services(&director);
    for port in FIRST..=LAST {
        let answers = ALL_KINDS.map(|kind| answer(kind).to_port(port));
        check(&mut director, answers.map(|packet| case("an answer", &packet, to_check(&given(&packet)))));
    }
    assert!(of_services(&director) == before, "a check left something in the maps");
    // And the comparison sees a client.
    send(&mut director, &TCP4.open().from_port(FIRST)).expect("forwarded");
    assert!(of_services(&director) != before, "a client left nothing in the maps");
}
