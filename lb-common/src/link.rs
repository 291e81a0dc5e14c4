//! The director's own interfaces: what a frame must be addressed to, and how one leaves.

/// Map value of `LINKS`. Index 0 does not exist; the devmap has the same indices.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// MAC in the low 48 bits (see [`mac_word`]), [`flag`]s above.
    pub mac: u64,
    pub ifindex: u32,
    /// Source of ICMP errors built in XDP, network order; 0: none.
    pub ipv4: [u8; 4],
    /// Source of ICMPv6 errors; all zero: none.
    pub ipv6: [u8; 16],
    /// The device's name, zero-padded (IFNAMSIZ).
    pub name: [u8; 16],
}

const _: () = assert!(size_of::<Link>() == 48);

/// How many links there may be.
pub const MAX_LINKS: u32 = 64;

pub const MAC_MASK: u64 = 0xffff_ffff_ffff;

/// Flags in the high 16 bits of [`Link::mac`].
pub mod flag {
    /// Frames without a VLAN tag are ours to look at.
    pub const UNTAGGED: u64 = 1 << 48;
    /// What comes in may be several packets merged into one (generic mode runs behind GRO): longer than the
    /// MTU of the way out says nothing then, as the kernel takes them apart again.
    pub const MERGES: u64 = 1 << 49;
}

/// A MAC address as the word that a little-endian load of its six bytes gives.
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

/// Key of `TAGS`: a frame that comes in on `link` with these tags is ours to look at.
pub const fn tag_key(link: u16, tags: super::vlan::Tags) -> u64 {
    (link as u64) << 32 | tags.0 as u64
}
