//! Under pressure what is unfinished and idle gives way to the sweeper; what is established stays.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use lb::{
    model::{FlowSizes, Guard, Persistence, Scope, Timeouts},
    plan::Desired,
    pressure::{IDLE, Pressure, Turn},
};
use lb_common::{
    tcp::{State, flag::*},
    verdict::Verdict::DroppedNoFlow,
};
use lb_tests::{
    clock,
    feeder::{Feed, Feeder, Target},
    packet::Packet,
    xdp::Director,
};

use crate::world::*;

/// Client ports and what was sent from them.
const LIVES: [(u16, &[u8]); 5] = [
    (1, &[SYN]),
    (2, &[SYN, ACK]),
    (3, &[SYN, ACK, FIN | ACK]),
    (4, &[SYN, FIN | ACK]),
    (5, &[SYN, ACK, ACK]),
];

/// The backend of each connection, and an ACK of it.
type Connections = Vec<(Packet, u8)>;

/// Connections to all of the services, which have begun.
fn connect(director: &mut Director, kind: Kind, ports: Range<u16>) -> Connections {
    let each = (0..SERVICES).flat_map(|n| ports.clone().map(move |port| (n, port)));
    let open = |(n, port)| {
        let open = kind.open().to_port(PORT + n).from_port(port);
        (open.flags(ACK), send(director, &open).expect("forwarded"))
    };
    each.map(open).collect()
}

#[track_caller]
fn go_on(director: &mut Director, kind: Kind, connections: &[(Packet, u8)], when: &str) {
    for (ack, backend) in connections {
        assert_eq!(send(director, ack), Ok(*backend), "{} {ack:?} {when}", kind.name);
    }
}

/// How often it was counted.
fn event(director: &Director, name: &str) -> u64 {
    let counters = director.counters().expect("counters");
    counters.iter().find(|(counted, _)| *counted == name).map_or(0, |(_, times)| *times)
}

fn ports(director: &Director) -> BTreeMap<u16, State> {
    director.flows().iter().map(|flow| (flow.client_port, flow.value.state())).collect()
}

#[test]
fn the_sweeper_takes_what_is_unfinished_and_idle() {
    for kind in [TCP4, TCP6] {
        let mut director = director(&every_kind());
        for (port, flags) in LIVES {
            for flags in flags {
                assert_eq!(send(&mut director, &kind.open().from_port(port).flags(*flags)), Ok(1));
            }
        }
        let udp = if kind.is_ipv6 { UDP6 } else { UDP4 };
        assert_eq!(send(&mut director, &udp.open().from_port(6)), Ok(1));
        let before = ports(&director);
        assert_eq!(before.len(), 6, "{}", kind.name);
        // Not idle long enough; no pressure.
        director.press(Some(10));
        director.sweep_in(8).expect("swept");
        director.press(None);
        director.sweep_in(30).expect("swept");
        assert_eq!(ports(&director), before, "{}", kind.name);
        director.press(Some(10));
        director.sweep_in(12).expect("swept");
        assert_eq!(director.pruned(), 3, "{}", kind.name);
        let left = ports(&director);
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), [2, 5, 6], "{}", kind.name);
        assert!(left.iter().all(|(port, state)| before[port] == *state), "{}: {left:?}", kind.name);
        // Counted out, and not as handshakes that ran out.
        let snapshot = director.maps().snapshot().expect("a snapshot");
        let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
        let sum =
            counts.fold((0, 0, 0), |sum, it| (sum.0 + it.active, sum.1 + it.inactive, sum.2 + it.incomplete));
        assert_eq!(sum, (2, 1, 0), "{}", kind.name);
        for port in [2, 5] {
            assert_eq!(
                send(&mut director, &kind.later().from_port(port)),
                Ok(1),
                "{} port {port}",
                kind.name
            );
        }
    }
}

/// A connection that was placed by hash waits as half-open, though it may be established.
#[test]
fn it_leaves_what_was_placed_by_hash() {
    let mut service = TCP4.service(PORT, &[1, 2]);
    service.options.guard = Guard::Rate(1);
    let mut director = director(&Desired { services: vec![service], ..lab() });
    // Beyond the guard's burst.
    open(&mut director, TCP4, 1000..1040);
    let stored = ports(&director);
    let port = (1000..1040).find(|port| !stored.contains_key(port)).expect("one without an entry");
    send(&mut director, &TCP4.later().from_port(port)).expect("forwarded");
    assert_eq!(ports(&director).get(&port), Some(&State::SYN_RECV));
    director.press(Some(10));
    director.sweep_in(20).expect("swept");
    assert_eq!(director.pruned(), stored.len() as u64);
    assert_eq!(ports(&director).into_keys().collect::<Vec<_>>(), [port]);
}

/// A template goes as its client's connections do, if none was ever established: IPVS drops it with the last of them.
#[test]
fn it_leaves_the_templates_of_established_connections() {
    let persistent = |kind: Kind| {
        let mut service = kind.service(PORT, &[1, 2]);
        service.options.persistence =
            Some(Persistence { timeout: 300, granularity: None, scope: Scope::default() });
        service
    };
    let cases = [
        (TCP4, false, 8, 0, 1),
        (TCP4, false, 20, 11, 0),
        (TCP6, false, 20, 11, 0),
        (TCP4, true, 20, 9, 1),
        (TCP6, true, 20, 9, 1),
        // Of datagrams nobody knows.
        (UDP4, false, 20, 0, 1),
    ];
    for (kind, establishes, idle, pruned, left) in cases {
        let mut director = director(&Desired { services: vec![persistent(kind)], ..lab() });
        open(&mut director, kind, 1000..1010);
        if establishes {
            assert!(send(&mut director, &kind.later().from_port(1000)).is_ok());
        }
        director.press(Some(10));
        director.sweep_in(idle).expect("swept");
        let templates = director.flows().iter().filter(|flow| flow.value.is_template()).count();
        let name = format!("{}, established: {establishes}, idle for {idle} s", kind.name);
        assert_eq!((director.pruned(), templates), (pruned, left), "{name}");
    }
}

/// Services that are flooded at once, each by as many SYNs as its guard lets in.
const SERVICES: u16 = 16;
/// Of each service.
const CONNECTIONS: Range<u16> = 1000..1030;
const RATED: u32 = 1 << 12;

/// A guard is its service's alone: the floods of many fill the table together, with none of them too fast. Established
/// connections of all services stay, new ones find room, and under pressure the floods share less than half of the table.
#[test]
fn many_floods_below_their_guards_together_move_nobody() {
    for kind in [TCP4, TCP6] {
        let sizes = FlowSizes { ipv4: RATED, wide: RATED };
        let per_minute = RATED / 2;
        let service = |n| {
            let mut service = kind.service(PORT + n, &[1, 2, 3]);
            // What `auto` lets in within a minute, this one does within its burst of four seconds, or longer.
            service.options.guard = Guard::Rate(per_minute / 4 + 1000);
            service
        };
        let want = Desired { services: (0..SERVICES).map(service).collect(), flows: sizes, ..lab() };
        let mut director = Director::new(sizes, &want).expect("a director");
        let mut real = connect(&mut director, kind, CONNECTIONS);
        go_on(&mut director, kind, &real, "before");
        let mut feeder = Feeder::new().expect("a feeder");
        feeder.aim(Target::Director, &mut director).expect("aimed");
        // From 10.16.0.0 on: beyond all clients.
        let mut next = 16 << 16;
        let mut flood = |director: &mut Director, each: u32| {
            for n in 0..SERVICES {
                let syn = kind.open().to_port(PORT + n);
                let mut feed = Feed::new_clients(&syn).from_number(next);
                feeder.run(&syn.bytes(), &mut feed, each).expect("ran");
                next = feed.counter;
            }
            director.flows().len() as u64
        };

        // The first minute, without an agent: twice as much as the table holds.
        let used = flood(&mut director, per_minute);
        go_on(&mut director, kind, &real, "after the first minute");
        // A new one takes the place of a half-open one: before the next does, its handshake is complete.
        for port in 2000..2010 {
            for n in 0..SERVICES {
                let open = kind.open().to_port(PORT + n).from_port(port);
                let backend = send(&mut director, &open).expect("forwarded");
                real.push((open.flags(ACK), backend));
                go_on(&mut director, kind, &real[real.len() - 1..], "with a full table");
            }
        }
        assert_eq!((event(&director, "event-guarded"), event(&director, "event-placed-by-hash")), (0, 0));
        let turn = Pressure::default().look(Duration::ZERO, used, RATED.into());
        assert_eq!(turn, Some(Turn::On), "{used}");

        // From then on what is idle for ten seconds goes, within two more.
        let (mut most, mut slow, mut lost) = (0, 0, 0);
        let evicted = event(&director, "event-evicted");
        for round in 0..5u16 {
            director.press(Some(IDLE));
            director.sweep_in(IDLE + 2).expect("swept");
            // Clients whose handshakes take all that time: some of their entries give way to others.
            let half_way = connect(&mut director, kind, 3000 + 5 * round..3005 + 5 * round);
            let used = flood(&mut director, per_minute / 60 * (IDLE + 2));
            go_on(&mut director, kind, &real, "after a round");
            slow += half_way.len();
            for (ack, backend) in half_way {
                match send(&mut director, &ack) {
                    Err(DroppedNoFlow) => lost += 1,
                    other => {
                        assert_eq!(other, Ok(backend), "{}", kind.name);
                        real.push((ack, backend));
                    }
                }
            }
            most = most.max(used);
        }
        let evicted = event(&director, "event-evicted") - evicted;
        println!(
            "{}: {used} of {} slots used after a minute, {most} under pressure, {evicted} evicted then; of {slow} handshakes of {} s \
             {lost} were lost; {} connections went on",
            kind.name,
            4 * RATED,
            IDLE + 2,
            real.len()
        );
        assert!(most < 2 * u64::from(RATED), "{}: {most}", kind.name);
        assert!(lost * 20 < slow, "{}: {lost} of {slow}", kind.name);
        let stored = director.flows().iter().filter(|flow| flow.value.state() == State::ESTABLISHED).count();
        assert_eq!(stored, real.len(), "{}", kind.name);
        assert_eq!(event(&director, "event-guarded"), 0, "{}", kind.name);
    }
}

/// After floods of SYNs the hash places what belongs to no connection that is known, with each of the services. ACKs to all
/// of them at once, at each as many as its guard gives an entry: together they are more than there are slots. They stay
/// half-open and give way to each other and to new connections, established ones stay, and after their minute all are gone.
#[test]
fn many_floods_of_acks_placed_by_hash_move_nobody() {
    for kind in [TCP4, TCP6] {
        let sizes = FlowSizes { ipv4: RATED, wide: RATED };
        let service = |n| {
            let mut service = kind.service(PORT + n, &[1, 2, 3]);
            // Within its burst of four seconds or longer, a third of the slots.
            service.options.guard = Guard::Rate(RATED / 3);
            service
        };
        let want = Desired { services: (0..SERVICES).map(service).collect(), flows: sizes, ..lab() };
        let mut director = Director::new(sizes, &want).expect("a director");
        let mut real = connect(&mut director, kind, CONNECTIONS);
        go_on(&mut director, kind, &real, "before");
        let mut feeder = Feeder::new().expect("a feeder");
        feeder.aim(Target::Director, &mut director).expect("aimed");
        // From 10.16.0.0 on: beyond all clients.
        let mut next = 16 << 16;
        let mut flood = |packet: &Packet, each: u32| {
            for n in 0..SERVICES {
                let packet = packet.to_port(PORT + n);
                let mut feed = Feed::new_clients(&packet).from_number(next);
                feeder.run(&packet.bytes(), &mut feed, each).expect("ran");
                next = feed.counter;
            }
        };
        // Each beyond its guard: eight seconds of the rate, and as much again.
        flood(&kind.open(), 16 * RATED / 3);
        let guarded = event(&director, "event-guarded");
        assert!(guarded > u64::from(SERVICES), "{}: {guarded}", kind.name);
        director.sweep_in(61).expect("swept");
        go_on(&mut director, kind, &real, "after the SYNs");
        for round in 0..3u16 {
            flood(&kind.later(), RATED);
            go_on(&mut director, kind, &real, "under the ACKs");
            for port in 2000 + 10 * round..2005 + 10 * round {
                for new in connect(&mut director, kind, port..port + 1) {
                    // Its handshake is complete before another one takes its place.
                    go_on(&mut director, kind, std::slice::from_ref(&new), "with a full table");
                    real.push(new);
                }
            }
        }
        let flows = director.flows();
        let is = |state: State| flows.iter().filter(|flow| flow.value.state() == state).count();
        let (half_open, established) = (is(State::SYN_RECV), is(State::ESTABLISHED));
        println!("{}: {half_open} half-open of {} slots, {established} established", kind.name, 4 * RATED);
        assert_eq!(half_open + established, flows.len(), "{}: what ACKs make is half-open", kind.name);
        assert!(half_open > 2 * RATED as usize, "{}: {half_open} are no flood", kind.name);
        // Within a minute, but for those whose guard was high: they are half-open or have no entry.
        director.sweep_in(61).expect("swept");
        let left = director.flows();
        assert!(left.iter().all(|flow| flow.value.state() == State::ESTABLISHED), "{}", kind.name);
        assert_eq!(left.len(), established, "{}", kind.name);
        go_on(&mut director, kind, &real, "in the end");
    }
}

/// No datagram shows that it is more than a spoofed one, and its flow gives way to none: those that come as slowly as
/// the guard allows, for longer than a flow lives, leave room for everybody else.
#[test]
fn a_slow_flood_of_datagrams_leaves_room() {
    const SERVICES: [(Kind, u16); 2] = [(UDP4, PORT), (TCP4, PORT)];
    let sizes = FlowSizes { ipv4: 1 << 12, wide: 1 << 4 };
    let service = |(kind, port): (Kind, u16)| {
        let mut service = kind.service(port, &[1, 2, 3]);
        service.options.guard = Guard::Auto;
        service
    };
    let want = Desired { services: SERVICES.map(service).into(), flows: sizes, ..lab() };
    let mut director = Director::new(sizes, &want).expect("a director");
    let mut feeder = Feeder::new().expect("a feeder");
    feeder.aim(Target::Director, &mut director).expect("aimed");
    let datagram = UDP4.open();
    let mut feed = Feed::new_clients(&datagram).from_number(16 << 16);
    let lives = Timeouts::default().udp;
    let (begun, mut most) = (clock::now(), 0);
    // The guard's bucket is full after four seconds, and so takes in no more of a longer time.
    for _ in 0..lives / 3 * 2 {
        feeder.run(&datagram.bytes(), &mut feed, 2000).expect("ran");
        director.sweep_in(0).expect("swept");
        most = most.max(director.flows().len());
        director.pass(3).expect("it passed");
    }
    // A flow's life of them, a burst, and what the test's own time has let in.
    let rate = Guard::auto(sizes.ipv4, lives);
    let elapsed = u32::try_from(begun.elapsed().as_secs()).expect("seconds");
    let bound = (rate * (lives + 10 + 8 + elapsed)) as usize;
    assert!(most <= bound && most > (rate * lives / 2) as usize, "{most} flows, {bound} at most");
    let by_hash = event(&director, "event-placed-by-hash");
    for port in 1000..1000 + 50 {
        let open = TCP4.open().from_port(port);
        let backend = send(&mut director, &open).expect("forwarded");
        assert_eq!(send(&mut director, &open.flags(ACK)), Ok(backend), "port {port}");
    }
    assert_eq!(event(&director, "event-placed-by-hash"), by_hash, "there is room");
    println!("{most} of {} slots in use at most, {bound} are allowed", 4 << 12);
}
