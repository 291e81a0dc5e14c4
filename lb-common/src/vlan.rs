//! 802.1Q tags of a frame: none, one, or two (QinQ).

/// `outer VLAN id 16 | inner VLAN id 16`, 0 for a tag that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tags(pub u32);

/// VLAN id bits of a TCI.
pub const VID_MASK: u16 = 0x0fff;

impl Tags {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(outer: u16, inner: u16) -> Self {
        Self(outer as u32 | (inner as u32) << 16)
    }

    #[inline(always)]
    pub const fn outer(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn inner(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// How many tags there are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.outer() != 0) as u32 + (self.inner() != 0) as u32
    }
}
