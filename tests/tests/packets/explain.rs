//! `lb explain`: what the dry run says is what the program then does, and the dry run leaves every map as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use clap::ValueEnum;
use lb::{
    dataplane::Explainer,
    explain::{self, Asked, Fragment, Message, MessageKind, Peer, tell},
    model::{Persistence, Protocol, Reject, Scheduler, Scope, ServiceOptions, sources::rule},
    plan::{Desired, HostRoute},
};
use lb_common::{
    record::Step,
    sctp::chunk,
    tcp::flag::*,
    verdict::Verdict::{self, *},
    vlan::Tags,
};
use lb_tests::{
    packet::Packet,
    xdp::{Director, SMALL},
};

use crate::{
    bytes::{Content, of_maps},
    world::*,
};

fn explainer(director: &Director) -> Explainer {
    Explainer::open(director.layout(), 1).unwrap_or_else(|error| panic!("no explainer: {error:#}"))
}

/// Maps of the explaining program's own, which nobody else has and which end with it, that are not compared, and why. The
/// forwarding program's maps of the same names are.
const EXEMPT: [(&str, &str); 3] = [
    ("RECORD", "the steps: what was asked for"),
    ("ALLOWANCE", "of answers, which it takes from; every run of the command begins with a full one"),
    ("STATE", "of a loop, which begins anew with every packet"),
];

/// Bytes of every map that the forwarding program or the explaining one can get at, as the kernel lists them of what is
/// loaded: so none can be forgotten. Most are the same one in both; what is not pinned, each has of its own.
fn all_maps(director: &mut Director, explainer: &mut Explainer) -> BTreeMap<(String, u32), Content> {
    let forwarding = director.program().expect("it is loaded").info().expect("its description");
    let forwarding = BTreeSet::from_iter(forwarding.map_ids().expect("its maps").expect("ids of them"));
    let explaining = explainer.map_ids().unwrap_or_else(|error| panic!("{error:#}"));
    let own: BTreeSet<u32> = explaining.into_iter().filter(|id| !forwarding.contains(id)).collect();
    let is_exempt = |name: &str| EXEMPT.iter().any(|(exempt, _why)| *exempt == name);
    let (exempt, compared) =
        of_maps(&own).into_iter().partition::<BTreeMap<_, _>, _>(|((name, _), _)| is_exempt(name));
    assert_eq!(exempt.len(), EXEMPT.len(), "one map of each name, and no other one, is left out");
    compared.into_iter().chain(of_maps(&forwarding)).collect()
}

/// Explains the frame, then sends it: both come to the same, and the first one has changed nothing. The steps' words.
fn foretold(director: &mut Director, explainer: &mut Explainer, frame: &[u8]) -> (Verdict, Vec<String>) {
    let before = all_maps(director, explainer);
    let told = explainer.run(frame).unwrap_or_else(|error| panic!("explaining: {error:#}"));
    let after = all_maps(director, explainer);
    let names = |maps: &BTreeMap<_, _>| maps.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "the programs have other maps");
    let changed = before.iter().filter(|(map, bytes)| after[map] != **bytes).map(|(map, _)| map);
    let changed: Vec<_> = changed.collect();
    assert!(changed.is_empty(), "explaining {:?} left something in {changed:?}", told.steps);
    let real = director.run(frame).unwrap_or_else(|error| panic!("running: {error:#}"));
    let verdict = real.verdict().unwrap_or_else(|error| panic!("{error:#}"));
    let Some((Step::Verdict, [said, _])) = told.steps.last() else {
        panic!("no verdict in {:?}", told.steps)
    };
    assert_eq!(*said, verdict as u64, "said {:?}, did {}", told.steps, verdict.name());
    assert_eq!((told.action, &told.frame), (real.action, &real.frame), "{:?}", told.steps);
    let story = tell(&told.steps, &director.maps().snapshot().expect("a snapshot"), explainer.hz);
    assert_eq!(story.verdict, verdict.name());
    (verdict, story.steps.into_iter().map(|line| format!("{}: {}", line.step, line.text)).collect())
}

/// The same of many packets in turn; their verdicts.
fn all_foretold(want: &Desired, packets: impl IntoIterator<Item = Packet>) -> Vec<Verdict> {
    let mut director = director(want);
    let mut explainer = explainer(&director);
    let verdicts =
        packets.into_iter().map(|packet| foretold(&mut director, &mut explainer, &packet.bytes()).0);
    verdicts.collect()
}

fn only(kind: Kind, scheduler: Scheduler) -> Desired {
    Desired { services: vec![kind.weighted(PORT, scheduler, &[(1, 3), (2, 1), (3, 1)])], ..lab() }
}

#[test]
fn forwarded_answered_passed_or_dropped() {
    let mut seen = BTreeSet::new();
    for kind in [TCP4, UDP6, SCTP4] {
        let mut want = Desired { services: vec![kind.service(PORT, &[1])], ..lab() };
        let mut add = |port, backends: &[u8], change: &dyn Fn(&mut lb::model::Service)| {
            let mut service = kind.service(port, backends);
            change(&mut service);
            want.services.push(service);
        };
        add(80, &[2], &|_| {});
        add(81, &[3], &|_| {});
        add(83, &[], &|_| {});
        add(84, &[], &|service| {
            service.options = ServiceOptions { reject: Reject::Icmp, ..ServiceOptions::default() };
        });
        add(85, &[], &|service| service.options.reject = Reject::Pass);
        add(86, &[1], &|service| {
            service.sources = [if kind.is_ipv6 { "::/0 deny" } else { "0.0.0.0/0 deny" }]
                .map(|text| rule(text).expect("a rule"))
                .into_iter()
                .collect();
        });
        add(87, &[1], &|service| {
            let text = if kind.is_ipv6 { "::/0 limit 1/m burst 1" } else { "0.0.0.0/0 limit 1/m burst 1" };
            service.sources = [rule(text).expect("a rule")].into_iter().collect();
        });
        want.hosts.insert(kind.backend(2), neighbour(2, ETH1, Tags::NONE));
        want.hosts.insert(kind.backend(3), HostRoute::Local);
        let open = kind.open();
        let packets = [
            open.clone(),
            open.clone(),
            kind.later(),
            open.to_port(80),
            open.to_port(81),
            open.to_port(83),
            open.to_port(84),
            open.to_port(85),
            open.to_port(86),
            open.to_port(87),
            open.to_port(87).from_port(CLIENT_PORT + 1),
            open.to_port(88),
            kind.later().from_port(CLIENT_PORT + 7),
            open.ttl(1),
            open.with(|p| p.payload = vec![7; 1600]),
            open.with(|p| p.to = backend_mac(5)),
            open.with(|p| p.dest.set_ip(kind.backend(7))),
        ];
        seen.extend(all_foretold(&want, packets).into_iter().map(Verdict::name));
    }
    let expected = [
        ForwardedTx,
        ForwardedRedirect,
        PassedLocalBackend,
        PassedNotForUs,
        PassedNoService,
        PassedNoBackend,
        AnsweredTtl,
        AnsweredTooBig,
        AnsweredNoBackend,
        DroppedNoFlow,
        DroppedNoBackend,
        DroppedDenied,
        DroppedLimited,
    ];
    for verdict in expected {
        assert!(seen.contains(verdict.name()), "no packet met {}: {seen:?}", verdict.name());
    }
}

#[test]
fn the_scheduler_s_next_pick_whatever_the_scheduler() {
    for scheduler in Scheduler::ALL {
        // Two random ones are drawn anew for the packet itself.
        if scheduler == Scheduler::Twos {
            continue;
        }
        let verdicts = all_foretold(&only(TCP4, scheduler), (0..6).map(|n| TCP4.open().from_port(1000 + n)));
        assert_eq!(verdicts, [ForwardedTx; 6], "{scheduler}");
    }
}

/// The rotation's cursor stands still, and passes over backends that are full nevertheless.
#[test]
fn overloaded_backends_are_passed_over() {
    let mut want = only(TCP4, Scheduler::Rr);
    for backend in &mut want.services[0].backends[..2] {
        backend.upper_threshold = 1;
    }
    let verdicts = all_foretold(&want, (0..6).map(|n| TCP4.open().from_port(1000 + n)));
    assert_eq!(verdicts, [ForwardedTx; 6]);
}

#[test]
fn a_connection_s_whole_life_and_its_client_s_template() {
    for kind in [TCP4, TCP6] {
        let mut want = only(kind, Scheduler::Wrr);
        let persistence = Persistence { timeout: 60, granularity: None, scope: Scope::Service };
        want.services[0].options.persistence = Some(persistence);
        let life = [SYN, SYN, ACK, ACK, FIN | ACK, ACK, SYN, RST, SYN].map(|flags| kind.open().flags(flags));
        let second = [SYN, ACK].map(|flags| kind.open().from_port(7).flags(flags));
        let verdicts = all_foretold(&want, life.into_iter().chain(second));
        assert_eq!(verdicts, [ForwardedTx; 11], "{}", kind.name);
    }
}

/// More connections than the table holds, and flows that are over.
#[test]
fn what_finds_no_room() {
    let want = only(TCP4, Scheduler::Wrr);
    let sizes = lb::model::FlowSizes { ipv4: 16, wide: 16 };
    let mut director = Director::new(sizes, &want).expect("a director");
    for port in 1000..1100 {
        for packet in [TCP4.open(), TCP4.later()] {
            send(&mut director, &packet.from_port(port)).expect("forwarded");
        }
    }
    let mut explainer = explainer(&director);
    for port in 2000..2010 {
        let (verdict, words) = foretold(&mut director, &mut explainer, &TCP4.open().from_port(port).bytes());
        assert_eq!(verdict, ForwardedTx, "{words:?}");
    }
}

#[test]
fn fragments_and_deleted_services() {
    let want = Desired { services: vec![UDP4.service(PORT, &[1])], ..lab() };
    let mut director = director(&want);
    let mut explainer = explainer(&director);
    let mut meets =
        |director: &mut Director, packet: &Packet| foretold(director, &mut explainer, &packet.bytes()).0;
    let open = UDP4.open();
    assert_eq!(meets(&mut director, &open.fragment(185, false)), DroppedFragment);
    assert_eq!(meets(&mut director, &open.fragment(0, true)), ForwardedTx);
    assert_eq!(meets(&mut director, &open.fragment(185, false)), ForwardedTx);
    director.configure(&lab()).expect("configured");
    // Its known flows go on.
    assert_eq!(meets(&mut director, &open), ForwardedTx);
    assert_eq!(meets(&mut director, &open.from_port(9)), PassedNoService);
}

/// What the command line makes of `icmp` and `--fragment`: it goes where the connection is, and the first one's way.
#[test]
fn errors_pings_and_fragments_as_they_are_asked_about() {
    for kind in ALL_KINDS {
        let want = Desired { services: vec![kind.weighted(PORT, Scheduler::Rr, &[(1, 1), (2, 1)])], ..lab() };
        let mut director = director(&want);
        let mut explainer = explainer(&director);
        let mut meets = |asked: &Asked| {
            let frame =
                asked.frame(ETH0_MAC, CLIENT_MAC, Tags::NONE).unwrap_or_else(|e| panic!("{asked:?}: {e}"));
            let (verdict, _words) = foretold(&mut director, &mut explainer, &frame);
            // Who is told to look for it is told by its MAC.
            let frame = explainer.run(&frame).expect("once more").frame;
            (verdict, frame[5])
        };
        let errors = MessageKind::value_variants().iter().filter(|kind| **kind != MessageKind::Echo);
        let errors: Vec<_> = errors.map(|message| error(kind, *message)).collect();
        for error in &errors {
            assert_eq!(meets(error).0, PassedNoFlow, "{} {error:?}", kind.name);
        }
        let (verdict, backend) = meets(&packet(kind, CLIENT_PORT, None));
        assert_eq!(verdict, ForwardedTx, "{}", kind.name);
        for error in &errors {
            assert_eq!(meets(error), (ForwardedTx, backend), "{} {error:?}", kind.name);
        }
        let [client, vip] = [kind.client(), kind.vip()].map(|address| Peer { address, port: None });
        let (sender, protocol) = (client.address, Protocol::Tcp);
        let ping = Message { kind: MessageKind::Echo, sender, client, vip, protocol, ttl: 64 };
        assert_eq!(meets(&Asked::Message(ping)).0, PassedNotIp, "{}", kind.name);
        // Of another connection, so that it is not the one before that says where they go.
        let [first, later] = [0, 1480].map(|offset| packet(kind, 7, Some(Fragment { id: 99, offset })));
        assert_eq!(meets(&later).0, DroppedFragment, "{}", kind.name);
        let (verdict, other) = meets(&first);
        assert_eq!(verdict, ForwardedTx, "{}", kind.name);
        assert_ne!(other, backend, "rr goes on");
        assert_eq!(meets(&later), (ForwardedTx, other), "{}", kind.name);
    }
}

/// A client's, as `lb explain tcp`, `udp` or `sctp` has it.
fn packet(kind: Kind, port: u16, fragment: Option<Fragment>) -> Asked {
    let (from, to) = (SocketAddr::new(kind.client(), port), SocketAddr::new(kind.vip(), PORT));
    let (protocol, flags, chunk) = (kind.protocol(), SYN, chunk::INIT);
    Asked::Packet(explain::Packet { protocol, from, to, flags, chunk, ttl: 64, length: 0, fragment })
}

/// A router's about the connection from [`CLIENT_PORT`], as `lb explain icmp` has it.
fn error(kind: Kind, message: MessageKind) -> Asked {
    let end = |address, port| Peer { address, port: Some(port) };
    let (client, vip) = (end(kind.client(), CLIENT_PORT), end(kind.vip(), PORT));
    let (sender, protocol) = (kind.router(), kind.protocol());
    Asked::Message(Message { kind: message, sender, client, vip, protocol, ttl: 64 })
}

/// While flows are moved to tables of another size, the dry run looks where the program looks.
#[test]
fn while_tables_are_replaced() {
    let mut director = Director::new(SMALL, &only(TCP4, Scheduler::Wrr)).expect("a director");
    send(&mut director, &TCP4.open()).expect("forwarded");
    let sizes = lb::model::FlowSizes { ipv4: 64, wide: SMALL.wide };
    director.begin_resize(sizes).expect("begun");
    let mut explainer = explainer(&director);
    let mut meets = |packet: Packet| foretold(&mut director, &mut explainer, &packet.bytes());
    // In the table before, and followed there until it is over; its client's next connection.
    for (flags, flow) in
        [(ACK, "known"), (SYN, "known"), (FIN | ACK, "known"), (RST, "known"), (SYN, "an entry")]
    {
        let (verdict, words) = meets(TCP4.later().flags(flags));
        assert_eq!(verdict, ForwardedTx, "{words:?}");
        assert!(words[1].starts_with(&format!("flow: {flow}")), "{words:?}");
    }
    // In the new one.
    for (packet, flow) in [(TCP4.open(), "none is known"), (TCP4.open(), "known"), (TCP4.later(), "known")] {
        let (verdict, words) = meets(packet.from_port(7));
        assert_eq!(verdict, ForwardedTx, "{words:?}");
        assert!(words[1].starts_with(&format!("flow: {flow}")), "{words:?}");
    }
    // In neither.
    assert_eq!(meets(TCP4.later().from_port(8)).0, DroppedNoFlow);
}

#[test]
fn the_words_say_why() {
    let mut director = director(&only(TCP4, Scheduler::Wrr));
    let mut explainer = explainer(&director);
    let mut words =
        |director: &mut Director, packet: Packet| foretold(director, &mut explainer, &packet.bytes()).1;
    let host = "host: 02:00:00:00:0b:01 on eth0, MTU 1500";
    let (backend, verdict) = (
        "backend: 172.18.14.11:3306 of service tcp/172.18.14.100:3306",
        "verdict: forwarded-tx: sent to a backend, out of the interface it came in by",
    );
    let endpoint = "endpoint: service tcp/172.18.14.100:3306 has this port";
    assert_eq!(
        words(&mut director, TCP4.open()),
        [
            endpoint,
            "flow: none is known",
            "scheduler: wrr picks 172.18.14.11:3306, weight 3",
            "flow: is opened: to 172.18.14.11:3306, SYN_RECV",
            backend,
            host,
            verdict,
        ]
    );
    let known = words(&mut director, TCP4.later());
    assert!(known[1].starts_with("flow: known: to 172.18.14.11:3306, SYN_RECV, "), "{known:?}");
    assert!(known[1].ends_with(" s left; goes to ESTABLISHED"), "{known:?}");
    assert_eq!((&*known[0], &known[2..]), (endpoint, &[backend, host, verdict].map(str::to_owned)[..]));
    let unknown = words(&mut director, TCP4.open().with(|p| p.dest.set_ip(TCP4.backend(9))));
    let no_service = "verdict: passed-no-service: no service has this address, port and protocol";
    assert_eq!(unknown, ["endpoint: no service has this address", no_service]);
}
