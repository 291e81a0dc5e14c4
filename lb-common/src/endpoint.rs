//! Where clients connect, as the first look-up of a packet finds it.

pub mod table;

/// What the table has for a key, one word: `id 16 | service 16 | flags 16`.
///
/// Besides one entry for each endpoint there is one for each address that has any, under port 0 and
/// protocol 0, whose flags say which protocols: what a fragment without ports is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Endpoint(pub u64);

/// Endpoint id that is never given out.
pub const RESERVED_ID: u16 = u16::MAX;

pub mod flag {
    /// The endpoint takes new connections. Without it: a tombstone of a deleted service, which only
    /// serves the flows that are left.
    pub const OPEN: u16 = 1;
    /// A port-0 endpoint, which serves every port of its address, or a range of ports of it: its flows
    /// are told apart by the port too.
    pub const WILDCARD: u16 = 2;
    /// Of an address entry: it has a TCP, UDP, SCTP endpoint.
    pub const HAS_TCP: u16 = 4;
    pub const HAS_UDP: u16 = 8;
    pub const HAS_SCTP: u16 = 64;
    /// Its service has persistence.
    pub const PERSISTENT: u16 = 16;
    /// Of a port-0 endpoint: its address has port ranges of this protocol.
    pub const RANGED: u16 = 32;
    /// Its service has rules about where clients come from ([`crate::source`]).
    pub const RULED: u16 = 1 << 8;
}

/// Port ranges: `RANGES4` and `RANGES6` are tries of port prefixes, since the kernel has a bounded look-up
/// of the longest one (`kernel/bpf/lpm_trie.c`).
///
/// All ranges of an address and protocol share the id of its port-0 endpoint, which is there for that, though
/// not open, if no service has port 0. So a flow is found under that id whatever becomes of the ranges, and
/// a packet has two endpoints at most: its port's own, and a wide one.
pub mod range {
    /// Bits of a key before its port.
    pub const BITS4: u32 = 48;
    pub const BITS6: u32 = 176;

    /// Data of a key of `RANGES4`: address, protocol, and the port last, as they stand in the packet.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Data4 {
        pub address: u32,
        pub protocol: u8,
        pub pad: u8,
        pub port: u16,
    }

    const _: () = assert!(size_of::<Data4>() == 8);

    /// Data of a key of `RANGES6`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Data6 {
        pub address: [u64; 2],
        pub protocol: u8,
        pub pad: [u8; 5],
        pub port: u16,
    }

    const _: () = assert!(size_of::<Data6>() == 24);

    impl Data4 {
        #[inline(always)]
        pub const fn new(address: u32, port: u16, protocol: u8) -> Self {
            Self { address, protocol, pad: 0, port }
        }
    }

    impl Data6 {
        #[inline(always)]
        pub const fn new(address: [u64; 2], port: u16, protocol: u8) -> Self {
            Self { address, protocol, pad: [0; 5], port }
        }
    }
}

impl Endpoint {
    pub const fn new(id: u16, service: u16, flags: u16) -> Self {
        Self(id as u64 | (service as u64) << 16 | (flags as u64) << 32)
    }

    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn service(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    pub const fn has(self, flag: u16) -> bool {
        self.flags() & flag != 0
    }
}

/// The cheap check before the table: two bits for each 16-bit hash of an address,
/// "some endpoint may be here" and "some port-0 endpoint may be here".
pub mod filter {
    /// 64-bit words in the filter.
    pub const WORDS: u32 = 1 << 11;
    pub const ANY: u64 = 1;
    pub const WILDCARD: u64 = 2;

    /// The address as two words: an IPv4 address is `[address, 0]`.
    #[inline(always)]
    const fn hash(address: [u64; 2]) -> u32 {
        let x = address[0] ^ address[1].rotate_left(31);
        (x ^ x >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(48) as u32
    }

    /// Which word, and how far its two bits are shifted.
    #[inline(always)]
    pub const fn position(address: [u64; 2]) -> (u32, u32) {
        let hash = hash(address);
        (hash >> 5, (hash & 31) * 2)
    }
}
