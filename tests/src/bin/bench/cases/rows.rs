//! The rows: which packets, to which director.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    tcp::flag::{ACK, FIN, RST, SYN},
    verdict::{Event, Verdict},
};
use lb_tests::{
    feeder::Feed,
    packet::{Icmp, Packet},
};

use super::{
    PACKETS, Row, Run,
    directors::{FLOWS_OF_SERVICES, GUARDED, MOST, PERSISTENT, RESETS, SERVICES, TAGGED, VID, Which},
};
use crate::{
    expected::Expected,
    world::{CLIENT_MAC, DIRECTOR_MAC, VIP4, VIP6, datagram, open},
};

const NOT_A_VIP: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 18, 14, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0x200)),
];
const MANY: u32 = 1 << 16;
/// Flows whose buckets are as much as the largest caches: 32 MiB.
const CACHES: u32 = 1 << 19;
/// Client port of the flow that errors and fragments belong to: the number of one of the first [`MANY`].
const PORT_OF_ONE: u16 = 40000;

/// What the wrapper costs by itself, for each family.
pub fn wrappers() -> Vec<(Run, Vec<u32>)> {
    [VIP4, VIP6].map(|vip| (known(&open(vip).flags(ACK), 1), Vec::new())).into()
}

/// Flows that are there before the first round, opened in another order than they are measured in: a kernel's map hands
/// out its entries one after the other.
pub fn established() -> Vec<(Which, Run)> {
    let connected = |which, packet: &Packet, flows, services| {
        [SYN, ACK].map(|flags| {
            let feed = Feed::new_flows(packet).to_services(services);
            (which, Run { frame: packet.flags(flags).bytes(), feed, packets: flows })
        })
    };
    let mut runs = Vec::new();
    for packet in [open(VIP4), open(VIP6)].into_iter().chain(TAGGED.map(|vip| open(vip).tagged(&[VID]))) {
        runs.extend(connected(Which::Plain, &packet, MANY, 1));
    }
    for packet in [datagram(VIP4), datagram(VIP6)] {
        runs.push((Which::Plain, numbered(&packet, MANY)));
    }
    for (number, services) in SERVICES.into_iter().enumerate() {
        runs.extend(connected(
            Which::Services(number),
            &open(VIP4).to_port(1000),
            FLOWS_OF_SERVICES,
            services,
        ));
    }
    for vip in [VIP4, VIP6] {
        runs.extend(connected(Which::Most, &open(vip), MOST, 1));
        runs.extend(connected(Which::Lru, &open(vip), MOST, 1));
        runs.push((Which::Most, numbered(&datagram(vip), MOST)));
    }
    for which in [Which::Features, Which::Moving, Which::Traced] {
        runs.extend(connected(which, &open(VIP4), 1, 1));
    }
    runs
}

pub fn rows() -> Vec<Row> {
    let plain = Which::Plain;
    let ack = |vip| open(vip).flags(ACK);
    // Each flow once, so that its expiry is fresh; of very many as many as fill the caches.
    let flows = |name: &str, which, packet: &Packet, flows: u32| {
        let known = known(packet, flows);
        let warm_up = Run { packets: flows.min(CACHES), ..known.clone() };
        forwarded(name, which, vec![warm_up], Run { packets: PACKETS, ..known })
    };
    let new = |name: &str, which, frame: &Packet, feed: Feed| {
        // Beyond all that are established, and none twice.
        let feed = feed.from_number(MOST.into());
        forwarded(name, which, Vec::new(), Run { frame: frame.bytes(), feed, packets: PACKETS })
    };
    let mut rows = vec![
        flows("IPv4 TCP, 1 known flow", plain, &ack(VIP4), 1),
        flows("IPv4 UDP, 1 known flow", plain, &datagram(VIP4), 1),
        flows("IPv4 UDP, 64 k known flows", plain, &datagram(VIP4), MANY),
        new("IPv4 UDP, new flow, rr", plain, &datagram(VIP4), Feed::new_flows(&datagram(VIP4))),
        flows("IPv6 TCP, 1 known flow", plain, &ack(VIP6), 1),
        flows("IPv6 UDP, 1 known flow", plain, &datagram(VIP6), 1),
        flows("IPv6 UDP, 64 k known flows", plain, &datagram(VIP6), MANY),
        new("IPv6 TCP, new flow, rr", plain, &open(VIP6), Feed::new_flows(&open(VIP6))),
        new("IPv6 UDP, new flow, rr", plain, &datagram(VIP6), Feed::new_flows(&datagram(VIP6))),
    ];
    for (n, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let named = |what: &str| format!("{what}, {family}");
        let (client, nobody) = (open(PERSISTENT[n]), ack(NOT_A_VIP[n]));
        rows.extend([
            flows(&named("VLAN tag, 1 known flow"), plain, &ack(TAGGED[n]).tagged(&[VID]), 1),
            new(&named("new flow, its client has a template"), plain, &client, Feed::new_flows(&client)),
            new(&named("new flow, its client gets a template"), plain, &client, Feed::new_clients(&client)),
            ending(&named("RST of an established flow"), RESETS[n], RST | ACK),
            ending(&named("FIN of an established flow"), RESETS[n], FIN | ACK),
            flood(&named("SYN flood over the guard"), &open(GUARDED[n])),
            flood(&named("UDP flood over the guard"), &datagram(GUARDED[n])),
            Row {
                expected: Expected::each(Verdict::PassedNoService),
                ..flows(&named("not a VIP"), plain, &nobody, 1)
            },
        ]);
    }
    for (name, packet, beside) in [
        ("IPv4 TCP", ack(VIP4), true),
        ("IPv4 UDP", datagram(VIP4), false),
        ("IPv6 TCP", ack(VIP6), true),
        ("IPv6 UDP", datagram(VIP6), false),
    ] {
        for (many, number) in [("1 k", 1 << 10), ("512 k", CACHES), ("4 M", MOST)] {
            let name = format!("{name}, {many} known flows of 16 M");
            rows.push(flows(&name, Which::Most, &packet, number));
            if beside {
                rows.push(flows(&format!("{name} [kernel LRU map]"), Which::Lru, &packet, number));
            }
        }
    }
    for (name, vip) in [("ICMP error about a flow, IPv4", VIP4), ("ICMP error about a flow, IPv6", VIP6)] {
        rows.push(forwarded(name, plain, Vec::new(), error(vip)));
    }
    for (name, vip) in [("IPv4", VIP4), ("IPv6", VIP6)] {
        let piece =
            |offset, more| datagram(vip).from_port(PORT_OF_ONE).with(|p| p.id = 7).fragment(offset, more);
        let (first, later) = (fixed(&piece(0, true)), fixed(&piece(1480, false)));
        rows.push(forwarded(&format!("first fragment, {name}"), plain, vec![first.clone()], first.clone()));
        rows.push(forwarded(&format!("later fragment, {name}"), plain, vec![first], later));
    }
    for (number, services) in SERVICES.into_iter().enumerate() {
        let packet = ack(VIP4).to_port(1000);
        let name = format!("4 k known flows of {services} services");
        let mut row = flows(&name, Which::Services(number), &packet, FLOWS_OF_SERVICES);
        for run in row.before.iter_mut().chain([&mut row.measured]) {
            run.feed = run.feed.to_services(services);
        }
        rows.push(row);
    }
    rows.extend([
        flows("tables of another size are filled, 1 known flow", Which::Moving, &ack(VIP4), 1),
        new(
            "tables of another size are filled, new flow",
            Which::Moving,
            &open(VIP4),
            Feed::new_flows(&open(VIP4)),
        ),
        flows("`lb trace` runs, 1 known flow", Which::Traced, &ack(VIP4), 1),
        new("`lb trace` runs, new flow", Which::Traced, &open(VIP4), Feed::new_flows(&open(VIP4))),
        flows("everything configured, 1 known flow", Which::Features, &ack(VIP4), 1),
        new("everything configured, new flow", Which::Features, &open(VIP4), Feed::new_flows(&open(VIP4))),
    ]);
    let nobody = ack(NOT_A_VIP[0]);
    rows.push(Row {
        expected: Expected::each(Verdict::PassedNoService),
        ..flows("everything configured, not a VIP", Which::Features, &nobody, 1)
    });
    rows
}

/// Packets that all leave for a backend.
fn forwarded(name: &str, which: Which, before: Vec<Run>, measured: Run) -> Row {
    let (name, expected) = (name.to_owned(), Expected::each(Verdict::ForwardedTx));
    Row { name, which, before, warm_up: 0, measured, expected, rounds: Vec::new() }
}

/// Flows that were opened and established in this round.
fn ending(name: &str, vip: IpAddr, flags: u8) -> Row {
    let run = |flags| Run { packets: PACKETS, ..known(&open(vip).flags(flags), PACKETS) };
    forwarded(name, Which::Plain, vec![run(SYN), run(ACK)], run(flags))
}

/// New flows, after as many as the guard lets pass at once.
fn flood(name: &str, packet: &Packet) -> Row {
    let feed = Feed::new_flows(packet).from_number(MOST.into());
    let run = Run { frame: packet.bytes(), feed, packets: PACKETS };
    let expected = Expected { event: Some(Event::Guarded), ..Expected::each(Verdict::ForwardedTx) };
    Row { warm_up: PACKETS, expected, ..forwarded(name, Which::Plain, Vec::new(), run) }
}

/// One packet of each of so many flows, by their numbers.
fn numbered(packet: &Packet, flows: u32) -> Run {
    Run { frame: packet.bytes(), feed: Feed::new_flows(packet), packets: flows }
}

/// The same in the order in which they are measured.
fn known(packet: &Packet, flows: u32) -> Run {
    let packets = if flows == 1 { PACKETS } else { flows };
    Run { frame: packet.bytes(), feed: Feed::of(packet, flows), packets }
}

fn fixed(packet: &Packet) -> Run {
    let feed = Feed::fixed(&packet.bytes(), packet.l3(), packet.source.is_ipv6());
    Run { frame: packet.bytes(), feed, packets: PACKETS }
}

/// A router's error about an answer to one client.
fn error(vip: IpAddr) -> Run {
    let answer = open(vip).flags(ACK).from_port(PORT_OF_ONE).turned();
    let router = open(vip).source.ip();
    let quoted = if vip.is_ipv6() { 56 } else { 28 };
    let frame = answer.error_to_sender(Icmp::TooBig(1400), DIRECTOR_MAC, CLIENT_MAC, router, quoted);
    Run { feed: Feed::fixed(&frame, 14, vip.is_ipv6()), frame, packets: PACKETS }
}
