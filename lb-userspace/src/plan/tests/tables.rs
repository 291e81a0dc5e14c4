//! The tables of sh, dh and mh.

use std::net::Ipv4Addr;

use lb_common::{
    generation::Member,
    hashed::{MH_TABLE, SH_TABLE},
};
use proptest::{collection::vec, prelude::*};

use crate::plan::tables::{Candidate, maglev, round_robin, source_hash};

/// Backend `n` is destination n and the nth of 10.0.0.0/8.
fn candidate(n: u32, weight: u16, last_weight: u16) -> Candidate {
    let address = Ipv4Addr::from_bits(0x0a00_0000 + n).into();
    Candidate { member: Member::new(n, weight), address, port: 3306, last_weight }
}

fn weighted(weights: &[u16]) -> Vec<Candidate> {
    (1..).zip(weights).map(|(n, weight)| candidate(n, *weight, *weight)).collect()
}

fn shares(table: &[u32], members: usize) -> Vec<usize> {
    (1..=members as u32).map(|dest| table.iter().filter(|entry| **entry == dest).count()).collect()
}

#[test]
fn sh_gives_runs_by_weight_and_one_entry_even_without() {
    let members: Vec<Member> = weighted(&[2, 0, 1]).iter().map(|candidate| candidate.member).collect();
    let table = source_hash(&members);
    assert_eq!(table.len(), SH_TABLE as usize);
    assert_eq!(table[..9], [1, 1, 0, 3, 1, 1, 0, 3, 1]);
    assert_eq!(round_robin(&members)[..7], [1, 0, 3, 1, 0, 3, 1]);
    assert!(source_hash(&[]).is_empty());
}

#[test]
fn mh_keeps_its_table_when_a_weight_becomes_0() {
    let before = maglev(&weighted(&[1, 2, 3]));
    let drained = [candidate(1, 1, 1), candidate(2, 0, 2), candidate(3, 3, 3)];
    let after = maglev(&drained);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(*after, if *before == 2 { 0 } else { *before });
    }
    // One that never had a weight has no entries.
    let new = [candidate(1, 1, 1), candidate(2, 2, 2), candidate(3, 3, 3), candidate(4, 0, 0)];
    assert_eq!(maglev(&new), before);
    assert!(maglev(&[candidate(1, 0, 0)]).is_empty());
}

/// The same of a hundred, and of as many as a service may have: four entries each of the 4,093.
#[test]
fn mh_moves_few_others_of_many() {
    for (count, most) in [(100, 6), (1024, 2)] {
        let all = weighted(&vec![1; count]);
        let before = maglev(&all);
        for gone in [0, count / 2, count - 1] {
            let mut rest = all.clone();
            rest.remove(gone);
            let own = gone as u32 + 1;
            let kept = before.iter().filter(|entry| **entry != own).count();
            let moved = before.iter().zip(maglev(&rest)).filter(|(b, a)| **b != own && *b != a).count();
            println!("{moved} of {kept} entries of others moved when one of {count} went");
            assert!(moved * 100 <= kept * most, "{moved} of {kept} others moved, of {count} backends");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn mh_gives_shares_by_weight(weights in vec(1..20u16, 1..12)) {
        let table = maglev(&weighted(&weights));
        prop_assert_eq!(table.len(), MH_TABLE as usize);
        let sum: u32 = weights.iter().copied().map(u32::from).sum();
        for (weight, share) in weights.iter().zip(shares(&table, weights.len())) {
            let ideal = f64::from(MH_TABLE) * f64::from(*weight) / f64::from(sum);
            // The last round may end early, by at most one run.
            prop_assert!((share as f64 - ideal).abs() <= 20.0, "{share} of {ideal}");
        }
    }

    /// The ideal is the share of the one that goes; Maglev moves a few more (section 3.4 of the paper).
    #[test]
    fn mh_moves_few_others_when_one_goes(count in 2..24usize, gone in any::<prop::sample::Index>()) {
        let all = weighted(&vec![1; count]);
        let gone = gone.index(count);
        let mut rest = all.clone();
        rest.remove(gone);
        let (before, after) = (maglev(&all), maglev(&rest));
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone as u32 + 1 && b != a).count();
        let kept = before.len() - before.len() / count;
        prop_assert!(moved * 100 <= kept * 12, "{moved} of {kept} others moved");
    }

    /// One that comes moves what one that goes moves, back again: few entries of the others, whatever the weights.
    #[test]
    fn mh_moves_few_others_with_any_weights(
        weights in vec(1..20u16, 3..24), one in any::<prop::sample::Index>()
    ) {
        let all = weighted(&weights);
        let one = one.index(weights.len());
        let mut rest = all.clone();
        rest.remove(one);
        let (with, without) = (maglev(&all), maglev(&rest));
        let own = one as u32 + 1;
        let kept = with.iter().filter(|entry| **entry != own).count();
        let moved = with.iter().zip(&without).filter(|(with, without)| **with != own && with != without).count();
        prop_assert!(moved * 100 <= kept * 12, "{moved} of {kept} others moved");
    }
}
