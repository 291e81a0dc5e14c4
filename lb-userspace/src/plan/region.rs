//! Where in the arena a new generation goes: beside everything that is published now. What a plan
//! replaces is free for the next one, because applying a plan ends with an RCU grace period.

use std::collections::BTreeMap;

/// The arena's occupied stretches, by offset.
pub struct Arena {
    taken: BTreeMap<u32, u32>,
    size: u32,
}

impl Arena {
    pub fn new(size: u32, published: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self { taken: published.into_iter().filter(|(_, length)| *length != 0).collect(), size }
    }

    /// The lowest gap of `length` words.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let mut offset = 0;
        for (start, taken) in &self.taken {
            if start.saturating_sub(offset) >= length {
                break;
            }
            offset = offset.max(start + taken);
        }
        if self.size.saturating_sub(offset) < length {
            return None;
        }
        self.taken.insert(offset, length);
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_lowest_first_and_nothing_overlaps() {
        let mut arena = Arena::new(100, [(10, 10), (40, 5)]);
        assert_eq!(arena.allocate(10), Some(0));
        assert_eq!(arena.allocate(15), Some(20));
        assert_eq!(arena.allocate(6), Some(45));
        assert_eq!(arena.allocate(5), Some(35));
        assert_eq!(arena.allocate(50), None);
        assert_eq!(arena.allocate(49), Some(51));
    }
}
