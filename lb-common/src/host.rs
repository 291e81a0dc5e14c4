//! How to reach a real server at layer 2.

/// Map value of `HOSTS`. Index 0 does not exist.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// See [`Route`]; one word, so that MAC and link are never torn.
    pub route: u64,
    /// See [`Path`].
    pub path: u64,
    /// The real server's address (IPv4 in the first four bytes).
    pub address: [u8; 16],
    /// See [`flag`]; 0 means the index is not in use.
    pub flags: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<Host>() == 40);

pub mod flag {
    pub const USED: u32 = 1;
    pub const IPV6: u32 = 2;
}

/// `MAC 48 | link 16`: the MAC's bytes as they stand in a frame from the lowest byte up, and the index
/// in `LINKS` of the interface the frame leaves by. Link 0: not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Route(pub u64);

/// The link index that means "the director itself": pass the packet up.
pub const LOCAL: u16 = u16::MAX;

impl Route {
    pub const UNRESOLVED: Self = Self(0);

    pub const fn new(mac: [u8; 6], link: u16) -> Self {
        Self(super::link::mac_word(mac) | (link as u64) << 48)
    }

    #[inline(always)]
    pub const fn link(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The MAC, in the low 48 bits.
    #[inline(always)]
    pub const fn mac_word(self) -> u64 {
        self.0 & super::link::MAC_MASK
    }

    pub const fn mac(self) -> [u8; 6] {
        let b = self.0.to_le_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }
}

/// `outer tag 16 | inner tag 16 | MTU 16`: the VLAN tags the frame must carry (0: none), and the
/// egress MTU in bytes (IP packet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Path(pub u64);

impl Path {
    pub const fn new(tags: super::vlan::Tags, mtu: u16) -> Self {
        Self(tags.0 as u64 | (mtu as u64) << 32)
    }

    #[inline(always)]
    pub const fn tags(self) -> super::vlan::Tags {
        super::vlan::Tags(self.0 as u32)
    }

    #[inline(always)]
    pub const fn mtu(self) -> u16 {
        (self.0 >> 32) as u16
    }
}
