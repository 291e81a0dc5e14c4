//! Flow tables of other sizes: packets in each phase of the move, and agents that die in each.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, bail};
use aya::maps::{Array, Map, MapData};
use lb::{
    dataplane::Moved,
    model::{FlowSizes, Persistence, Scope, Timeouts},
    plan::Desired,
};
use lb_common::{
    flow::{NarrowKey, candidates},
    tcp::flag::*,
    value::Value,
    verdict::Verdict::*,
};
use lb_tests::{
    packet::Icmp,
    wait::{PATIENCE, Seen, eventually},
    xdp::{Director, SMALL},
};

use crate::world::*;

const PORTS: std::ops::Range<u16> = 1000..1200;
/// Active and inactive connections when all are [`opened`]: UDP's are inactive.
const ALL: (u64, u64) = (4 * 200, 2 * 200);
/// Room for what [`opened`] opens, in other masks than [`SMALL`] has.
const LARGE: FlowSizes = FlowSizes { ipv4: 4096, wide: 2048 };
const LESS: FlowSizes = FlowSizes { ipv4: 512, wide: 512 };

fn three_of_each() -> Desired {
    Desired {
        services: ALL_KINDS.map(|kind| kind.service(PORT, &[1, 2, 3])).to_vec(),
        timeouts: patient(),
        ..lab()
    }
}

/// A move takes two programs' loads, and what began before it must be alive behind it: SCTP's 3 s for what has only
/// begun are not enough where the verifier has to wait for a CPU.
fn patient() -> Timeouts {
    Timeouts { sctp_init1: 60, sctp_init: 60, ..Timeouts::default() }
}

/// Four times key and value.
type Bucket = [u64; 8];

/// Where each connection leads, by kind and client port.
type Places = BTreeMap<(&'static str, u16), u8>;

/// Connections of every kind from all ports, established where there is such a thing.
fn opened(director: &mut Director) -> Places {
    let mut places = Places::new();
    for kind in ALL_KINDS {
        for port in PORTS {
            let number = send(director, &kind.open().from_port(port)).expect("forwarded");
            places.insert((kind.name, port), number);
            assert_eq!(send(director, &kind.later().from_port(port)), Ok(number));
        }
    }
    places
}

#[track_caller]
fn all_are_where_they_were(director: &mut Director, places: &Places, when: &str) {
    for kind in ALL_KINDS {
        for port in PORTS {
            let number = places[&(kind.name, port)];
            let sent = send(director, &kind.later().from_port(port));
            assert_eq!(sent, Ok(number), "{} from {port}, {when}", kind.name);
        }
    }
}

fn counts(director: &Director) -> (u64, u64) {
    let snapshot = director.maps().snapshot().expect("a snapshot");
    let counts = snapshot.dests.keys().map(|id| director.maps().conn_counts(*id));
    counts.fold((0, 0), |(active, inactive), c| (active + c.active, inactive + c.inactive))
}

/// Two rounds of the sweeper would heal counts that differ: none may have to.
#[track_caller]
fn counts_are(director: &mut Director, wanted: (u64, u64), when: &str) {
    assert_eq!(counts(director), wanted, "{when}");
    for _ in 0..3 {
        director.sweep_in(0).expect("swept");
    }
    assert_eq!(counts(director), wanted, "{when}, after sweeping");
    assert_eq!(director.flows().len() as u64, wanted.0 + wanted.1, "{when}");
}

#[test]
fn flows_stay_where_they_are_in_every_phase() {
    for sizes in
        [LARGE, LESS, FlowSizes { wide: SMALL.wide, ..LARGE }, FlowSizes { ipv4: SMALL.ipv4, ..LESS }]
    {
        let mut director = director(&three_of_each());
        let places = opened(&mut director);
        let each = PORTS.len() as u64;
        counts_are(&mut director, ALL, "before");

        director.begin_resize(sizes).expect("it begins");
        all_are_where_they_were(&mut director, &places, "before they are moved");
        counts_are(&mut director, ALL, "before they are moved");
        let moved = director.move_flows();
        let in_both = match (sizes.ipv4 == SMALL.ipv4, sizes.wide == SMALL.wide) {
            (false, false) => 6 * each,
            _ => 3 * each,
        };
        assert_eq!(moved, Moved { moved: in_both, left: 0 }, "{sizes:?}");
        assert_eq!(director.move_flows(), Moved::default());
        all_are_where_they_were(&mut director, &places, "when they are moved");
        counts_are(&mut director, ALL, "when they are moved");

        director.end_resize().expect("it ends");
        assert!(!director.meta().is_migrating());
        all_are_where_they_were(&mut director, &places, "at the end");
        counts_are(&mut director, ALL, "at the end");
        let pins = fs::read_dir(director.layout().maps()).expect("the pins");
        let pins = pins.map(|entry| entry.expect("a pin").file_name().to_string_lossy().into_owned());
        assert_eq!(pins.filter(|name| name.starts_with("FLOWS")).count(), 2, "the old tables are gone");
    }
}

/// The agent does other things between the parts of a round, sweeping among them.
#[test]
fn part_by_part() {
    let sizes = FlowSizes { ipv4: 4 * 4096, wide: 2 * 4096 };
    let mut director = Director::new(sizes, &three_of_each()).expect("a director");
    let places = opened(&mut director);
    director.begin_resize(LARGE).expect("it begins");
    let (mut moved, mut parts) = (0, 0);
    while let Some(done) = director.move_part(parts) {
        parts += 1;
        assert_eq!(done.left, 0, "part {parts}");
        assert!(done.moved < 6 * PORTS.len() as u64 / 2, "{done:?} of part {parts} alone");
        moved += done.moved;
        all_are_where_they_were(&mut director, &places, "between two parts");
        counts_are(&mut director, ALL, "between two parts");
    }
    assert_eq!((parts, moved), (6, 6 * PORTS.len() as u64), "4 of one table, 2 of the other");
    director.end_resize().expect("it ends");
    all_are_where_they_were(&mut director, &places, "at the end");
    counts_are(&mut director, ALL, "at the end");
}

#[test]
fn new_flows_and_states_while_it_lasts() {
    for kind in ALL_KINDS {
        let mut director = director(&three_of_each());
        for port in [1000, 1001, 1002] {
            let number = send(&mut director, &kind.open().from_port(port)).expect("forwarded");
            assert_eq!(send(&mut director, &kind.later().from_port(port)), Ok(number));
        }
        director.begin_resize(LARGE).expect("it begins");
        // The turn goes on, in the new table.
        assert_eq!(send(&mut director, &kind.open().from_port(1003)), Ok(1), "{}", kind.name);
        assert_eq!(send(&mut director, &kind.later().from_port(1003)), Ok(1));
        assert_eq!(director.flows().len(), 4);
        if let Some([end, _]) = kind.ending() {
            // One ends in the old table, and is counted so.
            assert_eq!(send(&mut director, &kind.open().flags(end).from_port(1001)), Ok(2));
            counts_are(&mut director, (3, 1), "one ends");
        }
        assert_eq!(director.move_flows(), Moved { moved: 3, left: 0 });
        let active = if kind.is_udp { (0, 4) } else { (3, 1) };
        counts_are(&mut director, active, "moved");
        for (port, number) in [(1000, 1), (1001, 2), (1002, 3), (1003, 1)] {
            assert_eq!(send(&mut director, &kind.later().from_port(port)), Ok(number));
        }
    }
}

#[test]
fn a_closed_flow_ends_where_it_is_and_its_client_comes_back_in_the_new_table() {
    for kind in [TCP4, TCP6] {
        // What is closed shall not end by itself: loading programs takes seconds.
        let timeouts = Timeouts { tcp_close: 200, ..Timeouts::default() };
        let mut director = director(&Desired { timeouts, ..three_of_each() });
        let packet = |flags| kind.open().flags(flags).from_port(1000);
        for flags in [SYN, ACK, RST] {
            assert_eq!(send(&mut director, &packet(flags)), Ok(1));
        }
        director.begin_resize(LARGE).expect("it begins");
        assert_eq!(director.move_flows(), Moved { moved: 0, left: 1 }, "{}", kind.name);
        counts_are(&mut director, (0, 1), "closed");
        assert_eq!(send(&mut director, &packet(SYN)), Ok(2), "anew");
        assert_eq!(send(&mut director, &packet(ACK)), Ok(2));
        director.sweep_in(0).expect("swept");
        counts_are(&mut director, (1, 0), "the old one is gone");
        assert_eq!(director.move_flows(), Moved::default());
        assert_eq!(send(&mut director, &packet(ACK)), Ok(2));
    }
}

#[test]
fn templates_go_too() {
    for kind in ALL_KINDS {
        let mut service = kind.service(PORT, &[1, 2, 3]);
        service.options.persistence =
            Some(Persistence { timeout: 300, granularity: None, scope: Scope::Service });
        let mut director = director(&Desired { services: vec![service], timeouts: patient(), ..lab() });
        let from = |director: &mut Director, port| send(director, &kind.open().from_port(port));
        assert_eq!(from(&mut director, 1000), Ok(1));
        director.begin_resize(LARGE).expect("it begins");
        assert_eq!(from(&mut director, 1001), Ok(1), "{}: by the template in the old table", kind.name);
        // Assured where it stands.
        assert_eq!(send(&mut director, &kind.later().from_port(1001)), Ok(1));
        assert_eq!(director.move_flows().left, 0);
        assert_eq!(from(&mut director, 1002), Ok(1), "{}: by the template in the new one", kind.name);
        director.end_resize().expect("it ends");
        assert_eq!(from(&mut director, 1003), Ok(1));
        let templates: Vec<_> = director.flows().into_iter().filter(|f| f.value.is_template()).collect();
        assert_eq!(templates.len(), 1, "{templates:?}");
        if !kind.is_udp {
            assert_eq!(templates[0].value.state(), lb_common::template::ASSURED, "{}", kind.name);
        }
    }
}

#[test]
fn an_icmp_error_finds_its_flow_in_either() {
    for kind in ALL_KINDS {
        let mut director = director(&three_of_each());
        for (port, number) in [(1000, 1), (1001, 2)] {
            assert_eq!(send(&mut director, &kind.open().from_port(port)), Ok(number));
        }
        director.begin_resize(LARGE).expect("it begins");
        let about = |director: &mut Director| {
            let answer = kind.later().from_port(1001).turned();
            let (what, from) = (Icmp::TooBig(1280), [2, 0, 0, 0, 0xd, 1]);
            let frame = answer.error_to_sender(what, ETH0_MAC, from, kind.router(), 100);
            let ran = director.run(&frame).expect("it runs");
            (ran.verdict().expect("one"), ran.frame[..6] == backend_mac(2))
        };
        assert_eq!(about(&mut director), (ForwardedTx, true), "{}", kind.name);
        assert_eq!(director.move_flows().moved, 2);
        assert_eq!(about(&mut director), (ForwardedTx, true), "{}", kind.name);
    }
}

#[test]
fn what_expires_in_the_old_table_is_freed_without_an_agent() {
    let timeouts = Timeouts { udp: 1, ..Timeouts::default() };
    for kind in [UDP4, UDP6] {
        let service = kind.service(PORT, &[1]);
        let mut director = director(&Desired { services: vec![service], timeouts, ..lab() });
        for port in PORTS {
            assert_eq!(send(&mut director, &kind.open().from_port(port)), Ok(1));
        }
        director.begin_resize(LESS).expect("it begins");
        let mut port = PORTS.end;
        eventually(PATIENCE, "the old table to be empty", || {
            // Each new flow sweeps one bucket.
            for _ in 0..500 {
                port = port.wrapping_add(1).max(PORTS.end);
                assert_eq!(send(&mut director, &kind.open().from_port(port)), Ok(1));
            }
            let left = director.move_flows().left;
            Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} left")) })
        })
        .expect("swept");
    }
}

#[test]
fn no_room_means_that_they_stay() {
    let mut director = director(&three_of_each());
    let places = opened(&mut director);
    // 64 slots for 600 flows.
    director.begin_resize(FlowSizes { ipv4: 16, wide: 16 }).expect("it begins");
    let all = 6 * PORTS.len() as u64;
    let first = director.move_flows();
    assert_eq!(first.moved + first.left, all);
    assert!(first.left > all / 2 && first.moved > 64, "{first:?}");
    assert_eq!(director.move_flows(), Moved { moved: 0, left: first.left });
    all_are_where_they_were(&mut director, &places, "with a full table");
    counts_are(&mut director, ALL, "with a full table");
}

/// Leaves in the tables what an agent leaves that dies in the middle of a flow: of one flow a copy, of another a
/// copy and a lock of the agent's where it was, and a slot that a third was to go to.
fn interrupted(director: &Director) -> Result<()> {
    let (layout, meta) = (director.layout(), director.meta());
    let table = |generation| -> Result<Array<MapData, Bucket>> {
        let map = MapData::from_pin(layout.flows("FLOWS4", generation))?;
        Ok(Array::try_from(Map::from_map_data(map)?)?)
    };
    let (mut old, mut new) = (table(meta.narrow_generation - 1)?, table(meta.narrow_generation)?);
    let lock = Value::locked_by_agent(director.clock.now()).0;
    let mut done = 0;
    for index in 0..meta.old_narrow_buckets {
        let mut from = old.get(&index, 0)?;
        // The slot that is filled first.
        let [.., key, value] = from;
        if value == 0 {
            continue;
        }
        let (to, _) = candidates(NarrowKey(key).hash(meta.secret()), meta.narrow_buckets - 1);
        let mut bucket = new.get(&to, 0)?;
        [bucket[6], bucket[7]] = [key, if done == 2 { lock } else { value }];
        new.set(to, bucket, 0)?;
        if done == 1 {
            from[7] = lock;
            old.set(index, from, 0)?;
        }
        done += 1;
        if done == 3 {
            return Ok(());
        }
    }
    bail!("{done} flows in the old table")
}

#[test]
fn an_agent_may_die_at_any_step() {
    let mut director = director(&three_of_each());
    let places = opened(&mut director);
    let all = 6 * PORTS.len() as u64;
    let all_is_well = |director: &mut Director, when: &str| {
        all_are_where_they_were(director, &places, when);
        counts_are(director, ALL, when);
    };

    // The new tables are made, and not in `meta`.
    director.pins_mut().resize(LARGE).expect("made");
    director.start_anew().expect("started");
    assert!(!director.meta().is_migrating());
    all_is_well(&mut director, "a start after tables were made");

    // They are in `meta`, and the program is the old one.
    let meta = director.pins_mut().resize(LARGE).expect("made, though their pins were there");
    director.pins_mut().follow(meta).expect("written");
    all_is_well(&mut director, "before the program was swapped");
    director.start_anew().expect("started");
    assert!(director.meta().is_migrating());
    all_is_well(&mut director, "a start before the program was swapped");

    // In the middle of a flow: copied and not taken away; and taken away and not freed.
    interrupted(&director).expect("written");
    all_are_where_they_were(&mut director, &places, "while the agent is dead");
    director.start_anew().expect("started");
    let moved = director.move_flows();
    assert_eq!(moved, Moved { moved: all - 2, left: 0 });
    all_is_well(&mut director, "after the rest was moved");

    // Swapped back, and `meta` not written.
    director.start_anew().expect("started");
    assert!(director.meta().is_migrating());
    assert_eq!(director.move_flows(), Moved::default());
    director.end_resize().expect("it ends");
    all_is_well(&mut director, "at the end");
    // And again, to other sizes.
    director.begin_resize(LESS).expect("it begins");
    director.start_anew().expect("started");
    assert_eq!(director.move_flows(), Moved { moved: all, left: 0 });
    director.end_resize().expect("it ends");
    all_is_well(&mut director, "smaller");
}
