//! Where in the arena a new generation goes: beside everything that is published now. What a plan
//! replaces is free for the next one, because applying a plan ends with an RCU grace period.

use std::collections::BTreeMap;

use lb_common::{
    generation::{HEADER_WORDS, MAX_TABLE, PIECE_WORDS, REGION_AT},
    hashed::{MH_TABLE, SH_TABLE},
};

use super::spread::entries;
use crate::model::{Limits, Scheduler, Service};

/// Words of the arena, at least: 16 backends for each of 4,096 services twice, as all of them may change at once, and
/// room for 20 of the longest rotation tables. And so many for each destination: twice its share of a generation.
const WORDS: u32 = 1 << 21;
const WORDS_EACH: u32 = 24;
/// Of the longest rotation tables, where services are so many, or their tables so long (mh's), that more is needed.
const ROTATIONS: u64 = 20 * MAX_TABLE as u64 / 2;

/// How many words the arena gets: for the limits, and for twice what the generations of `services` take, as all of
/// them may change at once.
pub fn arena_words(limits: Limits, services: &[Service]) -> u32 {
    let wanted = services.iter().map(generation_words).sum::<u64>() * 2 + ROTATIONS;
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let words = WORDS.max(limits.destinations.saturating_mul(WORDS_EACH)).max(wanted);
    words.checked_next_multiple_of(PIECE_WORDS).unwrap_or(u32::MAX - u32::MAX % PIECE_WORDS)
}

/// The words that one generation takes; of wrr without the rotation's table, whose length is the weights'.
pub(super) fn generation_words(service: &Service) -> u64 {
    let members = service.backends.len();
    let table = match service.scheduler {
        Scheduler::Mh(_) => MH_TABLE as usize,
        Scheduler::Sh(_) | Scheduler::Dh => SH_TABLE as usize,
        _ => members + entries(members),
    };
    // Members, and levels of which there are no more.
    let words = u64::from(HEADER_WORDS) + 2 * members as u64 + table.div_ceil(2) as u64;
    words.next_multiple_of(PIECE_WORDS.into())
}

/// The arena's free stretches, in pieces, of which each region takes whole ones, from [`REGION_AT`] on: first one and
/// how many. They are few: what is published lies close together.
pub struct Arena {
    gaps: BTreeMap<u32, u32>,
}

impl Arena {
    /// An arena of `size` words, of which `published` (offset, length) are taken.
    pub fn new(size: u32, published: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let published = published.into_iter().filter(|(_, length)| *length != 0);
        let pieces = |(offset, length): (u32, u32)| {
            let first = offset.saturating_sub(REGION_AT) / PIECE_WORDS;
            (first, offset.saturating_add(length).saturating_sub(REGION_AT).div_ceil(PIECE_WORDS) - first)
        };
        let mut taken: Vec<(u32, u32)> = published.map(pieces).collect();
        taken.sort_unstable();
        let size = size.saturating_sub(REGION_AT) / PIECE_WORDS;
        let (mut gaps, mut end) = (BTreeMap::new(), 0);
        for (start, length) in taken.into_iter().chain([(size, 0)]) {
            let start = start.min(size);
            if start > end {
                gaps.insert(end, start - end);
            }
            end = end.max(start.saturating_add(length));
        }
        Self { gaps }
    }

    /// Where the lowest gap of `length` words is.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let wanted = length.div_ceil(PIECE_WORDS);
        let (first, gap) = self.gaps.iter().find(|(_, gap)| **gap >= wanted).map(|(f, g)| (*f, *g))?;
        self.gaps.remove(&first);
        if gap > wanted {
            self.gaps.insert(first + wanted, gap - wanted);
        }
        Some(first * PIECE_WORDS + REGION_AT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_word_is_given_once_and_the_lowest_place_that_fits(
            taken in prop::collection::vec((0..100 * PIECE_WORDS, 0..20 * PIECE_WORDS), 0..6),
            wanted in prop::collection::vec(1..30 * PIECE_WORDS, 1..12),
        ) {
            let mut words = [false; 100 * PIECE_WORDS as usize];
            let mark = |words: &mut [bool], start: u32, length: u32| {
                words.iter_mut().skip(start as usize).take(length as usize).for_each(|word| *word = true);
            };
            taken.iter().for_each(|(start, length)| mark(&mut words, *start, *length));
            let mut arena = Arena::new(100 * PIECE_WORDS, taken);
            for length in wanted {
                let place = |at: &usize| {
                    let place = words.get(*at..*at + length.next_multiple_of(PIECE_WORDS) as usize);
                    place.is_some_and(|place| !place.contains(&true))
                };
                let lowest = (REGION_AT as usize..words.len()).step_by(PIECE_WORDS as usize).find(place);
                let given = arena.allocate(length);
                prop_assert_eq!(given.map(|offset| offset as usize), lowest);
                given.inspect(|offset| mark(&mut words, *offset, length));
            }
        }
    }

    #[test]
    fn gaps_are_filled_lowest_first_and_nothing_overlaps() {
        let at = |pieces: u32| pieces * PIECE_WORDS + REGION_AT;
        let mut arena = Arena::new(at(100), [(at(10), 10 * PIECE_WORDS), (at(40), 5 * PIECE_WORDS - 3)]);
        assert_eq!(arena.allocate(10 * PIECE_WORDS), Some(at(0)));
        assert_eq!(arena.allocate(15 * PIECE_WORDS - 1), Some(at(20)));
        assert_eq!(arena.allocate(5 * PIECE_WORDS + 1), Some(at(45)));
        assert_eq!(arena.allocate(5 * PIECE_WORDS), Some(at(35)));
        assert_eq!(arena.allocate(50 * PIECE_WORDS), None);
        assert_eq!(arena.allocate(49 * PIECE_WORDS), Some(at(51)));
    }
}
