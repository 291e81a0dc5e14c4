//! Who gets a slot: claims, expiry, removal and reuse against each other.

use lb_common::{
    bucket::{Bucket, SLOTS, Word, find},
    flow::{NarrowBucket, WideBucket},
    tcp::State,
    value::Value,
};

use crate::{
    explore::Cell,
    party::{ACK, FIN, Party, SYN, TIMEOUT, Way},
    play::play,
    table::*,
};

type Narrow = NarrowBucket<Cell>;
type Wide = WideBucket<Cell>;

fn holds<B: Table>(bucket: &B, client: Client) -> bool {
    !find(bucket, &B::key(client)).is_miss()
}

#[test]
fn two_cpus_that_place_flows_in_an_empty_bucket_both_find_room() {
    let ends = play(
        || Narrow::new([None; SLOTS]),
        &[&|cpu| cpu.open(A, SYN, 1), &|cpu| cpu.open(B, SYN, 1)],
        |bucket, _| assert!(holds(bucket, A) && holds(bucket, B), "one lost its entry"),
    );
    assert_eq!(ends, [vec![Way::To(A.dest(1)), Way::To(B.dest(1))]].into());
}

fn two_claims_of_one_slot<B: Table>() {
    let ends = play(
        || B::one_slot(C, C.value(0, State::ESTABLISHED, PAST)),
        &[&|cpu| cpu.open(A, SYN, 1), &|cpu| cpu.open(B, SYN, 1)],
        |bucket, _| assert!(holds(bucket, A) != holds(bucket, B), "one of them has the slot"),
    );
    // The second may take it from the first, which is still half-open.
    assert!(ends.contains(&vec![Way::To(A.dest(1)), Way::To(B.dest(1))]));
    // Or finds it locked.
    assert!(ends.contains(&vec![Way::To(A.dest(1)), Way::Lost]));
}

#[test]
fn two_cpus_claim_the_same_slot() {
    two_claims_of_one_slot::<Narrow>();
}

#[test]
fn two_cpus_claim_the_same_wide_slot() {
    two_claims_of_one_slot::<Wide>();
}

#[test]
fn two_cpus_place_the_same_flow() {
    let mut twice = 0;
    play(
        || Narrow::new([None; SLOTS]),
        &[&|cpu| cpu.open(A, SYN, 1), &|cpu| cpu.open(A, SYN, 2)],
        |bucket, _| {
            // It may stand there twice (left over); every look gives the same one.
            let hit = find(bucket, &Narrow::key(A));
            assert!(!hit.is_miss());
            twice += (0..SLOTS).filter(|slot| *slot != hit.slot && bucket.client(*slot) == A).count();
        },
    );
    assert!(twice > 0, "then the left-over is gone: say so in bucket.rs");
}

fn a_claim_against_an_expiry<B: Table>() {
    let ends = play(
        || B::one_slot(A, A.value(0, State::ESTABLISHED, PAST)),
        &[&|cpu| cpu.open(B, SYN, 1), &|agent| agent.agent_sweep(agent.first, SLOT)],
        |bucket, ways| {
            assert!(!holds(bucket, A));
            assert_eq!(holds(bucket, B), ways[0] != Way::Lost);
        },
    );
    assert!(ends.contains(&vec![Way::To(B.dest(1)), Way::Freed(false)]));
    assert!(ends.contains(&vec![Way::To(B.dest(1)), Way::Freed(true)]));
}

#[test]
fn a_claim_against_the_agents_expiry() {
    a_claim_against_an_expiry::<Narrow>();
}

#[test]
fn a_wide_claim_against_the_agents_expiry() {
    a_claim_against_an_expiry::<Wide>();
}

#[test]
fn two_sweeps_free_a_slot_once() {
    let ends = play(
        || Narrow::one_slot(A, A.value(0, State::ESTABLISHED, PAST)),
        &[&|cpu| cpu.sweep(cpu.first, SLOT), &|agent| agent.agent_sweep(agent.first, SLOT)],
        |bucket, _| assert!(Value(bucket.value(SLOT).load()).is_free()),
    );
    let (yes, no) = (Way::Freed(true), Way::Freed(false));
    assert_eq!(ends, [vec![no, yes], vec![yes, no]].into());
}

#[test]
fn a_client_port_comes_back_while_its_old_entry_is_swept() {
    for state in [State::ESTABLISHED, State::CLOSE] {
        let ends = play(
            || Narrow::new([None, None, None, Some((A, A.value(0, state, PAST)))]),
            &[&|cpu| cpu.packet(A, SYN, 1), &|agent| agent.agent_sweep(agent.first, SLOT)],
            // The sweep has not cleared the new flow.
            |bucket, _| assert_eq!(find(bucket, &Narrow::key(A)).value.dest(), A.dest(1)),
        );
        let to = Way::To(A.dest(1));
        assert_eq!(ends, [vec![to, Way::Freed(false)], vec![to, Way::Freed(true)]].into());
    }
}

#[test]
fn a_client_port_comes_back_while_another_claims_its_closed_entry() {
    let ends = play(
        || Narrow::one_slot(A, A.value(0, State::CLOSE, LATER)),
        &[&|cpu| cpu.packet(A, SYN, 1), &|cpu| cpu.packet(B, SYN, 1)],
        |bucket, _| assert!(holds(bucket, A) != holds(bucket, B)),
    );
    assert!(ends.contains(&vec![Way::To(A.dest(1)), Way::To(B.dest(1))]));
}

fn an_eviction_against_a_packet<B: Table>() {
    // Half-open: A's ACK completes the handshake while B wants the slot.
    let ends = play(
        || B::one_slot(A, A.value(0, State::SYN_RECV, LATER)),
        &[&|cpu| cpu.packet(A, ACK, 9), &|cpu| cpu.packet(B, SYN, 1)],
        |bucket, ways| {
            assert!([Way::Lost, Way::To(A.dest(0))].contains(&ways[0]));
            let value = Value(bucket.value(SLOT).load());
            // `settled` has seen that it is under its own key.
            assert!(value.dest() == A.dest(0) || value == B.value(1, State::SYN_RECV, NOW.after(TIMEOUT)));
            // An established flow is not evicted.
            assert_eq!(value.dest() == A.dest(0), value.state() == State::ESTABLISHED);
        },
    );
    assert!(ends.contains(&vec![Way::To(A.dest(0)), Way::Lost]), "A stays");
    assert!(ends.contains(&vec![Way::Lost, Way::To(B.dest(1))]), "B was first");
    assert!(ends.contains(&vec![Way::To(A.dest(0)), Way::To(B.dest(1))]), "A's ACK was on its way");
}

#[test]
fn a_refresh_against_eviction() {
    an_eviction_against_a_packet::<Narrow>();
}

#[test]
fn a_wide_refresh_against_eviction() {
    an_eviction_against_a_packet::<Wide>();
}

#[test]
fn a_flush_against_a_refresh() {
    let seen = A.value(0, State::ESTABLISHED, NOW.after(1));
    let ends = play(
        || Narrow::one_slot(A, seen),
        &[&|cpu| cpu.packet(A, ACK, 9), &move |agent| agent.flush(agent.first, SLOT, seen)],
        |bucket, ways| {
            // Whoever comes second sees that the word has changed.
            let left = find(bucket, &Narrow::key(A));
            assert_eq!(left.is_miss(), ways[1] == Way::Freed(true));
            assert!(left.is_miss() || left.value.expiry() == NOW.after(TIMEOUT));
        },
    );
    let to = Way::To(A.dest(0));
    let possible =
        [vec![to, Way::Freed(false)], vec![to, Way::Freed(true)], vec![Way::Lost, Way::Freed(true)]];
    assert_eq!(ends, possible.into());
}

#[test]
fn a_fin_is_not_lost_to_a_refresh() {
    let ends = play(
        || Narrow::one_slot(A, A.value(0, State::ESTABLISHED, NOW.after(1))),
        &[&|cpu| cpu.packet(A, ACK, 9), &|cpu| cpu.packet(A, FIN, 9)],
        |bucket, _| assert_eq!(find(bucket, &Narrow::key(A)).value.state(), State::FIN_WAIT),
    );
    // Nor does a packet of a live flow ever miss.
    assert_eq!(ends, [vec![Way::To(A.dest(0)); 2]].into());
}

#[test]
fn a_claim_an_expiry_and_a_flush_of_the_same_slot() {
    let seen = A.value(0, State::CLOSE, PAST);
    play(
        || Narrow::one_slot(A, seen),
        &[&|cpu| cpu.open(B, SYN, 1), &|agent| agent.agent_sweep(agent.first, SLOT), &move |agent| {
            agent.flush(agent.first, SLOT, seen)
        }],
        |bucket, _| assert!(!holds(bucket, A)),
    );
}

#[test]
fn a_packet_a_claim_and_an_expiry_of_the_same_slot() {
    play(
        || Narrow::one_slot(A, A.value(0, State::FIN_WAIT, PAST)),
        &[&|cpu| cpu.packet(A, SYN, 1), &|cpu| cpu.packet(B, SYN, 1), &|agent| {
            agent.agent_sweep(agent.first, SLOT)
        }],
        |_, _| {},
    );
}

#[test]
fn an_agent_dies_while_it_holds_a_slot_and_the_next_one_frees_it() {
    // How far `remove` came: it had the lock, or had cleared the tag too.
    for cleared in [false, true] {
        let ends = play(
            || {
                let bucket = Narrow::one_slot(A, Value::locked_by_agent(PAST));
                if cleared {
                    bucket.tag(SLOT).store(0);
                }
                bucket
            },
            &[&|cpu| cpu.packet(A, SYN, 1), &|agent| agent.free_abandoned(agent.first, SLOT)],
            |bucket, _| {
                let mut cpu = Party::new(bucket, bucket, NOW);
                assert_eq!(cpu.packet(A, SYN, 1), Way::To(A.dest(1)));
            },
        );
        assert!(ends.contains(&vec![Way::Lost, Way::Freed(true)]), "a lock is nobody else's");
        assert!(ends.contains(&vec![Way::To(A.dest(1)), Way::Freed(true)]));
    }
}
