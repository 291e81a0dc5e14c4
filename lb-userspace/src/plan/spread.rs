//! Where flows without an entry go: a table of a service's members that take connections, filled by a ring of hashes
//! (Karger et al., STOC 1997). When a member comes or goes, the entries that are its own change, and no other.

use lb_common::hashed::{fold, key, siphash};

use super::{snapshot::address_words, tables::Candidate};

/// Points on the ring of a member of average weight: shares differ by a fifth or so.
const POINTS: u64 = 32;
/// Entries, by how many members there may be: eight for each, at least. Few sizes, as flows move when it changes.
const SIZES: [(usize, usize); 3] = [(32, 256), (256, 2048), (1024, 8192)];

/// The table's destinations; empty if no member takes connections.
pub fn spread(candidates: &[Candidate]) -> Vec<u32> {
    let eligible = || candidates.iter().filter(|candidate| candidate.member.weight() != 0);
    let count = eligible().count();
    let ring = ring(eligible(), count as u64);
    if ring.is_empty() {
        return Vec::new();
    }
    let entries = entries(count);
    // Each entry is the next member's on the ring.
    let mut at = 0;
    let mut table = Vec::with_capacity(entries);
    for entry in 0..entries {
        let place = (entry as u64 * (1 << 32) / entries as u64) as u32;
        while ring.get(at).is_some_and(|(point, _)| *point < place) {
            at += 1;
        }
        table.push(ring.get(at).unwrap_or(&ring[0]).1);
    }
    table
}

/// Entries of the table of so many members.
pub fn entries(count: usize) -> usize {
    SIZES.iter().find(|(most, _)| count <= *most).map_or(8192, |(_, entries)| *entries)
}

/// Points and whose they are, in order.
fn ring<'a>(eligible: impl Iterator<Item = &'a Candidate> + Clone, count: u64) -> Vec<(u32, u32)> {
    let weight = |candidate: &Candidate| u64::from(candidate.member.weight());
    let sum: u64 = eligible.clone().map(weight).sum();
    let mut ring: Vec<(u32, u32)> = eligible
        .flat_map(|candidate| {
            let points = (POINTS * count * weight(candidate) / sum).max(1);
            let name = key(fold(address_words(candidate.address)), candidate.port);
            // The points of a member are the same whatever others there are; more weight adds some.
            (0..points).map(move |point| (siphash(point, name), candidate.member.dest()))
        })
        .collect();
    ring.sort_unstable();
    ring
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::generation::Member;

    use super::*;

    fn members(weights: &[u16]) -> Vec<Candidate> {
        let candidate = |(number, weight): (usize, &u16)| Candidate {
            member: Member::new(number as u32 + 1, *weight),
            address: [10, 0, (number / 250) as u8, (number % 250) as u8].into(),
            port: 80,
            last_weight: *weight,
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    fn shares(table: &[u32]) -> BTreeMap<u32, usize> {
        table.iter().fold(BTreeMap::new(), |mut shares, dest| {
            *shares.entry(*dest).or_default() += 1;
            shares
        })
    }

    #[test]
    fn every_member_has_a_share_for_its_weight() {
        for count in [1, 2, 3, 16, 100, 1024] {
            let table = spread(&members(&vec![1; count]));
            let shares = shares(&table);
            let fair = table.len() / count;
            // A member may have none by chance: one in hundreds.
            assert!(shares.len() >= count - count / 200, "{} of {count}", shares.len());
            let most = shares.values().max().copied().unwrap_or(0);
            assert!(most <= fair * 5 / 2 + 1, "{count}: {most} for {fair}");
        }
        let shares = shares(&spread(&members(&[3, 1, 0])));
        assert!(shares[&1] > shares[&2] && !shares.contains_key(&3), "{shares:?}");
        assert!(spread(&members(&[0, 0])).is_empty() && spread(&[]).is_empty());
    }

    #[test]
    fn who_comes_takes_from_each_and_who_goes_leaves_to_each() {
        for count in [2, 5, 9, 32, 100, 256, 1000] {
            let all = members(&vec![1; count]);
            let (more, fewer) = (spread(&all), spread(&all[..count - 1]));
            let size = more.len();
            let moved = (0..size).filter(|entry| more[*entry] != fewer[*entry]);
            let (mut mine, mut others) = (0, 0);
            for entry in moved {
                if more[entry] == count as u32 { mine += 1 } else { others += 1 }
            }
            assert_eq!(others, 0, "{count} members: {mine} entries are the new one's");
            assert!(mine > 0 && mine <= 3 * size / count, "{count}: {mine} of {size}");
        }
    }
}
