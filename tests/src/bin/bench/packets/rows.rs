//! The rows of the table: which packets, which program.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{
    tcp::flag::ACK,
    verdict::{Event, Verdict},
};
use lb_tests::{feeder::Feed, packet::Packet};
use serde::Serialize;

use super::{FLOWS, FLOWS4, FLOWS6, PACKETS};
use crate::{
    expected::Expected,
    world::{VIP4, VIP6, datagram, open},
};

/// A service of wlc with 32 backends, and one whose guard is active.
pub const LOAD: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 101));
pub const GUARDED: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 102));
const NOT_A_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 200));

pub const PASS: &str = "not a VIP";
pub const SWAP: &str = "bare MAC swap";
pub const HOT4: &str = "IPv4, 1 known flow";
pub const SOME4: &str = "IPv4, 1 k known flows";
pub const MANY4: &str = "IPv4, 64 k known flows";
pub const MOST4: &str = "IPv4, 512 k known flows";
pub const NEW: &str = "IPv4, new flow, rr";
pub const NEW_WLC: &str = "IPv4, new flow, wlc over 32";
pub const FLOOD: &str = "IPv4, SYN flood over the guard";
pub const IN_FLOOD: &str = "IPv4, 1 known flow, guard active";
pub const HOT6: &str = "IPv6, 1 known flow";

/// What runs on a row's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    Nothing,
    Swap,
    Ours,
    Lru,
    /// The same, full, as it is after its first hour: what is new takes the place of what is old.
    FullLru,
    Stub,
    /// Another build that was given.
    Beside,
}

impl Program {
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Lru => " [kernel LRU map]",
            Self::FullLru => " [full kernel LRU map]",
            Self::Stub => " [no table]",
            Self::Beside => " [the other build]",
            _ => "",
        }
    }
}

/// One row.
#[derive(Clone)]
pub struct Row {
    pub name: &'static str,
    pub program: Program,
    pub frame: Vec<u8>,
    pub feed: Feed,
    /// Packets to send before measuring, one of each flow, so that every expiry is fresh (writing one is a cost of
    /// slow flows, twice a second at most) and the cache holds what it would.
    pub warm_up: u32,
    pub expected: Expected,
    /// ns per packet of each round, the wrapper's cost included.
    pub rounds: Vec<u32>,
}

impl Row {
    fn known(name: &'static str, program: Program, packet: &Packet, flows: u32, expected: Expected) -> Self {
        let (frame, feed) = (packet.bytes(), Feed::of(packet, flows));
        Self { name, program, frame, feed, warm_up: flows, expected, rounds: Vec::new() }
    }

    /// Beyond all that are established, and none twice; some of them before, so that the caches hold what they would,
    /// whatever row came before, and the guard's burst is over.
    fn new(name: &'static str, program: Program, vip: IpAddr) -> Self {
        let mut row = Self::known(name, program, &open(vip), 1, Expected::each(Verdict::ForwardedTx));
        (row.feed.counter, row.feed.mask, row.warm_up) = (u64::from(FLOWS), u64::MAX, PACKETS);
        row
    }
}

/// Those of the director's are measured of another build, too, if there is one.
pub fn rows(beside: bool) -> Vec<Row> {
    let rows = of_one_build();
    let twice = |row: Row| {
        let other =
            (beside && row.program == Program::Ours).then(|| Row { program: Program::Beside, ..row.clone() });
        [Some(row), other].into_iter().flatten()
    };
    rows.into_iter().flat_map(twice).collect()
}

fn of_one_build() -> Vec<Row> {
    let ack = |vip| open(vip).flags(ACK);
    let tx = Expected::each(Verdict::ForwardedTx);
    let known = |name, program, vip, flows| Row::known(name, program, &ack(vip), flows, tx);
    let not_ours = ack(VIP4).with(|p| p.dest.set_ip(NOT_A_VIP));
    let mut rows = vec![
        Row::known("wrapper, IPv4", Program::Nothing, &ack(VIP4), 1, Expected::NOTHING),
        Row::known("wrapper, IPv6", Program::Nothing, &ack(VIP6), 1, Expected::NOTHING),
        Row::known(SWAP, Program::Swap, &ack(VIP4), 1, Expected::NOTHING),
        Row::known(PASS, Program::Ours, &not_ours, 1, Expected::each(Verdict::PassedNoService)),
        known(HOT4, Program::Stub, VIP4, 1),
    ];
    for (name, flows) in [(HOT4, 1), (SOME4, 1 << 10), (MANY4, 1 << 16), (MOST4, FLOWS4)] {
        rows.extend([Program::Ours, Program::Lru].map(|program| known(name, program, VIP4, flows)));
    }
    rows.extend([
        Row::new(NEW, Program::Ours, VIP4),
        Row::new(NEW, Program::FullLru, VIP4),
        Row::new(NEW_WLC, Program::Ours, LOAD),
        Row {
            expected: Expected { event: Some(Event::Guarded), ..tx },
            ..Row::new(FLOOD, Program::Ours, GUARDED)
        },
        // Directly after it.
        known(IN_FLOOD, Program::Ours, GUARDED, 1),
    ]);
    for (name, flows) in [(HOT6, 1), ("IPv6, 64 k known flows", FLOWS6)] {
        rows.extend([Program::Ours, Program::Lru].map(|program| known(name, program, VIP6, flows)));
    }
    let new = "IPv6, new flow, rr";
    rows.extend([Program::Ours, Program::FullLru].map(|program| Row::new(new, program, VIP6)));
    for (name, vip) in [("IPv4 UDP, 64 k known flows", VIP4), ("IPv6 UDP, 64 k known flows", VIP6)] {
        let row = |program| Row::known(name, program, &datagram(vip), FLOWS6, tx);
        rows.extend([Program::Ours, Program::Lru].map(row));
    }
    rows
}
