//! The tables of sh, dh and mh, filled as IPVS fills them (`ip_vs_sh.c`, `ip_vs_dh.c`, `ip_vs_mh.c`).
//!
//! A member keeps its entries while it takes no connections; in the table of a generation they are 0 then.

use std::net::IpAddr;

use lb_common::{
    generation::Member,
    hashed::{MH_KEYS, MH_TABLE, SH_TABLE, fold, key, siphash},
};

use super::snapshot::address_words;

/// A member as the tables need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub member: Member,
    pub address: IpAddr,
    pub port: u16,
    /// The last weight that was not 0: mh's table does not change when a weight becomes 0.
    pub last_weight: u16,
}

/// sh: each member in walk order gets as many entries in a row as it has weight, one even without any;
/// round and round until all are given.
pub fn source_hash(members: &[Member]) -> Vec<u32> {
    let runs = members.iter().map(|member| (shown(*member), usize::from(member.weight()).max(1)));
    filled(runs.collect(), SH_TABLE)
}

/// dh: the members one after the other, whatever they weigh.
pub fn round_robin(members: &[Member]) -> Vec<u32> {
    filled(members.iter().map(|member| (shown(*member), 1)).collect(), SH_TABLE)
}

fn filled(runs: Vec<(u32, usize)>, size: u32) -> Vec<u32> {
    let round = runs.iter().flat_map(|(dest, length)| std::iter::repeat_n(*dest, *length));
    round.cycle().take(size as usize).collect()
}

/// mh: Maglev's permutations (Eisenbud et al., NSDI 2016, section 3.4), each member taking as many turns
/// in a row as its weight gives it.
pub fn maglev(candidates: &[Candidate]) -> Vec<u32> {
    let mut permutations = permutations(candidates);
    if permutations.iter().all(|permutation| permutation.turns == 0) {
        return Vec::new();
    }
    let mut table: Vec<Option<u32>> = vec![None; MH_TABLE as usize];
    let mut left = table.len();
    'full: loop {
        for permutation in permutations.iter_mut() {
            for _ in 0..permutation.turns {
                while table[permutation.at as usize].is_some() {
                    permutation.at = (permutation.at + permutation.skip) % MH_TABLE;
                }
                table[permutation.at as usize] = Some(permutation.dest);
                left -= 1;
                if left == 0 {
                    break 'full;
                }
            }
        }
    }
    table.into_iter().map(Option::unwrap_or_default).collect()
}

/// A member's way through the entries.
struct Permutation {
    dest: u32,
    at: u32,
    skip: u32,
    turns: u32,
}

fn permutations(candidates: &[Candidate]) -> Vec<Permutation> {
    let weights = || candidates.iter().map(|candidate| u32::from(candidate.last_weight));
    let divisor = weights().fold(0, gcd).max(1);
    // Turns stay below 64, however large the weights are.
    let shift =
        (weights().max().unwrap_or(0) / divisor).checked_ilog2().map_or(0, |log| (log + 1).saturating_sub(6));
    candidates
        .iter()
        .map(|candidate| {
            let key = key(fold(address_words(candidate.address)), candidate.port);
            let last = u32::from(candidate.last_weight);
            Permutation {
                dest: shown(candidate.member),
                at: siphash(MH_KEYS[0], key) % MH_TABLE,
                skip: siphash(MH_KEYS[1], key) % (MH_TABLE - 1) + 1,
                turns: ((last / divisor) >> shift).max(u32::from(last != 0)),
            }
        })
        .collect()
}

pub fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Members of which only rotations are to be made.
#[cfg(test)]
pub fn candidates(members: &[Member]) -> Vec<Candidate> {
    let candidate = |member: &Member| Candidate {
        member: *member,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 0,
        last_weight: member.weight(),
    };
    members.iter().map(candidate).collect()
}

fn shown(member: Member) -> u32 {
    if member.weight() == 0 { 0 } else { member.dest() }
}
