//! A flow goes from a table that is being replaced to the new one, while packets of it come.

use std::collections::BTreeSet;

use lb_common::{
    bucket::{Transfer, Word, transfer},
    flow::{NarrowBucket, WideBucket},
    tcp::State,
    value::Value,
};

use crate::{
    explore::{Cell, explore},
    party::{ACK, FIN, Party, RST, SYN, Way},
    table::*,
};

type Narrow = NarrowBucket<Cell>;
type Wide = WideBucket<Cell>;

/// The flow's bucket in either table; its other one is full of live flows.
struct Tables<B> {
    old: B,
    new: B,
    full: B,
}

impl<B: Table> Tables<B> {
    fn party(&self, bucket: &'static str) -> Party<'_, B> {
        let first = if bucket == "old" { &self.old } else { &self.new };
        Party::new(first, &self.full, NOW)
    }

    /// `on_both_sides` in `lb-ebpf/src/table.rs`, then what opens a flow.
    fn packet(&self, flags: u8, n: u32) -> (Way, Counts) {
        let mut counts = Counts::default();
        for side in ["new", "old", "new"] {
            let mut party = self.party(side);
            let way = party.known_here(A, flags);
            counts = counts.with(&party.counts);
            if way != Way::Lost {
                return (way, counts);
            }
        }
        if flags != SYN {
            return (Way::Lost, counts);
        }
        let mut party = self.party("new");
        let way = party.open(A, flags, n);
        self.party("old").forget(A);
        (way, counts.with(&party.counts))
    }

    /// A round of the agent's, for the one slot.
    fn agent(&self) -> (Way, Counts) {
        let mut counts = Counts::default();
        let seen = Value(self.old.value(SLOT).load());
        if !seen.is_flow() || seen.state().is_reusable() || seen.expiry().is_past(NOW) {
            return (Way::Freed(false), counts);
        }
        let (before, gone) = match transfer(&self.old, SLOT, seen, &B::key(A), [&self.new, &self.full], NOW) {
            Transfer::Moved(before) => (before, true),
            Transfer::There => (Value::FREE, true),
            Transfer::Stays(before) => (before, false),
        };
        if before.is_flow() {
            counts.ended(before);
        }
        (Way::Freed(gone), counts)
    }
}

type Part<B> = dyn Fn(&Tables<B>) -> (Way, Counts);

/// Every order of the parties on an established flow in the old table; `room` is what the new one has for it.
fn play<B: Table>(
    room: Value,
    parts: &[&Part<B>],
    mut end: impl FnMut(&Tables<B>, &[Way]),
) -> BTreeSet<Vec<Way>> {
    let mut ends = BTreeSet::new();
    let states = explore(
        || {
            let old = B::one_slot(A, A.value(0, State::ESTABLISHED, LATER));
            let tables = Tables { old, new: B::one_slot(C, room), full: B::full() };
            let before = Counts::of(&[&tables.old, &tables.new]);
            (tables, before)
        },
        |(tables, _), run| {
            let closures: Vec<_> = parts.iter().map(|part| move || part(tables)).collect();
            let parties: Vec<&dyn Fn() -> (Way, Counts)> =
                closures.iter().map(|closure| closure as &dyn Fn() -> (Way, Counts)).collect();
            run(&parties);
        },
        |(tables, before), results| {
            let counted = results.iter().fold(before.clone(), |sum, (_, counts)| sum.with(counts));
            settled(&[&tables.old, &tables.new], &counted);
            let ways: Vec<Way> = results.iter().map(|(way, _)| *way).collect();
            end(tables, &ways);
            ends.insert(ways);
        },
    );
    println!("{states} states, {} different ends", ends.len());
    ends
}

fn expired() -> Value {
    C.value(0, State::CLOSE, PAST)
}

/// The states in which the flow is found in the end, in either table.
fn states<B: Table>(tables: &Tables<B>) -> Vec<State> {
    let of = |bucket: &B| {
        let value = Value(bucket.value(SLOT).load());
        (value.is_flow() && bucket.client(SLOT) == A).then(|| value.state())
    };
    [of(&tables.old), of(&tables.new)].into_iter().flatten().collect()
}

fn a_packet_finds_it<B: Table>(flags: u8, state: State) {
    let packet = move |tables: &Tables<B>| tables.packet(flags, 1);
    let ends = play::<B>(expired(), &[&packet, &Tables::agent], |tables, ways| {
        assert_eq!(ways[0], Way::To(A.dest(0)), "the packet goes where the flow leads");
        assert_eq!(states(tables), [state], "once, and the packet is not forgotten");
    });
    let freed: BTreeSet<_> = ends.iter().map(|ways| ways[1]).collect();
    assert!(freed.contains(&Way::Freed(true)));
}

#[test]
fn a_packet_of_a_flow_that_is_moved() {
    a_packet_finds_it::<Narrow>(ACK, State::ESTABLISHED);
}

#[test]
fn a_packet_of_a_wide_flow_that_is_moved() {
    a_packet_finds_it::<Wide>(ACK, State::ESTABLISHED);
}

#[test]
fn a_fin_is_not_lost_to_a_move() {
    a_packet_finds_it::<Narrow>(FIN, State::FIN_WAIT);
    a_packet_finds_it::<Wide>(FIN, State::FIN_WAIT);
}

#[test]
fn nor_is_a_reset() {
    a_packet_finds_it::<Narrow>(RST, State::CLOSE);
    a_packet_finds_it::<Wide>(RST, State::CLOSE);
}

/// A SYN on a live flow is not scheduled anew.
#[test]
fn nor_is_it_opened_a_second_time() {
    a_packet_finds_it::<Narrow>(SYN, State::ESTABLISHED);
    a_packet_finds_it::<Wide>(SYN, State::ESTABLISHED);
}

#[test]
fn another_client_takes_the_room() {
    let other = |tables: &Tables<Narrow>| {
        let mut cpu = tables.party("new");
        (cpu.open(B, SYN, 1), cpu.counts)
    };
    let ends = play::<Narrow>(expired(), &[&other, &Tables::agent], |tables, ways| {
        assert_eq!(states(tables), [State::ESTABLISHED]);
        let both = ways[0] == Way::To(B.dest(1)) && ways[1] == Way::Freed(true);
        assert!(!both, "there was room for one");
    });
    assert_eq!(ends.len(), 2, "either: {ends:?}");
}

#[test]
fn a_full_table_takes_none() {
    let live = C.value(0, State::ESTABLISHED, LATER);
    let ends = play::<Narrow>(live, &[&|tables| tables.packet(FIN, 1), &Tables::agent], |tables, _| {
        assert_eq!(states(tables), [State::FIN_WAIT]);
    });
    assert_eq!(ends, [vec![Way::To(A.dest(0)), Way::Freed(false)]].into());
}

/// A connection is reset, and its client opens another one while the agent is at it: that goes on where its SYN went.
#[test]
fn a_client_that_comes_back_is_led_to_one_destination() {
    let comes_back = |tables: &Tables<Narrow>| {
        let (_, first) = tables.packet(RST, 1);
        let (way, then) = tables.packet(SYN, 1);
        (way, first.with(&then))
    };
    let ends = play::<Narrow>(expired(), &[&comes_back, &Tables::agent], |tables, ways| {
        // Lost: the agent was about to put the old flow into the only slot.
        if ways[0] != Way::Lost {
            assert_eq!(tables.packet(ACK, 2).0, ways[0]);
        }
    });
    let ways: BTreeSet<_> = ends.iter().map(|ways| ways[0]).collect();
    assert!(ways.contains(&Way::To(A.dest(1))), "it is scheduled anew in most orders: {ways:?}");
}
