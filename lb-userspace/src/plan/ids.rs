//! Giving out ids: the lowest that is free.

use std::collections::BTreeMap;

/// Ids in use, and the range they come from.
pub struct Ids<'a, K, V> {
    used: &'a BTreeMap<K, V>,
    next: u32,
    end: u32,
}

impl<'a, K: Ord + Copy + TryFrom<u32>, V> Ids<'a, K, V> {
    /// Ids from 1 up to and without `end`.
    pub fn new(used: &'a BTreeMap<K, V>, end: u32) -> Self {
        Self { used, next: 1, end }
    }

    /// The next free id; none when all are taken.
    pub fn give(&mut self) -> Option<K> {
        while self.next < self.end {
            let id = K::try_from(self.next).ok()?;
            self.next += 1;
            if !self.used.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }
}
