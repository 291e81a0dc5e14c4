//! A slot that changes hands and has the same value word again: the same destination, the same state,
//! and an expiry in the same tick. A compare-and-swap cannot tell.

use lb_common::{
    bucket::{Bucket, Word, find},
    flow::{NarrowBucket, WideBucket},
    tcp::State,
    value::Value,
};

use crate::{
    explore::Cell,
    party::{ACK, RST, SYN, TIMEOUT, Way},
    play::{Part, play},
    table::*,
};

type Narrow = NarrowBucket<Cell>;
type Wide = WideBucket<Cell>;

fn shared(state: State) -> Value {
    Value::new(SHARED, state, 0, NOW.after(TIMEOUT))
}

/// A's closed entry goes to B, whose connection opens and is reset in the same tick, while A's port
/// comes back.
fn a_reuse<T: Table>() {
    let b: &Part<T> = &|cpu| {
        cpu.open_with(B, shared(State::SYN_RECV), SYN);
        cpu.packet(B, ACK, 9);
        cpu.packet(B, RST, 9)
    };
    let ends = play(
        || T::one_slot(A, shared(State::CLOSE)),
        &[&|cpu| cpu.packet(A, SYN, 1), b],
        |bucket, _| {
            // `settled` has seen whose destination stands under whose key.
            let a = find(bucket, &T::key(A));
            assert!(a.is_miss() || a.value.dest() == A.dest(1) || a.value == shared(State::CLOSE));
        },
    );
    assert!(ends.contains(&vec![Way::To(A.dest(1)), Way::To(SHARED)]));
}

#[test]
fn a_reuse_of_an_entry_that_is_another_flows_by_now() {
    a_reuse::<Narrow>();
}

#[test]
fn a_reuse_of_a_wide_entry_that_is_another_flows_by_now() {
    a_reuse::<Wide>();
}

/// Left over: A's ACK completes the handshake of B. Both lead to the same destination.
#[test]
fn a_packet_that_moves_another_flow_leaves_its_destination() {
    let mut moved = 0;
    play(
        || Narrow::one_slot(A, shared(State::SYN_RECV)),
        &[&|cpu| cpu.packet(A, ACK, 9), &|cpu| cpu.open_with(B, shared(State::SYN_RECV), SYN)],
        |bucket, _| {
            let (client, value) = (bucket.client(SLOT), Value(bucket.value(SLOT).load()));
            assert_eq!(value.dest(), SHARED);
            moved += usize::from(client == B && value.state() == State::ESTABLISHED);
        },
    );
    assert!(moved > 0, "then this is left over no more: say so in bucket.rs");
}

/// Left over: the agent flushes B for A, whose entry it listed. The counts add up.
#[test]
fn a_flush_of_another_flow_with_the_same_word() {
    let seen = shared(State::SYN_RECV);
    let mut flushed = 0;
    play(
        || Narrow::one_slot(A, seen),
        &[&move |agent| agent.flush(agent.first, SLOT, seen), &|cpu| {
            cpu.open_with(B, shared(State::SYN_RECV), SYN)
        }],
        |bucket, ways| {
            let b = !find(bucket, &Narrow::key(B)).is_miss();
            flushed += usize::from(ways == [Way::Freed(true), Way::To(SHARED)] && !b);
        },
    );
    assert!(flushed > 0, "then this is left over no more: say so in bucket.rs");
}
