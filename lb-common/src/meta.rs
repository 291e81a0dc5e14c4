//! What must outlive every program and agent: the tables' secret, their clock and their sizes.

use crate::{flow::Secret, generation::PIECE_WORDS};

/// Value of the `meta` map, pinned beside (not below) the schema's directory, so that an agent of
/// another version can say what it found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// [`crate::SCHEMA_VERSION`] of the maps.
    pub schema: u32,
    /// CONFIG_HZ when the tables were made; ticks are in it.
    pub hz: u32,
    pub secret_a: u64,
    pub secret_b: u64,
    /// Buckets of the flow tables, powers of two.
    pub narrow_buckets: u32,
    pub wide_buckets: u32,
    /// Entries of `SERVICES` and `DESTS` (and what belongs to them).
    pub services: u32,
    pub dests: u32,
    /// Words of `ARENA`, whole pieces.
    pub arena: u32,
    /// Endpoint ids; sizes of `ENDPOINTS`, `RANGES4` and `RANGES6` follow from it.
    pub endpoints: u32,
    /// How often each flow table was replaced by one of another size: part of its pin's name.
    pub narrow_generation: u32,
    pub wide_generation: u32,
    /// Buckets of the table before, of the generation less one, while its flows are moved; otherwise 0.
    pub old_narrow_buckets: u32,
    pub old_wide_buckets: u32,
}

const _: () = assert!(size_of::<Meta>() == 64);

impl Meta {
    pub const fn secret(&self) -> Secret {
        Secret { a: self.secret_a, b: self.secret_b }
    }

    /// Entries of `ARENA`.
    pub const fn pieces(&self) -> u32 {
        self.arena / PIECE_WORDS
    }

    /// Whether flows are moved from tables of another size.
    pub const fn is_migrating(&self) -> bool {
        self.old_narrow_buckets != 0 || self.old_wide_buckets != 0
    }

    /// The beginning of a move to tables of so many buckets. None is under way.
    pub const fn resized(self, narrow_buckets: u32, wide_buckets: u32) -> Self {
        let mut new = self;
        if narrow_buckets != self.narrow_buckets {
            new.narrow_generation = self.narrow_generation.wrapping_add(1);
            new.old_narrow_buckets = self.narrow_buckets;
            new.narrow_buckets = narrow_buckets;
        }
        if wide_buckets != self.wide_buckets {
            new.wide_generation = self.wide_generation.wrapping_add(1);
            new.old_wide_buckets = self.wide_buckets;
            new.wide_buckets = wide_buckets;
        }
        new
    }

    /// The end of that move.
    pub const fn settled(self) -> Self {
        Self { old_narrow_buckets: 0, old_wide_buckets: 0, ..self }
    }

    /// Ticks in one second.
    pub const fn tick_rate(&self) -> u32 {
        crate::tick::ticks(1, self.hz)
    }
}

/// Buckets for a rated capacity of `flows`: four slots a bucket, a quarter of them used.
pub const fn buckets(flows: u32) -> u32 {
    let flows = if flows < 16 { 16 } else { flows };
    flows.next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_whose_size_changes_gets_another_generation() {
        let meta = Meta { narrow_buckets: 64, wide_buckets: 16, narrow_generation: 3, ..Meta::default() };
        let moving = meta.resized(128, 16);
        assert!(!meta.is_migrating() && moving.is_migrating());
        assert_eq!(
            (moving.narrow_generation, moving.narrow_buckets, moving.old_narrow_buckets),
            (4, 128, 64)
        );
        assert_eq!((moving.wide_generation, moving.wide_buckets, moving.old_wide_buckets), (0, 16, 0));
        let settled = moving.settled();
        assert_eq!(
            (settled.is_migrating(), settled.narrow_buckets, settled.narrow_generation),
            (false, 128, 4)
        );
        assert_eq!(meta.resized(64, 16), meta);
    }
}
