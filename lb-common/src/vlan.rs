//! VLAN tags of a frame: none, one, or two (QinQ).

/// `outer tag 16 | inner tag 16`, each as [`tag`] makes it, 0 for one that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tags(pub u32);

/// VLAN id bits of a TCI.
pub const VID_MASK: u16 = 0x0fff;

/// Set in a tag of 802.1ad (0x88a8, a service tag); without it the tag is 802.1Q's (0x8100).
pub const SERVICE: u16 = 1 << 12;

/// A tag of a [`Tags`]. One with VLAN id 0 carries a priority only and counts as none.
#[inline(always)]
pub const fn tag(is_service: bool, vid: u16) -> u16 {
    if is_service && vid != 0 { vid | SERVICE } else { vid }
}

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
