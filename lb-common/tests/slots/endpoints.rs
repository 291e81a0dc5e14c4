//! The table of endpoints while the agent writes it: one bucket, a packet and the agent, in every order.

use std::collections::BTreeSet;

use lb_common::endpoint::{
    Endpoint,
    table::{Bucket, Key, remove, set},
};

use crate::{
    explore::{Cell, explore},
    word::NewWord,
};

const A: Key = Key::new([1, 0], false, 80, 6);
/// Alike but for its address.
const B: Key = Key::new([2, 0], false, 80, 6);
const OLD: Endpoint = Endpoint(10);
const NEW: Endpoint = Endpoint(11);
const OTHER: Endpoint = Endpoint(12);

/// What a packet may find under `wanted` in a bucket that has `before`, while the agent does `writes`.
fn found(before: &[(Key, Endpoint)], writes: impl Fn(&Bucket<Cell>), wanted: Key) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let states = explore(
        || {
            let bucket = Bucket::free(|| Cell::new(0));
            for (key, endpoint) in before {
                assert_eq!(set([&bucket, &bucket], *key, *endpoint), Ok(()));
            }
            bucket
        },
        |bucket, run| {
            let packet = || bucket.find(wanted).0;
            let agent = || {
                writes(bucket);
                0
            };
            run(&[&packet, &agent]);
        },
        |_, results| {
            found.insert(results[0]);
        },
    );
    println!("{states} states");
    found
}

fn put(bucket: &Bucket<Cell>, key: Key, endpoint: Endpoint) {
    // Neither is full.
    assert!(set([bucket, bucket], key, endpoint).is_ok());
}

#[test]
fn a_key_that_is_put_in_is_whole_or_not_there() {
    assert_eq!(found(&[], |bucket| put(bucket, A, NEW), A), [0, NEW.0].into());
    assert_eq!(found(&[(B, OTHER)], |bucket| put(bucket, A, NEW), A), [0, NEW.0].into());
    assert_eq!(found(&[(B, OTHER)], |bucket| put(bucket, A, NEW), B), [OTHER.0].into());
}

#[test]
fn a_key_that_is_set_anew_leads_to_either() {
    assert_eq!(found(&[(A, OLD)], |bucket| put(bucket, A, NEW), A), [OLD.0, NEW.0].into());
}

#[test]
fn a_key_that_is_removed_leads_to_its_own_or_nowhere() {
    assert_eq!(found(&[(A, OLD)], |bucket| remove([bucket, bucket], A), A), [0, OLD.0].into());
    assert_eq!(found(&[(A, OLD), (B, OTHER)], |bucket| remove([bucket, bucket], A), B), [OTHER.0].into());
}

/// What the grace period is for: it ends this packet's look before the slot is filled.
#[test]
fn a_slot_that_was_freed_has_to_wait() {
    let at_once = |bucket: &Bucket<Cell>| {
        remove([bucket, bucket], A);
        put(bucket, B, OTHER);
    };
    assert!(found(&[(A, OLD)], at_once, A).contains(&OTHER.0));
    // The packets that come after the grace period begin with the slot free.
    assert_eq!(found(&[], |bucket| put(bucket, B, OTHER), A), [0].into());
}
