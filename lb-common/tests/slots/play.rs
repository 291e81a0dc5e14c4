//! Parties on one bucket, in every order.

use std::collections::BTreeSet;

use crate::{
    explore::explore,
    party::{Party, Way},
    table::{Counts, NOW, Table, settled},
};

/// What one party does.
pub type Part<B> = dyn Fn(&mut Party<'_, B>) -> Way;

/// Lets the parties work on the bucket in every order, and checks each end: see [`settled`], then
/// `end` with the ways they went. A flow's other bucket is full of live flows. Returns the different ways
/// that there were, so that a test can say which must have come up.
pub fn play<B: Table>(
    setup: impl FnOnce() -> B,
    parts: &[&Part<B>],
    mut end: impl FnMut(&B, &[Way]),
) -> BTreeSet<Vec<Way>> {
    let mut ends = BTreeSet::new();
    let states = explore(
        || {
            let bucket = setup();
            let before = Counts::of(&[&bucket]);
            (bucket, B::full(), before)
        },
        |(bucket, full, _), run| {
            let act = |part: &dyn Fn(&mut Party<'_, B>) -> Way| {
                let mut party = Party::new(bucket, full, NOW);
                let way = part(&mut party);
                (way, party.counts)
            };
            let closures: Vec<_> = parts.iter().map(|part| move || act(part)).collect();
            let parties: Vec<&dyn Fn() -> (Way, Counts)> =
                closures.iter().map(|closure| closure as &dyn Fn() -> (Way, Counts)).collect();
            run(&parties);
        },
        |(bucket, _, before), results| {
            let counted = results.iter().fold(before.clone(), |sum, (_, counts)| sum.with(counts));
            settled(&[bucket], &counted);
            let ways: Vec<Way> = results.iter().map(|(way, _)| *way).collect();
            end(bucket, &ways);
            ends.insert(ways);
        },
    );
    println!("{states} states, {} different ends", ends.len());
    ends
}
