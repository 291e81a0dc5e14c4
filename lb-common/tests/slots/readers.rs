//! What a look-up may see while a slot changes hands.

use lb_common::{
    bucket::{SLOTS, find},
    flow::{NarrowBucket, WideBucket},
    tcp::State,
};

use crate::{
    explore::Cell,
    party::{Party, SYN, Way},
    play::{Part, play},
    table::*,
};

type Narrow = NarrowBucket<Cell>;
type Wide = WideBucket<Cell>;

/// A look-up; what it found must be the client's.
fn look<B: Table>(client: Client) -> impl Fn(&mut Party<'_, B>) -> Way {
    move |cpu| {
        let hit = find(cpu.first, &B::key(client));
        if hit.is_miss() {
            return Way::Lost;
        }
        assert!(client.owns(hit.value.dest()), "{client:?} sees {:?}", hit.value);
        Way::To(hit.value.dest())
    }
}

fn during_a_claim<B: Table>(reader: Client) {
    let ends = play(
        || B::one_slot(A, A.value(0, State::SYN_RECV, LATER)),
        &[&look(reader), &|cpu| cpu.open(B, SYN, 1)],
        |_, _| {},
    );
    let found = Way::To(if reader == A { A.dest(0) } else { B.dest(1) });
    assert_eq!(ends, [vec![found, Way::To(B.dest(1))], vec![Way::Lost, Way::To(B.dest(1))]].into());
}

#[test]
fn a_reader_of_the_old_flow_during_a_claim() {
    during_a_claim::<Narrow>(A);
}

#[test]
fn a_reader_of_the_new_flow_during_a_claim() {
    during_a_claim::<Narrow>(B);
}

#[test]
fn a_wide_reader_of_the_old_flow_during_a_claim() {
    during_a_claim::<Wide>(A);
}

#[test]
fn a_wide_reader_of_the_new_flow_during_a_claim() {
    during_a_claim::<Wide>(B);
}

#[test]
fn a_reader_during_a_removal() {
    let seen = A.value(0, State::ESTABLISHED, LATER);
    play(
        || Narrow::one_slot(A, seen),
        &[&look(A), &move |agent| agent.flush(agent.first, SLOT, seen)],
        |_, ways| assert_eq!(ways[1], Way::Freed(true)),
    );
}

fn goes_and_comes_back<B: Table>(reader: Client) {
    let others: &Part<B> = &|cpu| {
        cpu.open(B, SYN, 1);
        cpu.open(A, SYN, 1)
    };
    let ends =
        play(|| B::one_slot(A, A.value(0, State::SYN_RECV, LATER)), &[&look(reader), others], |_, _| {});
    assert!(ends.len() > 1);
}

/// The slot changes hands twice while the reader is at it, and the reader's own key comes back.
#[test]
fn a_reader_whose_flow_goes_and_comes_back() {
    goes_and_comes_back::<Narrow>(A);
}

#[test]
fn a_wide_reader_whose_flow_goes_and_comes_back() {
    goes_and_comes_back::<Wide>(A);
}

#[test]
fn a_reader_whose_flow_comes_and_goes() {
    goes_and_comes_back::<Narrow>(B);
}

#[test]
fn a_live_flow_is_found_while_others_use_the_bucket() {
    let ends = play(
        || {
            Narrow::new([
                None,
                Some((A, A.value(0, State::ESTABLISHED, LATER))),
                None,
                Some((C, C.value(0, State::CLOSE, PAST))),
            ])
        },
        &[&look(A), &|cpu| cpu.open(B, SYN, 1), &|agent| agent.agent_sweep(agent.first, SLOTS - 1)],
        |_, _| {},
    );
    assert!(ends.iter().all(|ways| ways[0] == Way::To(A.dest(0))));
}
