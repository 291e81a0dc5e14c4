//! The record of a destination: one real server of one service.

/// Destination ids are 20 bits; 0 does not exist.
pub const MAX_DESTS: u32 = 1 << 18;

/// Map value of `DESTS`, by destination id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dest {
    /// Index into `HOSTS`.
    pub host: u32,
    /// Index into `SERVICES`.
    pub service: u16,
    /// See [`flag`]; 0 means the id is not in use.
    pub flags: u16,
    /// Connection thresholds; 0: none, see [`crate::counters::is_overloaded`].
    pub upper: u32,
    pub lower: u32,
    /// The real server's address (IPv4 in the first four bytes) and port, network order.
    pub address: [u8; 16],
    pub port: [u8; 2],
    /// As configured, for listings; the scheduler's weight stands in the generation.
    pub weight: u16,
    /// The last weight that was not 0, which mh's table is filled by.
    pub last_weight: u16,
    pub pad: u16,
}

const _: () = assert!(size_of::<Dest>() == 40);

pub mod flag {
    /// The id belongs to a destination.
    pub const USED: u16 = 1;
    /// The destination was removed: its flows get nothing more, the id waits for them to end.
    pub const RETIRED: u16 = 2;
    pub const IPV6: u16 = 4;
    /// Its service was deleted: its flows go on, the id waits for them to end.
    pub const ORPHANED: u16 = 8;
    /// Its health keeps new connections away, those of persistent clients too; its flows go on.
    pub const OUT: u16 = 16;
}
