//! A flow's value word: where it goes, its state, and until when.
//!
//! `destination 20 | state 4 | flags 8 | expiry 32`, low bits first. The word is also the slot's lock:
//! see `bucket` for the protocol.

use crate::{tcp::State, tick::Tick};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Value(pub u64);

/// Bits of a destination id.
pub const DEST_BITS: u32 = 20;
const DEST_MASK: u64 = (1 << DEST_BITS) - 1;
const STATE_SHIFT: u32 = DEST_BITS;
const FLAGS_SHIFT: u32 = 24;
const EXPIRY_SHIFT: u32 = 32;
/// The state that means "locked".
const LOCKED_STATE: u8 = 15;

/// Flag bits of a value.
pub mod flag {
    /// Placed by hash because the table was full or the service under a flood.
    pub const HASHED: u8 = 0x01;
    /// Counted by a persistence template (reserved for the next schema).
    pub const CONTROLLED: u8 = 0x02;
}

impl Value {
    /// No flow. Destination 0 does not exist, so no live value equals it.
    pub const FREE: Self = Self(0);
    /// A CPU is writing the slot; gone within the same run of the program.
    pub const LOCKED: Self = Self((LOCKED_STATE as u64) << STATE_SHIFT);
    /// The agent is freeing the slot. Left behind only by an agent that died in between: the next
    /// one frees it.
    pub const LOCKED_BY_AGENT: Self = Self(Self::LOCKED.0 | 1);

    #[inline(always)]
    pub const fn new(dest: u32, state: State, flags: u8, expiry: Tick) -> Self {
        Self(
            dest as u64 & DEST_MASK
                | (state.0 as u64 & 15) << STATE_SHIFT
                | (flags as u64) << FLAGS_SHIFT
                | (expiry.0 as u64) << EXPIRY_SHIFT,
        )
    }

    #[inline(always)]
    pub const fn dest(self) -> u32 {
        (self.0 & DEST_MASK) as u32
    }

    #[inline(always)]
    pub const fn state(self) -> State {
        State((self.0 >> STATE_SHIFT) as u8 & 15)
    }

    #[inline(always)]
    pub const fn flags(self) -> u8 {
        (self.0 >> FLAGS_SHIFT) as u8
    }

    #[inline(always)]
    pub const fn expiry(self) -> Tick {
        Tick((self.0 >> EXPIRY_SHIFT) as u32)
    }

    #[inline(always)]
    pub const fn is_locked(self) -> bool {
        self.state().0 == LOCKED_STATE
    }

    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 == Self::FREE.0
    }

    /// Neither free nor locked; expired or not.
    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        !self.is_free() && !self.is_locked()
    }

    /// The same flow in `state` until `expiry`.
    #[inline(always)]
    pub const fn moved_to(self, state: State, expiry: Tick) -> Self {
        Self::new(self.dest(), state, self.flags(), expiry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap() {
        let value = Value::new(0xf_ffff, State::UDP, 0xa5, Tick(0xdead_beef));
        assert_eq!(value.dest(), 0xf_ffff);
        assert_eq!(value.state(), State::UDP);
        assert_eq!(value.flags(), 0xa5);
        assert_eq!(value.expiry(), Tick(0xdead_beef));
        assert!(value.is_flow());
    }

    #[test]
    fn the_two_locks_differ_and_are_no_flows() {
        assert_ne!(Value::LOCKED, Value::LOCKED_BY_AGENT);
        for lock in [Value::LOCKED, Value::LOCKED_BY_AGENT] {
            assert!(lock.is_locked() && !lock.is_flow() && !lock.is_free());
        }
    }
}
