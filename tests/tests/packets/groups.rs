//! Services of several endpoints: addresses, ports, ranges of ports, protocols.

use lb::{
    model::{Endpoint, Persistence, Protocol, Scope, Service},
    plan::Desired,
};
use lb_common::{tcp::flag::*, verdict::Verdict::*};
use lb_tests::{packet::Packet, xdp::Director};

use crate::{
    table::{case, check, passed, tx},
    world::*,
};

const FIRST: u16 = 5000;
const LAST: u16 = 5100;

/// The VIP's ports.
fn range(kind: Kind, first: u16, last: u16) -> Endpoint {
    Endpoint { last_port: Some(last), ..Endpoint::new(kind.vip(), first, kind.protocol()) }
}

/// A service of the range alone.
fn ranged(kind: Kind, backends: &[u8]) -> Service {
    let endpoint = range(kind, FIRST, LAST);
    Service { name: endpoint.default_name(), endpoint, ..kind.service(FIRST, backends) }
}

/// The second VIP of the kind's family.
fn second(kind: Kind) -> std::net::IpAddr {
    kind.backend(99)
}

fn to_second(kind: Kind, port: u16) -> Packet {
    kind.open().to_port(port).with(|p| p.dest.set_ip(second(kind)))
}

fn want(services: Vec<Service>) -> Desired {
    Desired { services, ..lab() }
}

fn configure(director: &mut Director, services: &[Service]) {
    director.configure(&want(services.to_vec())).expect("configured");
}

#[test]
fn a_port_goes_before_a_range_and_a_range_before_port_0() {
    for kind in ALL_KINDS {
        let mut director =
            director(&want(vec![kind.service(0, &[1]), ranged(kind, &[2]), kind.service(5050, &[3])]));
        let to = |port: u16, backend: u8| {
            let packet = kind.open().to_port(port);
            case(format!("{} {port}", kind.name), &packet, tx(&forwarded(&packet, backend)))
        };
        let ports =
            [(0, 1), (1, 1), (4999, 1), (5000, 2), (5001, 2), (5049, 2), (5050, 3), (5051, 2), (5063, 2)];
        let more = [(5064, 2), (5095, 2), (5096, 2), (5099, 2), (5100, 2), (5101, 1), (65535, 1)];
        check(&mut director, ports.into_iter().chain(more).map(|(port, backend)| to(port, backend)));
        let elsewhere = to_second(kind, 5000);
        check(&mut director, [case("another address", &elsewhere, passed(PassedNoService))]);
    }
}

#[test]
fn outside_of_a_range_nothing_is_taken() {
    for kind in ALL_KINDS {
        let mut director = director(&want(vec![ranged(kind, &[1])]));
        let other = if kind.is_udp { Protocol::Tcp } else { Protocol::Udp };
        for port in [0, 1, 4999, 5101, 65535] {
            let outside = kind.open().to_port(port);
            assert_eq!(send(&mut director, &outside), Err(PassedNoService), "{} {port}", kind.name);
            let other = outside.with(|p| p.id = u32::from(port ^ 0x5555));
            assert_eq!(send(&mut director, &other.fragment(1480, true)), Err(DroppedFragment), "{port}");
            for place in [0, 1480] {
                let passed = send(&mut director, &other.fragment(place, true));
                assert_eq!(passed, Err(PassedNoService), "{port}: the later ones follow the first");
            }
        }
        for port in [5000, 5100] {
            let inside = kind.open().to_port(port);
            assert_eq!(send(&mut director, &inside), Ok(1), "{} {port}", kind.name);
            for place in [0, 1480] {
                let inside = inside.with(|p| p.id = u32::from(port ^ 0x5555));
                assert_eq!(send(&mut director, &inside.fragment(place, true)), Ok(1), "{port}");
            }
        }
        // The other protocol has no range here.
        let kinds = ALL_KINDS.into_iter().find(|k| k.is_ipv6 == kind.is_ipv6 && k.protocol() == other);
        let packet = kinds.expect("there").open().to_port(5000);
        assert_eq!(send(&mut director, &packet), Err(PassedNoService), "{}", kind.name);
    }
}

#[test]
fn a_range_of_every_length_has_its_ports_and_no_others() {
    let mut director = director(&lab());
    for (kind, first, last) in
        [(TCP4, 1, 65535), (UDP6, 1, 2), (TCP4, 1023, 1025), (TCP6, 32767, 32769), (UDP4, 40000, 65535)]
    {
        let mut service = ranged(kind, &[1]);
        service.endpoint = range(kind, first, last);
        configure(&mut director, &[service]);
        for (port, is_in) in [(first, true), (last, true), (first - 1, false), (last.wrapping_add(1), false)]
        {
            let seen = send(&mut director, &kind.open().to_port(port));
            assert_eq!(seen, if is_in { Ok(1) } else { Err(PassedNoService) }, "{first}-{last}: {port}");
        }
    }
}

#[test]
fn all_endpoints_of_a_group_share_one_rotation_and_one_pool() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        let more = Endpoint::new(second(kind), 80, kind.protocol());
        let other = if kind.is_udp { Protocol::Tcp } else { Protocol::Udp };
        let other = Endpoint::new(kind.vip(), PORT, other);
        service.group = [range(kind, FIRST, LAST), more, other].into();
        let mut director = director(&want(vec![service]));
        let mut other_kind = kind;
        (other_kind.is_udp, other_kind.is_sctp) = (!kind.is_udp, false);
        let packets = [
            kind.open(),
            kind.open().to_port(5001),
            to_second(kind, 80),
            other_kind.open(),
            kind.open().to_port(5002),
        ];
        let seen: Vec<_> = packets.iter().map(|packet| send(&mut director, packet)).collect();
        assert_eq!(seen, [1, 2, 3, 1, 2].map(Ok), "{}: one rotation", kind.name);
        let snapshot = director.maps().snapshot().expect("a snapshot");
        assert_eq!((snapshot.services.len(), snapshot.dests.len()), (1, 3));
        let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
        let connections: Vec<u64> = counts.map(|counts| counts.active + counts.inactive).collect();
        assert_eq!(connections, [2, 2, 1], "{}: one set of counts", kind.name);
        let later: Vec<_> = packets
            .iter()
            .map(|packet| if packet.flags == SYN { packet.flags(ACK) } else { packet.clone() })
            .map(|packet| send(&mut director, &packet))
            .collect();
        assert_eq!(later, seen, "{}", kind.name);
    }
}

#[test]
fn a_threshold_counts_the_connections_of_the_whole_group() {
    let mut service = TCP4.service(PORT, &[1, 2]);
    service.backends[0].upper_threshold = 1;
    service.group = [range(TCP4, FIRST, LAST)].into();
    let mut director = director(&want(vec![service]));
    for (port, backend) in [(PORT, 1), (FIRST, 2), (FIRST + 1, 2), (PORT + 1, 0)] {
        let seen = send(&mut director, &TCP4.open().to_port(port));
        assert_eq!(seen.ok().unwrap_or(0), backend, "{port}");
    }
}

#[test]
fn flows_survive_any_change_of_a_range() {
    for kind in ALL_KINDS {
        let mut director = director(&want(vec![ranged(kind, &[1])]));
        let flow = |port: u16| kind.later().to_port(port);
        for port in [5000, 5050, 5100] {
            assert_eq!(send(&mut director, &kind.open().to_port(port)), Ok(1));
        }
        let alive = |director: &mut Director, what: &str| {
            for port in [5000, 5050, 5100] {
                assert_eq!(send(director, &flow(port)), Ok(1), "{}: {port}, {what}", kind.name);
            }
        };
        let mut short = ranged(kind, &[1]);
        short.endpoint = range(kind, 5040, 5060);
        let name = ranged(kind, &[1]).name;
        short.name = name.clone();
        short.backends.iter_mut().for_each(|backend| backend.key.port = 5040);
        configure(&mut director, std::slice::from_ref(&short));
        alive(&mut director, "shorter");
        let new = kind.open().from_port(50001);
        assert_eq!(send(&mut director, &new.to_port(5000)), Err(PassedNoService));
        assert_eq!(send(&mut director, &new.to_port(5040)), Ok(1));
        // Port 0 and a port of its own take what is new.
        configure(&mut director, &[short.clone(), kind.service(0, &[2]), kind.service(5050, &[3])]);
        alive(&mut director, "a port and port 0");
        let new = kind.open().from_port(50002);
        for (port, backend) in [(5000, 2), (5039, 2), (5040, 1), (5050, 3), (5060, 1), (5061, 2)] {
            assert_eq!(send(&mut director, &new.to_port(port)), Ok(backend), "{}: {port}", kind.name);
        }
        // Another service takes the range over.
        let other = Service { name: "other".parse().expect("a name"), ..ranged(kind, &[4]) };
        configure(&mut director, std::slice::from_ref(&other));
        alive(&mut director, "another's");
        assert_eq!(send(&mut director, &kind.open().from_port(50003).to_port(5000)), Ok(4));
        assert_eq!(send(&mut director, &kind.later().from_port(50002).to_port(5039)), Ok(2), "of port 0");
        configure(&mut director, &[]);
        alive(&mut director, "none");
        assert_eq!(send(&mut director, &kind.open().from_port(50004).to_port(5000)), Err(PassedNoService));
        // They end, and nothing is left of it.
        for _ in 0..2 {
            director.sweep_in(1000).expect("swept");
        }
        configure(&mut director, &[]);
        let left = director.maps().snapshot().expect("a snapshot");
        assert!(left.endpoints.is_empty() && left.ranges.is_empty() && left.services.is_empty(), "{left:?}");
    }
}

#[test]
fn an_endpoint_that_goes_keeps_its_flows() {
    for kind in ALL_KINDS {
        let more = Endpoint::new(second(kind), 80, kind.protocol());
        let group = Service { group: [more].into(), ..kind.service(PORT, &[1, 2]) };
        let mut director = director(&want(vec![group]));
        assert_eq!(send(&mut director, &to_second(kind, 80)), Ok(1));
        configure(&mut director, &[kind.service(PORT, &[1, 2])]);
        let later = to_second(kind, 80).flags(kind.later().flags);
        assert_eq!(send(&mut director, &later), Ok(1), "{}", kind.name);
        assert_eq!(send(&mut director, &to_second(kind, 80).from_port(9)), Err(PassedNoService));
    }
}

fn persistent(kind: Kind, scope: Scope) -> Service {
    let mut service = kind.service(21, &[1, 2]);
    let more = Endpoint::new(second(kind), 80, kind.protocol());
    service.group = [range(kind, FIRST, LAST), more].into();
    service.options.persistence = Some(Persistence { timeout: 15, granularity: None, scope });
    service
}

/// Packets of one client to its endpoints.
fn visits(kind: Kind) -> [Packet; 4] {
    [kind.open().to_port(21), kind.open().to_port(5000), kind.open().to_port(5100), to_second(kind, 80)]
}

#[test]
fn persistence_spans_the_group_unless_each_endpoint_is_by_itself() {
    for kind in ALL_KINDS {
        for (scope, seen, templates) in
            [(Scope::Service, [1, 1, 1, 1], 1), (Scope::Endpoint, [1, 2, 2, 1], 3)]
        {
            let mut director = director(&want(vec![persistent(kind, scope)]));
            let backends = visits(kind).map(|packet| send(&mut director, &packet));
            assert_eq!(backends, seen.map(Ok), "{} {scope}", kind.name);
            let again = visits(kind).map(|packet| send(&mut director, &packet.from_port(50001)));
            assert_eq!(again, backends, "{} {scope}", kind.name);
            let found = director.flows().iter().filter(|flow| flow.value.is_template()).count();
            assert_eq!(found, templates, "{} {scope}", kind.name);
        }
    }
}

/// On accelerated time. The connection that it controls is of another endpoint than the one that made it.
#[test]
fn a_template_of_a_group_lives_as_long_as_a_connection_of_any_endpoint() {
    for (kind, packet) in
        [(TCP4, to_second(TCP4, 80)), (TCP4, TCP4.open().to_port(5000)), (TCP6, to_second(TCP6, 80))]
    {
        for scope in [Scope::Service, Scope::Endpoint] {
            let mut director = director(&want(vec![persistent(kind, scope)]));
            // A datagram or SYN to port 21, forgotten at once: its template is left.
            send(&mut director, &kind.open().to_port(21)).expect("forwarded");
            let flow = director.flows().into_iter().find(|flow| !flow.value.is_template()).expect("a flow");
            assert!(director.maps().flush(&flow, director.clock.now()));
            send(&mut director, &packet).expect("forwarded");
            send(&mut director, &packet.flags(ACK)).expect("forwarded");
            let templates =
                |director: &Director| director.flows().iter().filter(|it| it.value.is_template()).count();
            assert_eq!(templates(&director), if scope == Scope::Service { 1 } else { 2 });
            // It runs out after 15 s, and again and again 60 s later.
            for seconds in [14, 16, 17, 74, 76, 77, 134, 136, 137] {
                director.sweep_in(seconds).expect("swept");
                assert!(templates(&director) >= 1, "{} {scope} after {seconds} s", kind.name);
            }
            assert_eq!(templates(&director), 1, "of endpoints by themselves, the other one's has ended");
            for seconds in [901, 916, 917, 976, 977] {
                director.sweep_in(seconds).expect("swept");
            }
            assert!(director.flows().is_empty(), "{} {scope}", kind.name);
        }
    }
}

#[test]
fn a_second_endpoint_leaves_templates_as_they_are() {
    let group = persistent(TCP4, Scope::Service);
    let alone = Service { group: [].into(), ..group.clone() };
    let mut director = director(&want(vec![alone]));
    assert_eq!(send(&mut director, &TCP4.open().to_port(21)), Ok(1));
    configure(&mut director, &[group]);
    assert_eq!(send(&mut director, &to_second(TCP4, 80)), Ok(1));
}

#[test]
fn options_of_one_protocol_hold_for_the_endpoints_that_have_it() {
    let mut service = UDP4.service(PORT, &[1, 2]);
    service.group = [Endpoint::new(VIP4.into(), PORT, Protocol::Tcp)].into();
    service.options.ops = true;
    let mut director = director(&want(vec![service.clone()]));
    let seen: Vec<_> = (0..4).map(|_| send(&mut director, &UDP4.open())).collect();
    assert_eq!(seen, [1, 2, 1, 2].map(Ok), "each datagram by itself");
    assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
    assert_eq!(send(&mut director, &TCP4.later()), Ok(1), "and the connection as a whole");
    assert_eq!(send(&mut director, &TCP4.later()), Ok(1));
    // Of a removed backend, datagrams go elsewhere and TCP does not, unless it is said.
    service.options.ops = false;
    configure(&mut director, std::slice::from_ref(&service));
    let from = |kind: Kind| kind.open().from_port(50001);
    let (udp, tcp) = (send(&mut director, &from(UDP4)), send(&mut director, &from(TCP4)));
    assert_eq!((udp, tcp), (Ok(2), Ok(1)));
    service.backends.retain(|backend| backend.key.address != UDP4.backend(2));
    configure(&mut director, std::slice::from_ref(&service));
    assert_eq!(send(&mut director, &from(UDP4)), Ok(1));
    service.backends = UDP4.service(PORT, &[2]).backends;
    configure(&mut director, &[service]);
    assert_eq!(send(&mut director, &from(UDP4)), Ok(2));
    assert_eq!(send(&mut director, &from(TCP4)), Err(DroppedBackendRemoved));
}
