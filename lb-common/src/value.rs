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
pub(crate) const LOCKED_STATE: u8 = 15;
/// A lock's expiry lies so far ahead (ticks) that no lock ever looks expired.
const LOCK_TICKS: u32 = 1 << 30;

/// Flag bits of a value.
pub mod flag {
    /// Placed by hash because the table was full or the service under a flood.
    pub const HASHED: u8 = 0x01;
    /// Its destination came from a persistence template, or made one.
    pub const CONTROLLED: u8 = 0x02;
    /// No flow but a persistence template: see [`crate::template`].
    pub const TEMPLATE: u8 = 0x04;
    /// A template that has run out once, and was armed again for the connections it controls.
    pub const ARMED_AGAIN: u8 = 0x08;
}

impl Value {
    /// No flow: destination 0, state NONE, which no stored flow has.
    pub const FREE: Self = Self(0);

    /// A CPU is writing the slot; gone within the same run of the program.
    #[inline(always)]
    pub const fn locked(now: Tick) -> Self {
        Self::new(0, State(LOCKED_STATE), 0, now.after(LOCK_TICKS))
    }

    /// The agent is freeing the slot. Left behind only by an agent that died in between: the next
    /// one frees it.
    #[inline(always)]
    pub const fn locked_by_agent(now: Tick) -> Self {
        Self::new(1, State(LOCKED_STATE), 0, now.after(LOCK_TICKS))
    }

    pub const fn is_locked_by_agent(self) -> bool {
        self.is_locked() && self.dest() == 1
    }

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
        // One test for the verifier to follow.
        const NOT: u32 = 1 << LOCKED_STATE | 1 << State::NONE.0;
        NOT >> self.state().0 & 1 == 0
    }

    #[inline(always)]
    pub const fn is_template(self) -> bool {
        self.flags() & flag::TEMPLATE != 0
    }

    /// Its client has begun a handshake and, as far as can be seen, never completed it. Of a flow that was placed by
    /// hash nobody knows: it may be stored in the middle, and rest in the same state.
    #[inline(always)]
    pub const fn is_incomplete(self) -> bool {
        self.state().is_begun() && self.flags() & (flag::HASHED | flag::TEMPLATE) == 0
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
    fn a_handshake_is_incomplete_until_it_is_known_to_be_complete() {
        let value = |state, flags| Value::new(1, state, flags, Tick(0));
        assert!(value(State::SYN_RECV, 0).is_incomplete());
        assert!(value(State::SYN_RECV, flag::CONTROLLED).is_incomplete());
        assert!(!value(State::SYN_RECV, flag::HASHED).is_incomplete());
        assert!(!value(State::SYN_RECV, flag::TEMPLATE).is_incomplete());
        assert!(!value(State::ESTABLISHED, 0).is_incomplete() && !value(State::UDP, 0).is_incomplete());
    }

    #[test]
    fn the_two_locks_differ_never_expire_and_are_no_flows() {
        for now in [Tick(0), Tick(u32::MAX)] {
            assert_ne!(Value::locked(now), Value::locked_by_agent(now));
            assert!(Value::locked_by_agent(now).is_locked_by_agent());
            for lock in [Value::locked(now), Value::locked_by_agent(now)] {
                assert!(lock.is_locked() && !lock.is_flow() && !lock.is_free());
                assert!(!lock.expiry().is_past(now.after(1 << 29)));
            }
        }
        assert!(!Value::FREE.is_flow());
    }
}
