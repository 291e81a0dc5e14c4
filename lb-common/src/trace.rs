//! What the build of the program for `lb trace` reports: of which packets, and what of each. Its maps are a program's
//! own, never pinned, so their layout is no part of [`SCHEMA_VERSION`](crate::SCHEMA_VERSION).

use crate::{record::Record, verdict::Verdict};

/// Traces that can run at once.
pub const SLOTS: usize = 4;
/// Bytes of a frame that can be reported: an Ethernet frame with two tags and 1,500 bytes in it, in 64-bit words.
pub const MAX_SNAP: usize = 1528;
/// Bytes of a program's ring buffer.
pub const RING: usize = 1 << 20;

/// An address prefix. All 0: every address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// As loaded from a packet; an IPv4 address is `[address, 0]`.
    pub address: [u64; 2],
    pub mask: [u64; 2],
}

impl Network {
    #[inline(always)]
    fn has(&self, address: [u64; 2]) -> bool {
        (address[0] & self.mask[0] == self.address[0]) & (address[1] & self.mask[1] == self.address[1])
    }
}

/// What one trace wants. 0 in a field of what packets have: any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub source: Network,
    pub dest: Network,
    /// Bits of verdicts.
    pub verdicts: u64,
    /// The tick at which it ends, unless the agent says otherwise before: an agent that dies leaves nobody tracing.
    pub until: u32,
    /// Whether it is in use.
    pub on: u32,
    /// A packet is taken whose random number is not above; [`u32::MAX`]: each is.
    pub sample: u32,
    /// Packets that are reported in one tick by one CPU.
    pub per_tick: u32,
    /// Bytes of the frame, at most [`MAX_SNAP`].
    pub snap: u32,
    pub service: u32,
    /// In network order.
    pub source_port: u16,
    pub dest_port: u16,
    /// 1 is ICMP of both families.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    pub pad: u16,
}

const _: () = assert!(size_of::<Filter>() == 104);

/// What a packet's headers say, as far as a filter asks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// As [`Network::address`].
    pub source: [u64; 2],
    pub dest: [u64; 2],
    /// In network order; 0 for what has none, later fragments among it.
    pub source_port: u16,
    pub dest_port: u16,
    pub protocol: u8,
    /// 4 or 6; 0: the program reads no further than the Ethernet header.
    pub family: u8,
    /// TCP's.
    pub flags: u8,
    /// Of a datagram.
    pub fragment: u8,
    /// IP total length, bytes.
    pub bytes: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<Headers>() == 48);

impl Filter {
    /// Whether it wants a packet with these headers.
    #[inline(always)]
    pub fn wants(&self, headers: &Headers) -> bool {
        const ICMP: u8 = 1;
        const ICMPV6: u8 = 58;
        let family = self.family == 0 || self.family == headers.family;
        let protocol = self.protocol == 0
            || self.protocol == headers.protocol
            || (self.protocol == ICMP && headers.protocol == ICMPV6);
        let source_port = self.source_port == 0 || self.source_port == headers.source_port;
        let dest_port = self.dest_port == 0 || self.dest_port == headers.dest_port;
        family
            & protocol
            & source_port
            & dest_port
            & self.source.has(headers.source)
            & self.dest.has(headers.dest)
    }

    /// Whether it wants one for a service (0: for none) that came to this end.
    #[inline(always)]
    pub fn wants_end(&self, service: u32, verdict: u32) -> bool {
        (self.service == 0 || self.service == service) && self.verdicts >> (verdict & 63) & 1 != 0
    }
}

// What fits into the word of a filter.
const _: () = assert!(Verdict::ALL.len() <= 64);

/// One packet, as it is reported: without the bytes of `frame` behind `snapped`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    pub headers: Headers,
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// Of the frame as it came, bytes.
    pub length: u32,
    pub snapped: u32,
    /// Bits of the traces that want it.
    pub slots: u32,
    pub verdict: u32,
    /// Index in `LINKS`.
    pub ingress: u32,
    pub pad: u32,
    pub record: Record,
    /// As it came.
    pub frame: [u8; MAX_SNAP],
}

/// Bytes of [`Seen`] before the frame.
pub const HEAD: usize = core::mem::offset_of!(Seen, frame);

const _: () = assert!(size_of::<Seen>() == HEAD + MAX_SNAP);

/// What a trace wanted and did not get.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// More than [`Filter::per_tick`].
    pub over_rate: u64,
    /// The ring was full: the agent does not keep up.
    pub ring_full: u64,
}

/// A CPU's notes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// Of each trace: the tick, and the packets reported in it.
    pub reported: [[u32; 2]; SLOTS],
    /// Bits of the traces whose filter lets this packet's headers through.
    pub wanted: u32,
    /// Whether steps and frame are noted: there is a trace that may report it.
    pub noting: u32,
    /// The packet's service, once it is known.
    pub service: u32,
    pub pad: u32,
    pub seen: Seen,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(address: [u8; 4]) -> [u64; 2] {
        [u32::from_ne_bytes(address).into(), 0]
    }

    fn packet() -> Headers {
        Headers {
            source: ipv4([10, 1, 2, 3]),
            dest: ipv4([172, 18, 14, 100]),
            source_port: 40000u16.to_be(),
            dest_port: 3306u16.to_be(),
            protocol: crate::protocol::TCP,
            family: 4,
            ..Headers::default()
        }
    }

    #[test]
    fn a_filter_that_asks_nothing_wants_all_and_each_field_is_looked_at() {
        assert!(Filter::default().wants(&packet()) && Filter::default().wants(&Headers::default()));
        let all = Filter {
            source: Network { address: ipv4([10, 1, 2, 0]), mask: ipv4([255, 255, 255, 0]) },
            dest: Network { address: ipv4([172, 18, 14, 100]), mask: ipv4([255; 4]) },
            source_port: 40000u16.to_be(),
            dest_port: 3306u16.to_be(),
            protocol: crate::protocol::TCP,
            family: 4,
            ..Filter::default()
        };
        assert!(all.wants(&packet()));
        let others = [
            Headers { source: ipv4([10, 1, 3, 3]), ..packet() },
            Headers { dest: ipv4([172, 18, 14, 101]), ..packet() },
            Headers { source_port: 1, ..packet() },
            Headers { dest_port: 1, ..packet() },
            Headers { protocol: crate::protocol::UDP, ..packet() },
            Headers { family: 6, ..packet() },
            Headers::default(),
        ];
        for other in others {
            assert!(!all.wants(&other), "{other:?}");
        }
        let icmp = Filter { protocol: 1, ..Filter::default() };
        assert!(icmp.wants(&Headers { protocol: 58, family: 6, ..packet() }) && !icmp.wants(&packet()));
    }

    #[test]
    fn the_end_is_asked_by_verdict_and_service() {
        let verdict = Verdict::DroppedDenied as u32;
        let filter = Filter { verdicts: 1 << verdict, service: 7, ..Filter::default() };
        assert!(filter.wants_end(7, verdict) && !filter.wants_end(8, verdict) && !filter.wants_end(7, 0));
        assert!(Filter { service: 0, ..filter }.wants_end(8, verdict));
    }
}
