//! Where the hash puts structured keys: as evenly as random ones, and the two candidate buckets of a
//! key as if they had nothing to do with each other.

use std::collections::HashMap;

use lb_common::flow::candidates;

use crate::population::{NARROW, Random, WIDE, secrets};

const BUCKETS: u32 = 1 << 14;
/// As many keys as buckets: then a bucket is chosen by Poisson(1) many, if all is well.
const KEYS: u64 = BUCKETS as u64;

/// Sum of squares of how often each bucket is chosen; 2 a bucket when choices are random.
fn crowding(choices: impl Iterator<Item = u64>) -> f64 {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    let mut all = 0;
    for choice in choices {
        *counts.entry(choice).or_default() += 1;
        all += 1;
    }
    counts.values().map(|count| (count * (count - 1)) as f64).sum::<f64>() / all as f64
}

fn check(name: &str, hashes: &[u64]) {
    let pairs = || hashes.iter().map(|hash| candidates(*hash, BUCKETS - 1));
    for (which, choices) in [
        ("first", pairs().map(|(first, _)| first).collect::<Vec<_>>()),
        ("second", pairs().map(|(_, second)| second).collect()),
    ] {
        let crowding = crowding(choices.into_iter().map(u64::from));
        println!("{name}: {which} buckets {crowding:.2}");
        // 1 for random choices; a few hundredths off is chance.
        assert!(crowding < 1.5, "{name}: {which} buckets are crowded, {crowding:.2} times what chance gives");
    }
    // Two keys with a common bucket should rarely have the other in common too.
    let both = crowding(pairs().map(|(first, second)| u64::from(first) << 32 | u64::from(second)));
    println!("{name}: both {both:.4}");
    assert!(both < 0.002, "{name}: {both:.4} other keys have both buckets of a key");
    let same = pairs().filter(|(first, second)| first == second).count();
    println!("{name}: same {same}");
    assert!(same < 20, "{name}: {same} keys of {KEYS} have one bucket only");
}

#[test]
fn random_keys_for_comparison() {
    let mut random = Random(1);
    check("random", &(0..KEYS).map(|_| random.next()).collect::<Vec<_>>());
}

#[test]
fn narrow_keys() {
    for secret in secrets() {
        for (name, key) in NARROW {
            check(name, &(0..KEYS).map(|n| secret.mix(key(n).0)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn wide_keys() {
    for secret in secrets() {
        for (name, key) in WIDE {
            check(name, &(0..KEYS).map(|n| key(secret, n).fingerprint).collect::<Vec<_>>());
        }
    }
}
