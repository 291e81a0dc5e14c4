//! A packet's outline in one word: for the functions that the kernel verifies by themselves (see `flow`), which take
//! numbers, and because the stack is short.

use lb_common::protocol;

use super::{Packet, Part};

/// `offset of the IP header 8 | of the transport header 16 | protocol 8 | part 2 | is IPv6 1 | 0 5 | flags 8 |
/// IP total length 16`. The transport header of a later fragment is what it has instead.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Outline(pub u64);

impl Outline {
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self(
            packet.l3 as u64
                | (packet.l4() as u64) << 8
                | (packet.protocol() as u64) << 24
                | (packet.part as u64) << 32
                | (packet.is_ipv6 as u64) << 34
                | (packet.flags() as u64) << 40
                | (packet.bytes as u64) << 48,
        )
    }

    #[inline(always)]
    pub fn l3(self) -> usize {
        self.0 as usize & 0x1f
    }

    #[inline(always)]
    pub fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0x3ff
    }

    #[inline(always)]
    pub fn protocol(self) -> u8 {
        (self.0 >> 24) as u8
    }

    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        self.protocol() == protocol::TCP
    }

    #[inline(always)]
    pub fn is_sctp(self) -> bool {
        self.protocol() == protocol::SCTP
    }

    #[inline(always)]
    pub fn is_ipv6(self) -> bool {
        self.0 >> 34 & 1 != 0
    }

    /// Nothing is answered with an error about an error, or about a fragment that is not the first (RFC 1122
    /// section 3.2.2).
    #[inline(always)]
    pub fn may_be_answered(self) -> bool {
        const ANSWERED: u64 = 1 << Part::Whole as u64 | 1 << Part::First as u64;
        ANSWERED >> (self.0 >> 32 & 3) & 1 != 0
    }

    #[inline(always)]
    pub fn flags(self) -> u8 {
        (self.0 >> 40) as u8
    }

    #[cfg(feature = "trace")]
    #[inline(always)]
    pub fn is(self, part: Part) -> bool {
        self.0 >> 32 & 3 == part as u64
    }

    /// IP total length.
    #[cfg(feature = "trace")]
    #[inline(always)]
    pub fn bytes(self) -> u32 {
        (self.0 >> 48) as u32
    }

    /// Bytes from the transport header on.
    #[inline(always)]
    pub fn payload(self) -> u32 {
        ((self.0 >> 48) as u32).wrapping_sub((self.l4() - self.l3()) as u32)
    }
}
