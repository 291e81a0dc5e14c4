//! Slot tables against the levels they are made of, for random weights: what the kernel reads from a
//! table is what it would compute.

use lb_common::generation::{HEADER_WORDS, Header, MAX_TABLE, Member, at};
use proptest::{collection::vec, prelude::*};

use crate::{
    model::{Scheduler, arbitrary::schedulers},
    plan::{compile, compile::step, rotation::Words, tables::candidates},
};

fn weights() -> impl Strategy<Value = Vec<u16>> {
    // Of one magnitude or of any, so that there are tables, long rotations and common divisors.
    let magnitude = prop_oneof![Just(8u16), Just(300), Just(u16::MAX)];
    (magnitude, 1..5u16, 1..12usize).prop_flat_map(|(most, step, count)| {
        vec((0..=most / step).prop_map(move |weight| weight * step), count)
    })
}

/// Those whose table is a rotation.
fn rotating() -> impl Strategy<Value = Scheduler> {
    schedulers().prop_filter("no table of hashes", |it| {
        !matches!(it, Scheduler::Sh(_) | Scheduler::Mh(_) | Scheduler::Dh)
    })
}

/// Ids from 1: 0 means nobody.
fn members(weights: &[u16]) -> Vec<Member> {
    (1..).zip(weights).map(|(id, weight)| Member::new(id, *weight)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_what_the_levels_give(scheduler in rotating(), weights in weights(), from in any::<u32>()) {
        let words = compile(scheduler, &candidates(&members(&weights))).expect("compiles");
        let header = Header::from_words([words[0], words[1]]);
        prop_assert_eq!(header.words(), [words[0], words[1]]);
        prop_assert_eq!(header.length() as usize, words.len());
        prop_assert!(header.length() <= u32::from(u16::MAX), "fits the published word");
        prop_assert_eq!(header.table, if header.period <= MAX_TABLE { header.period } else { 0 });
        prop_assert_eq!(header.period == 0, weights.iter().all(|weight| *weight == 0));
        if header.period != 0 {
            let computed = Header { table: 0, ..header };
            for position in (0..200).map(|n| from.wrapping_add(n) % header.period) {
                let dest = at(&Words(&words), 0, &header, position);
                prop_assert_eq!(dest, at(&Words(&words), 0, &computed, position), "position {}", position);
                prop_assert!(dest.is_some_and(|dest| weights[dest as usize - 1] != 0));
            }
        }
    }

    #[test]
    fn everybody_gets_the_share_of_their_weight(weights in vec(0..40u16, 1..10)) {
        let members = members(&weights);
        for (scheduler, share) in [(Scheduler::Wrr, None), (Scheduler::Rr, Some(1))] {
            let words = compile(scheduler, &candidates(&members)).expect("compiles");
            let header = Header::from_words([words[0], words[1]]);
            let mut served = vec![0u32; weights.len()];
            for position in 0..header.period {
                let dest = at(&Words(&words), 0, &header, position).expect("a destination");
                served[dest as usize - 1] += 1;
            }
            let step = step(&members);
            for (weight, served) in weights.iter().map(|w| u32::from(*w)).zip(served) {
                prop_assert_eq!(served, if weight == 0 { 0 } else { share.unwrap_or(weight / step) });
            }
        }
    }
}

/// The longest region there can be fits the published word's 16 bits.
#[test]
fn the_longest_region_has_a_length_of_16_bits() {
    // As many members and levels as possible, and the longest table: 1..=361 sum to 65,341.
    let members: Vec<Member> = (1..=361u16).map(|n| Member::new(u32::from(n), n)).collect();
    let words = compile(Scheduler::Wrr, &candidates(&members)).expect("compiles");
    let header = Header::from_words([words[0], words[1]]);
    assert_eq!((header.table, header.levels, header.members), (65_341, 361, 361));
    // And 8,192 entries to spread flows without an entry over.
    assert_eq!(words.len() as u32, HEADER_WORDS + 2 * 361 + 65_341u32.div_ceil(2) + 8192 / 2);
    assert!(u16::try_from(words.len()).is_ok());
}
