//! Where the fragments of a datagram go: with the first one, which alone has the ports.

/// Key of `FRAGMENTS`: what the fragments of one datagram have in common (RFC 791 section 3.2; RFC 8200
/// section 4.5, which leaves the protocol out).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Addresses as loaded; an IPv4 address is `[address, 0]`.
    pub source: [u64; 2],
    pub dest: [u64; 2],
    /// Identification, as loaded.
    pub id: u32,
    /// 0 for IPv6.
    pub protocol: u8,
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<Key>() == 40);

/// Value of `FRAGMENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Destination of the first fragment; 0: the first fragment was none of ours and was passed.
    pub dest: u32,
    /// Tick until which later fragments follow.
    pub until: u32,
    pub service: u16,
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<Place>() == 16);

/// Datagrams whose fragments are followed at a time, least recently used first out.
pub const PLACES: u32 = 16_384;

/// Seconds for which later fragments follow the first. Those of one datagram come within milliseconds, and
/// the sooner it is forgotten, the less can another datagram of the same identification be taken for it.
pub const LIFETIME: u32 = 2;
