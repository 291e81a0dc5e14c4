//! A packet of a service leaves for its backend, exactly so; a packet of nobody's is left alone.

use lb_common::{tcp::flag::*, verdict::Verdict::*};
use lb_tests::packet::{ESP, ICMP, ICMPV6, Packet};

use crate::{
    table::{case, check, dropped, passed, tx},
    world::*,
};

#[test]
fn a_packet_of_a_service_leaves_for_its_backend() {
    let mut director = director(&every_kind());
    for kind in ALL_KINDS {
        let (open, later) = (kind.open(), kind.later());
        let to_1 = |what: &str, p: Packet| case(format!("{} {what}", kind.name), &p, tx(&forwarded(&p, 1)));
        check(
            &mut director,
            [
                to_1("opening", open),
                to_1("in its middle", later.clone()),
                to_1("least TTL", later.ttl(2)),
                to_1("greatest TTL", later.ttl(255)),
                to_1("no payload", later.with(|p| p.payload.clear())),
                to_1("full frame", later.with(|p| p.payload = vec![0xa5; 1440])),
                to_1("odd length", later.with(|p| p.payload.truncate(7))),
                to_1("padded to 60 bytes", later.with(|p| (p.payload, p.trailer) = (vec![1], vec![0; 5]))),
                to_1("a longer trailer", later.with(|p| p.trailer = (0..64).collect())),
            ],
        );
    }
}

#[test]
fn a_jumbo_frame_in_pieces_leaves_whole() {
    let mut want = every_kind();
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(1), neighbour_with_mtu(1, 9000));
    }
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let jumbo = kind.open().with(|p| p.payload = (0..8900u32).map(|i| (i % 251) as u8).collect());
        let short = jumbo.with(|p| p.claimed_length = Some(9100));
        check(
            &mut director,
            [
                case(format!("{} 9000", kind.name), &jumbo, tx(&forwarded(&jumbo, 1))),
                case(format!("{} longer than the frame", kind.name), &short, passed(PassedMalformed)),
            ],
        );
    }
}

#[test]
fn every_ttl_gets_the_right_checksum() {
    let mut director = director(&every_kind());
    let ack = TCP4.open();
    let cases = (2..=255u8).flat_map(|ttl| {
        // The checksum of the header runs through all kinds of values with the client's address.
        [0u8, 7, 85, 254].map(|host| {
            let packet = ack.ttl(ttl).with(|p| p.source.set_ip([10, ttl, host, ttl].into()));
            case(format!("ttl {ttl} host {host}"), &packet, tx(&forwarded(&packet, 1)))
        })
    });
    check(&mut director, cases);
}

#[test]
fn what_is_addressed_to_nobody_here_is_left_alone() {
    let mut want = every_kind();
    want.links[0].macs.push(VIRTUAL_MAC);
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let open = kind.open();
        let to = |mac| open.with(|p| p.to = mac);
        let name = |what: &str| format!("{} {what}", kind.name);
        let ours = to(VIRTUAL_MAC);
        check(
            &mut director,
            [
                case(name("another host's MAC"), &to(backend_mac(1)), passed(PassedNotForUs)),
                case(name("one bit off"), &to([2, 0, 0, 0, 0, 3]), passed(PassedNotForUs)),
                case(name("the other interface's MAC"), &to(ETH1_MAC), passed(PassedNotForUs)),
                case(name("broadcast"), &to([0xff; 6]), passed(PassedNotForUs)),
                case(name("multicast"), &to([1, 0, 0x5e, 0, 0, 18]), passed(PassedNotForUs)),
                case(name("a second MAC of ours"), &ours, tx(&forwarded(&ours, 1))),
            ],
        );
    }
}

#[test]
fn what_is_for_no_service_is_left_alone() {
    let mut want = every_kind();
    // TCP only on one port more.
    want.services.push(TCP4.service(80, &[2]));
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let open = kind.open();
        let other = if kind.is_ipv6 { TCP6.backend(5) } else { TCP4.backend(5) };
        let name = |what: &str| format!("{} {what}", kind.name);
        let icmp = if kind.is_ipv6 { ICMPV6 } else { ICMP };
        check(
            &mut director,
            [
                case(name("not a VIP"), &open.with(|p| p.dest.set_ip(other)), passed(PassedNoService)),
                case(name("another port"), &open.to_port(PORT + 1), passed(PassedNoService)),
                case(name("port 0"), &open.to_port(0), passed(PassedNoService)),
                case(name("ICMP"), &open.with(|p| p.protocol = icmp), passed(PassedNotIp)),
                case(name("ESP"), &open.with(|p| p.protocol = ESP), passed(PassedNotIp)),
            ],
        );
    }
    let udp = UDP4.open().to_port(80);
    check(&mut director, [case("a port that TCP alone has", &udp, passed(PassedNoService))]);
}

#[test]
fn an_ack_of_nobody_is_dropped_but_passed_where_there_is_no_service() {
    let mut director = director(&every_kind());
    for flags in [ACK, SYN | ACK, RST, RST | ACK, FIN, FIN | ACK, 0, SYN | RST] {
        for kind in [TCP4, TCP6] {
            let packet = kind.open().flags(flags);
            let elsewhere = packet.to_port(PORT + 1);
            let name = format!("{} flags {flags:02x}", kind.name);
            check(
                &mut director,
                [
                    case(&*name, &packet, dropped(DroppedNoFlow)),
                    case(name, &elsewhere, passed(PassedNoService)),
                ],
            );
        }
    }
}
