//! Floods: new flows that come faster than the service's guard allows get no entry, and what is established stays where
//! it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use lb::{
    model::{FlowSizes, Guard, HashFlags, Persistence, Scheduler, Scope, Service, sources::rule},
    plan::Desired,
};
use lb_common::{
    service::Rotation,
    tcp::{State, flag::*},
    template::ASSURED,
    tick::{Tick, ticks},
    value,
    verdict::Verdict::{self, *},
};
use lb_tests::{
    clock,
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};

use crate::world::*;

/// New flows a second; four seconds' worth have room at once.
const RATE: u32 = 100;

/// How many of a flood that began at `since` may be stored: the burst, and what has leaked since, a tick more or less.
fn room_since(since: Instant) -> std::ops::RangeInclusive<usize> {
    let seconds = usize::try_from((clock::now() - since).as_secs()).expect("seconds");
    400..=400 + RATE as usize * (seconds + 2)
}

fn guarded(kind: Kind, backends: &[u8]) -> Desired {
    let mut service = kind.service(PORT, backends);
    service.options.guard = Guard::Rate(RATE);
    Desired { services: vec![service], ..lab() }
}

fn event(director: &Director, name: &str) -> u64 {
    let counters = director.counters().expect("counters");
    counters.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, times)| *times)
}

/// Opens a connection from each of so many ports: their backends.
fn flood(director: &mut Director, kind: Kind, ports: std::ops::Range<u16>) -> BTreeMap<u16, u8> {
    let mut opened = |port| send(director, &kind.open().from_port(port)).expect("forwarded");
    ports.map(|port| (port, opened(port))).collect()
}

#[test]
fn what_comes_too_fast_is_placed_by_hash_until_its_handshake_is_complete() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&guarded(kind, &[1, 2, 3]));
        let since = clock::now();
        let backends = flood(&mut director, kind, 1000..3000);
        let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
        assert!(room_since(since).contains(&stored.len()), "{}: {} stored", kind.name, stored.len());
        assert_eq!(event(&director, "event-guarded"), (2000 - stored.len()) as u64);
        assert_eq!(event(&director, "event-placed-by-hash"), 0, "there is room");
        let mut left = backends.iter().filter(|(port, _)| !stored.contains(port));
        let (port, backend) = left.next().expect("one without an entry");
        // Its SYN again, and the rest of its handshake.
        let later = kind.later().from_port(*port);
        assert_eq!(send(&mut director, &kind.open().from_port(*port)), Ok(*backend), "{}", kind.name);
        // Where a tick has made room meanwhile, the SYN has its entry already.
        let first = if is_stored(&director, *port) { State::ESTABLISHED } else { State::SYN_RECV };
        for state in [first, State::ESTABLISHED] {
            assert_eq!(send(&mut director, &later), Ok(*backend), "{}", kind.name);
            let flow = director.flows().into_iter().find(|flow| flow.client_port == *port);
            assert_eq!(flow.map(|flow| flow.value.state()), Some(state), "{}", kind.name);
        }
        let spread = left.fold([0; 3], |mut spread, (_, backend)| {
            spread[usize::from(*backend) - 1] += 1;
            spread
        });
        assert!(spread.iter().all(|of| *of > 200), "{}: {spread:?}", kind.name);
    }
}

#[test]
fn datagrams_that_come_too_fast_stay_with_one_backend_too() {
    for kind in [UDP4, UDP6] {
        let mut director = director(&guarded(kind, &[1, 2, 3]));
        let since = clock::now();
        let backends = flood(&mut director, kind, 1000..3000);
        assert!(room_since(since).contains(&director.flows().len()), "{}", director.flows().len());
        let again = flood(&mut director, kind, 1000..3000);
        assert_eq!(backends, again, "{}", kind.name);
    }
}

/// The last that is held may go on for as long as a half-open connection, and be known by its hash alone. From then on
/// connections have their turn again, and nobody goes on who is not known.
#[test]
fn the_hash_places_for_as_long_as_the_last_that_was_held_may_go_on() {
    for (kind, seconds) in [(TCP4, 60), (TCP6, 60), (SCTP4, 61), (UDP4, 300)] {
        let mut director = director(&guarded(kind, &[1, 2, 3]));
        flood(&mut director, kind, 1000..2200);
        director.pass(seconds / 2).expect("it passed");
        flood(&mut director, kind, 11000..12200);
        let is_hashed = |director: &mut Director, port: u16| {
            send(director, &kind.open().from_port(port)).expect("forwarded");
            let flow = director.flows().into_iter().find(|flow| flow.client_port == port).expect("its entry");
            flow.value.flags() & value::flag::HASHED != 0
        };
        let goes_on = |director: &mut Director, port: u16| send(director, &kind.later().from_port(port));
        director.pass(seconds - 5).expect("it passed");
        assert!(is_hashed(&mut director, 5000), "{}", kind.name);
        assert!(goes_on(&mut director, 5001).is_ok(), "{}", kind.name);
        // What is placed so and gets an entry makes it no longer.
        director.pass(6).expect("it passed");
        assert!(!is_hashed(&mut director, 6000), "{}", kind.name);
        if !kind.is_udp {
            assert_eq!(goes_on(&mut director, 6001), Err(DroppedNoFlow), "{}", kind.name);
        }
    }
}

/// It is a consistent hash: a backend that comes takes over its share and no more.
#[test]
fn few_of_those_without_an_entry_move_when_a_backend_comes() {
    let mut director = director(&guarded(TCP4, &[1, 2, 3, 4]));
    let before = flood(&mut director, TCP4, 1000..5000);
    let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
    director.configure(&guarded(TCP4, &[1, 2, 3, 4, 5])).expect("configured");
    let after = flood(&mut director, TCP4, 1000..5000);
    let without = before.iter().filter(|(port, _)| !stored.contains(port));
    let moved: Vec<u8> =
        without.filter(|(port, at)| after[port] != **at).map(|(port, _)| after[port]).collect();
    let elsewhere = moved.iter().filter(|backend| **backend != 5).count();
    // A fifth, more or less.
    assert!(
        (300..1300).contains(&moved.len()) && elsewhere == 0,
        "{} moved, {elsewhere} elsewhere",
        moved.len()
    );
}

/// Nor do they move because of a threshold, which is about new connections: also not where the scheduler's own hash, which
/// looks at it, places them.
#[test]
fn none_of_those_without_an_entry_moves_when_a_backend_has_too_many() {
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    let flags = flags.map(|(fallback, port)| HashFlags { fallback, port });
    let hashed = flags.into_iter().flat_map(|flags| [Scheduler::Sh(flags), Scheduler::Mh(flags)]);
    for scheduler in hashed.chain([Scheduler::Dh, Scheduler::Rr]) {
        let mut want = guarded(TCP4, &[1, 2]);
        want.services[0].scheduler = scheduler;
        let mut director = director(&want);
        let packet = |host: u16| {
            let [high, low] = host.to_be_bytes();
            TCP4.open().with(|p| p.source.set_ip([10, 9, high, low].into()))
        };
        let places: Vec<_> = (0..1500).map(|host| send(&mut director, &packet(host))).collect();
        for backend in &mut want.services[0].backends {
            (backend.upper_threshold, backend.lower_threshold) = (2, 1);
        }
        director.configure(&want).expect("configured");
        director.sweep_in(0).expect("swept");
        let snapshot = director.maps().snapshot().expect("a snapshot");
        let mut counts = snapshot.dests.keys().map(|dest| director.maps().conn_counts(*dest));
        assert!(counts.any(|counts| counts.overloaded != 0), "{scheduler:?}: nobody has too many");
        let mut moved = Vec::new();
        for (host, place) in (0..).zip(places) {
            let sent = send(&mut director, &packet(host).flags(ACK));
            moved.extend((sent != place || place.is_err()).then_some((host, place, sent)));
        }
        assert!(moved.is_empty(), "{scheduler:?}: {} moved: {:?}", moved.len(), &moved[..1]);
    }
}

#[test]
fn a_persistent_clients_flood_makes_no_templates() {
    let mut want = guarded(TCP4, &[1, 2, 3]);
    want.services[0].options.persistence =
        Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
    let mut director = director(&want);
    let since = clock::now();
    flood(&mut director, TCP4, 1000..2000);
    let stored = director.flows().iter().filter(|flow| !flow.value.is_template()).count();
    assert!(room_since(since).contains(&stored), "{stored} stored");
    for host in 0..200u8 {
        send(&mut director, &TCP4.open().with(|p| p.source.set_ip([10, 9, 9, host].into())))
            .expect("forwarded");
    }
    // Those of them that time has made room for meanwhile have both.
    let flows = director.flows();
    let of = |is_template: bool| {
        let theirs = flows.iter().filter(|flow| flow.client[..3] == [10, 9, 9]);
        theirs.filter(|flow| flow.value.is_template() == is_template).count()
    };
    assert_eq!(of(true), of(false));
    assert!(of(true) < 150, "{}", of(true));
}

#[test]
fn a_client_whose_old_entry_is_left_gets_it_under_a_flood() {
    let mut director = director(&guarded(TCP4, &[1, 2, 3]));
    let client = TCP4.open().from_port(900);
    send(&mut director, &client).expect("forwarded");
    send(&mut director, &client.flags(RST)).expect("forwarded");
    send(&mut director, &client.flags(ACK)).expect("forwarded");
    send(&mut director, &client.flags(RST)).expect("forwarded");
    flood(&mut director, TCP4, 1000..3000);
    let backend = send(&mut director, &client).expect("forwarded");
    let flow = director.flows().into_iter().find(|flow| flow.client_port == 900).expect("its entry");
    assert_eq!(flow.value.state(), State::SYN_RECV);
    assert_eq!(send(&mut director, &client.flags(ACK)), Ok(backend));
}

/// Packets of one kind, each from a client of its own.
const FLOOD: u32 = 10_000_000;
const ESTABLISHED: u16 = 500;
/// Where the floods begin, counted in addresses from 10.0.0.0 on: at 10.16.0.0, beyond all clients.
const STRANGERS: u64 = 16 << 16;

/// A table that is rated for 16 k flows (for datagrams 128 k, whose guard lets no more at once), with established ones in it, and a flood: they stay where they are, with
/// their entries, and so do those that come and go meanwhile. `what`: what becomes of each packet.
fn withstands(kind: Kind, packet: Packet, what: Verdict, service: Service) -> Director {
    let rated = if kind.is_udp { 1 << 17 } else { 1 << 14 };
    let sizes = FlowSizes { ipv4: rated, wide: rated };
    let want = Desired { services: vec![service], flows: sizes, ..lab() };
    let mut director = Director::new(sizes, &want).expect("a director");
    let backends = flood(&mut director, kind, 1000..1000 + ESTABLISHED);
    let alive = |director: &mut Director, when: &str| {
        for (port, backend) in &backends {
            let seen = send(director, &kind.later().from_port(*port));
            assert_eq!(seen, Ok(*backend), "{} port {port} {when}", kind.name);
        }
    };
    alive(&mut director, "before");
    let mut feeder = Feeder::new().expect("a feeder");
    feeder.aim(Target::Director, &mut director).expect("aimed");
    let mut feed = Feed::new_clients(&packet).from_number(STRANGERS);
    for part in 0..10 {
        let before = event(&director, what.name());
        feeder.run(&packet.bytes(), &mut feed, FLOOD / 10).expect("ran");
        let counted = event(&director, what.name()) - before;
        assert_eq!(counted, u64::from(FLOOD / 10), "{} {}", kind.name, what.name());
        alive(&mut director, &format!("after {part} million"));
    }
    let flows = director.flows();
    let connections = || flows.iter().filter(|flow| !flow.value.is_template());
    let client = client_bytes(kind);
    let kept = connections().filter(|flow| flow.client == client && backends.contains_key(&flow.client_port));
    assert_eq!(kept.count(), usize::from(ESTABLISHED), "{}", kind.name);
    // Each of the flood has an address of its own: what is left of it shows that.
    let strangers: Vec<_> = connections().filter(|flow| flow.client != client).collect();
    let addresses: BTreeSet<_> = strangers.iter().map(|flow| flow.client).collect();
    assert_eq!(addresses.len(), strangers.len(), "{}", kind.name);
    assert_eq!(strangers.is_empty(), what == DroppedNoFlow, "{}", kind.name);
    println!(
        "{}: {} of {} slots in use after the flood, {} strangers",
        kind.name,
        flows.len(),
        4 * rated,
        addresses.len()
    );
    director
}

fn with_auto(kind: Kind) -> Service {
    let mut service = kind.service(PORT, &[1, 2, 3]);
    service.options.guard = Guard::Auto;
    service
}

#[test]
fn ten_million_syns_move_nobody() {
    withstands(TCP4, TCP4.open(), ForwardedTx, with_auto(TCP4));
}

#[test]
fn ten_million_acks_move_nobody() {
    withstands(TCP4, TCP4.later(), DroppedNoFlow, with_auto(TCP4));
}

#[test]
fn ten_million_datagrams_move_nobody() {
    withstands(UDP4, UDP4.open(), ForwardedTx, with_auto(UDP4));
}

#[test]
fn ten_million_syns_over_ipv6_move_nobody() {
    withstands(TCP6, TCP6.open(), ForwardedTx, with_auto(TCP6));
}

#[test]
fn ten_million_acks_over_ipv6_move_nobody() {
    withstands(TCP6, TCP6.later(), DroppedNoFlow, with_auto(TCP6));
}

#[test]
fn ten_million_datagrams_over_ipv6_move_nobody() {
    withstands(UDP6, UDP6.open(), ForwardedTx, with_auto(UDP6));
}

/// The client keeps its template beside those of the flood, and goes by it.
#[test]
fn ten_million_syns_to_a_persistent_service_move_nobody() {
    let mut service = with_auto(TCP4);
    service.options.persistence =
        Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
    let mut director = withstands(TCP4, TCP4.open(), ForwardedTx, service);
    let templates = |flow: &lb::dataplane::FlowEntry| flow.value.is_template();
    let of_client = |flow: &lb::dataplane::FlowEntry| flow.client == client_bytes(TCP4);
    let flows = director.flows();
    assert_eq!(flows.iter().filter(|flow| templates(flow) && of_client(flow)).count(), 1);
    assert!(flows.iter().any(|flow| templates(flow) && !of_client(flow)), "none of the flood's");
    let known = send(&mut director, &TCP4.later().from_port(1000)).expect("forwarded");
    let hits = event(&director, "event-template-hit");
    for port in 100..120 {
        assert_eq!(send(&mut director, &TCP4.open().from_port(port)), Ok(known), "port {port}");
    }
    assert_eq!(event(&director, "event-template-hit") - hits, 20);
}

/// More sources than are remembered, each within its limit: none is refused, and who is over its limit stays refused.
#[test]
fn ten_million_limited_sources_move_nobody() {
    let limit = format!("0.0.0.0/0 limit 1/m burst {ESTABLISHED}");
    let sources = BTreeMap::from([rule(&limit).expect("a rule")]);
    let mut director = withstands(TCP4, TCP4.open(), ForwardedTx, Service { sources, ..with_auto(TCP4) });
    assert!(event(&director, "event-source-forgotten") > u64::from(FLOOD / 2));
    // A minute gives room for one.
    let tried: Vec<_> = (100..150).map(|port| send(&mut director, &TCP4.open().from_port(port))).collect();
    assert_eq!(tried.last(), Some(&Err(DroppedLimited)), "{tried:?}");
}

/// After a flood of SYNs the hash places what belongs to no connection that is known, for `tcp_syn`: ACKs of it get an
/// entry in the half-open share at most, and clients that are established, with an entry or by hash, stay where they
/// are.
#[test]
fn an_ack_flood_after_a_syn_flood_moves_nobody() {
    for kind in [TCP4, TCP6] {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.guard = Guard::Auto;
        let sizes = FlowSizes { ipv4: 1 << 14, wide: 1 << 14 };
        let mut director = Director::new(sizes, &Desired { services: vec![service], flows: sizes, ..lab() })
            .expect("a director");
        let stored = flood(&mut director, kind, 1000..1000 + ESTABLISHED);
        for (port, backend) in &stored {
            assert_eq!(send(&mut director, &kind.later().from_port(*port)), Ok(*backend), "{}", kind.name);
        }
        let mut feeder = Feeder::new().expect("a feeder");
        feeder.aim(Target::Director, &mut director).expect("aimed");
        let (syn, ack) = (kind.open(), kind.later());
        let mut feed = Feed::new_clients(&syn).from_number(STRANGERS);
        feeder.run(&syn.bytes(), &mut feed, 200_000).expect("ran");
        assert!(event(&director, "event-guarded") > 100_000, "{}", kind.name);
        // Handshakes under the flood: clients without an entry, by their ACK.
        let held = flood(&mut director, kind, 3000..3100);
        for (port, backend) in &held {
            let seen = send(&mut director, &kind.later().from_port(*port));
            assert_eq!(seen, Ok(*backend), "{} port {port}", kind.name);
        }
        let alive = |director: &mut Director, when: &str| {
            for (port, backend) in stored.iter().chain(&held) {
                let seen = send(director, &kind.later().from_port(*port));
                assert_eq!(seen, Ok(*backend), "{} port {port} {when}", kind.name);
            }
        };
        alive(&mut director, "before the ACKs");
        feed = Feed::new_clients(&ack).from_number(2 * STRANGERS);
        for part in 0..10 {
            feeder.run(&ack.bytes(), &mut feed, FLOOD / 10).expect("ran");
            alive(&mut director, &format!("after part {part} of the ACKs"));
        }
        // What the ACKs made is half-open, and no more than the rate of completed handshakes allows.
        let is_clients = |port: u16| stored.contains_key(&port) || held.contains_key(&port);
        let flows = director.flows();
        let of_flood = |flow: &&lb::dataplane::FlowEntry| flow.client != client_bytes(kind);
        let (mut half_open, mut others) = (0, 0);
        for flow in flows.iter().filter(of_flood) {
            if flow.value.state() == State::SYN_RECV { half_open += 1 } else { others += 1 }
        }
        assert_eq!(others, 0, "{}: {half_open} half-open", kind.name);
        // SYNs have a rate, and so have ACKs: a minute of each, and a burst.
        let most = 2 * Guard::auto(sizes.ipv4, 60) as usize * (60 + 8);
        assert!(half_open > 0 && half_open <= most, "{}: {half_open} half-open, {most} at most", kind.name);
        let established = flows.iter().filter(|flow| !of_flood(flow) && is_clients(flow.client_port));
        let established = established.filter(|flow| flow.value.state() == State::ESTABLISHED).count();
        assert!(established >= stored.len(), "{}: {established}", kind.name);
        println!(
            "{}: {half_open} half-open of {} entries, {established} established",
            kind.name,
            flows.len()
        );
    }
}

/// Hash placement goes on for the timeout `tcp_syn` after the last connection without an entry. An ACK that belongs to
/// nothing is placed up to its end, and refused from then on.
#[test]
fn an_unknown_ack_is_placed_by_hash_until_tcp_syn_is_over() {
    for (kind, given) in [(TCP4, None), (TCP6, None), (TCP4, Some(7)), (TCP6, Some(600))] {
        let mut want = guarded(kind, &[1, 2, 3]);
        want.services[0].options.timeouts.tcp_syn = given;
        let seconds = given.unwrap_or(60);
        let mut director = director(&want);
        let ack = |port: u16| kind.later().from_port(port);
        let name = format!("{}, tcp_syn {seconds}", kind.name);
        assert_eq!(send(&mut director, &ack(1)), Err(DroppedNoFlow), "{name}: nothing was held yet");
        let begun = director.tick_in(0);
        flood(&mut director, kind, 1000..3000);
        assert!(event(&director, "event-guarded") > 0, "{name}");
        let (until, latest) = (hashed_until(&director), director.tick_in(seconds));
        // It is moved on when that gains half a second.
        let earliest = begun.after(ticks(seconds, director.clock.hz()) - ticks(1, director.clock.hz()));
        assert!(until.until(earliest) >= 0 && until.until(latest) <= 0, "{name}: {until:?} until {latest:?}");
        // As if so much time had gone by that half a minute is left, and none.
        hash_until(&director, director.tick_in(30));
        assert!(send(&mut director, &ack(2)).is_ok(), "{name}");
        assert!(is_stored(&director, 2), "{name}");
        hash_until(&director, director.tick_in(0));
        assert_eq!(send(&mut director, &ack(3)), Err(DroppedNoFlow), "{name}");
        assert!(!is_stored(&director, 3), "{name}");
        assert!(send(&mut director, &ack(2)).is_ok(), "{name}: it has its entry");
    }
}

fn is_stored(director: &Director, port: u16) -> bool {
    director.flows().iter().any(|flow| flow.client_port == port)
}

/// Until when packets of the only service are placed by hash.
fn hashed_until(director: &Director) -> Tick {
    Tick(director.rotation(only_service(director)).expect("its rotation").hashed_until as u32)
}

fn hash_until(director: &Director, tick: Tick) {
    let change = |rotation: &mut Rotation| rotation.hashed_until = Rotation::until(tick);
    director.change_rotation(only_service(director), change).expect("set");
}

fn client_bytes(kind: Kind) -> [u8; 16] {
    match kind.client() {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A persistent client's connection without an entry goes where its template says, not by hash: its ACK makes a
/// half-open entry all the same, so that a flood of ACKs makes no established ones.
#[test]
fn an_ack_of_a_persistent_client_makes_a_half_open_entry() {
    for kind in [TCP4, TCP6] {
        let mut want = guarded(kind, &[1, 2, 3]);
        want.services[0].options.persistence =
            Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
        let mut director = director(&want);
        let backends = flood(&mut director, kind, 1000..2000);
        let stored: Vec<u16> = director.flows().iter().map(|flow| flow.client_port).collect();
        let (port, backend) =
            backends.iter().find(|(port, _)| !stored.contains(port)).expect("one without an entry");
        let state_of = |director: &Director, port: u16| {
            let flow = director.flows().into_iter().find(|flow| flow.client_port == port);
            flow.map(|flow| flow.value.state())
        };
        let half_open = State::SYN_RECV;
        for (port, state, assured) in
            [(*port, half_open, false), (*port, State::ESTABLISHED, true), (7, half_open, true)]
        {
            let ack = kind.later().from_port(port);
            assert_eq!(send(&mut director, &ack), Ok(*backend), "{} port {port}", kind.name);
            assert_eq!(state_of(&director, port), Some(state), "{} port {port}", kind.name);
            let templates = director.flows().into_iter().filter(|flow| flow.value.is_template());
            let is: Vec<bool> = templates.map(|template| template.value.state() == ASSURED).collect();
            assert_eq!(is, [assured], "{} port {port}", kind.name);
        }
    }
}
