//! Step 1: what a frame says, in one form for IPv4 and IPv6.
//!
//! Every read is bounded by `data_end`; nothing here trusts a length in the packet.

mod chunks;
mod forget;
mod outline;

pub use outline::Outline;

use chunks::packet_chunks;
use forget::forgotten;

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use lb_common::{
    icmp::{ICMPV4, ICMPV6},
    link::{self, MAC_MASK},
    protocol, sctp,
    verdict::Verdict,
    vlan::{Tags, VID_MASK, tag},
};

use crate::maps::{INGRESS, LINKS, MACS, TAGS};

/// What the later steps need to know. It lives on the stack, which is short (kernel 6.1 counts each function's part in
/// units of 32 bytes), so small things share a word.
pub struct Packet {
    /// Offset of the IP header in the frame, bytes: 14, 18 or 22.
    pub l3: usize,
    /// What few packets need: `offset of the transport header 16 | priority and DEI bits of the outer tag 16`.
    aside: u32,
    pub tags: Tags,
    pub is_ipv6: bool,
    pub part: Part,
    pub ttl: u8,
    /// `protocol 8 | flags 8`, flags in the low bits.
    segment: u32,
    /// Addresses as loaded; an IPv4 address is `[address, 0]`.
    pub source: [u64; 2],
    pub dest: [u64; 2],
    /// As loaded: source in the low half.
    ports: u32,
    /// IP total length.
    pub bytes: u32,
}

/// What a packet is of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// A segment or datagram.
    Whole,
    /// The first fragment of one: it has the transport header.
    First,
    /// A later fragment.
    Later,
    /// An ICMP message: perhaps an error about one, which it quotes.
    Icmp,
}

impl Part {
    /// A comparison of numbers: `==` on an enum of one byte becomes a call to memcmp.
    #[inline(always)]
    pub fn is(self, other: Self) -> bool {
        self as u32 == other as u32
    }
}

/// Bytes of an Ethernet header without tags.
pub const ETH_LEN: usize = 14;
/// Bytes of an 802.1Q tag.
pub const TAG_LEN: usize = 4;

// EtherTypes as loaded on a little-endian machine (IEEE 802 numbers).
pub const ETH_P_IP: u16 = 0x0800u16.to_be();
pub const ETH_P_IPV6: u16 = 0x86ddu16.to_be();
pub const ETH_P_8021Q: u16 = 0x8100u16.to_be();
pub const ETH_P_8021AD: u16 = 0x88a8u16.to_be();

/// IPv6 extension headers that are walked through (RFC 8200 section 4).
const MAX_EXTENSIONS: u32 = 6;
/// Bytes of extension headers that are walked through.
const MAX_EXTENSION_BYTES: usize = 512;

/// A bounded pointer into the frame. Reads through it may be misaligned: the packet is 2-byte
/// aligned at best, which BPF on x86 does not mind; an unaligned read in Rust's sense would become
/// one load per byte.
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() { None } else { Some(start as *mut T) }
}

/// A bounded read.
#[inline(always)]
pub fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Result<T, Verdict> {
    match at::<T>(ctx, offset) {
        // SAFETY: `at` checked the bounds; T is plain integers, and see there for alignment.
        Some(pointer) => Ok(unsafe { *pointer }),
        None => Err(Verdict::PassedMalformed),
    }
}

impl Packet {
    /// Of nothing yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            l3: 0,
            aside: 0,
            tags: Tags::NONE,
            is_ipv6: false,
            part: Part::Whole,
            ttl: 0,
            segment: 0,
            source: [0; 2],
            dest: [0; 2],
            ports: 0,
            bytes: 0,
        }
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.segment >> 8) as u8
    }

    /// TCP flags, or [`sctp::flags`]; 0 for UDP and ICMP errors.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.segment as u8
    }

    /// As loaded (network order).
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        self.ports as u16
    }

    /// As loaded.
    #[inline(always)]
    pub fn dest_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Offset of the transport header; of what a later fragment has instead.
    #[inline(always)]
    pub fn l4(&self) -> u16 {
        self.aside as u16
    }

    /// Kept when the outer tag is rewritten.
    #[inline(always)]
    pub fn priority(&self) -> u16 {
        (self.aside >> 16) as u16
    }

    /// Made where it is wanted, which is not on the way of a known flow's packet.
    #[inline(always)]
    pub fn outline(&self) -> Outline {
        Outline::of(self)
    }

    #[inline(always)]
    fn set_protocol(&mut self, protocol: u8) {
        self.segment = (protocol as u32) << 8;
    }
}

/// Reads the headers of a frame that is addressed to us.
///
/// Into a place that the caller has: a packet that was returned would be moved, and for that the compiler packs its
/// small fields into words and takes them out again, a tenth of all instructions of a known flow's packet.
#[inline(always)]
pub fn parse(ctx: &XdpContext, packet: &mut Packet) -> Result<(), Verdict> {
    let ethernet: [u16; 7] = read(ctx, 0)?;
    let mut ethertype = ethernet[6];
    let mut l3 = ETH_LEN;
    let (mut tags, mut priority) = (Tags::NONE, 0);
    if is_tag(ethertype) {
        let [tci, next]: [u16; 2] = read(ctx, l3)?;
        let tci = u16::from_be(tci);
        tags = Tags::new(tag(ethertype == ETH_P_8021AD, tci & VID_MASK), 0);
        priority = tci & !VID_MASK;
        ethertype = next;
        l3 += TAG_LEN;
        if is_tag(ethertype) {
            let [tci, next]: [u16; 2] = read(ctx, l3)?;
            let inner = tag(ethertype == ETH_P_8021AD, u16::from_be(tci) & VID_MASK);
            tags = Tags::new(tags.outer(), inner);
            ethertype = next;
            l3 += TAG_LEN;
        }
    }
    if ethertype != ETH_P_IP && ethertype != ETH_P_IPV6 {
        return Err(Verdict::PassedNotIp);
    }
    let mac = ethernet[0] as u64 | (ethernet[1] as u64) << 16 | (ethernet[2] as u64) << 32;
    if !is_for_us(mac, tags) {
        return Err(Verdict::PassedNotForUs);
    }
    (packet.l3, packet.tags, packet.aside) = (l3, tags, (priority as u32) << 16);
    if ethertype == ETH_P_IP { ipv4(ctx, packet) } else { ipv6(ctx, packet) }?;
    packet.segment = forgotten(packet.segment, packet.source[0] as u32);
    Ok(())
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD
}

/// Whether the frame is for this director: promiscuous mode and flooding switches deliver others'.
#[inline(always)]
fn is_for_us(mac: u64, tags: Tags) -> bool {
    let ingress = INGRESS.load();
    let Some(link) = LINKS.get(ingress) else { return false };
    if link.mac & MAC_MASK != mac {
        // A VLAN device or a virtual router may have a MAC of its own.
        // SAFETY: presence is all that is asked.
        let known = unsafe { MACS.get(mac | (ingress as u64) << 48) };
        if known.is_none() {
            return false;
        }
    }
    // A tag with VLAN id 0 carries a priority only (IEEE 802.1Q).
    if tags.0 == Tags::NONE.0 {
        return link.mac & link::flag::UNTAGGED != 0;
    }
    // SAFETY: presence is all that is asked.
    unsafe { TAGS.get(link::tag_key(ingress as u16, tags)) }.is_some()
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, packet: &mut Packet) -> Result<(), Verdict> {
    let header: [u32; 5] = read(ctx, packet.l3)?;
    let first = header[0];
    let header_len = ((first & 0x0f) << 2) as usize;
    if first & 0xf0 != 0x40 || header_len < 20 {
        return Err(Verdict::PassedMalformed);
    }
    // Flags and fragment offset: more-fragments 0x2000, offset 0x1fff (RFC 791 section 3.1).
    let fragmentation = u16::from_be((header[1] >> 16) as u16);
    packet.bytes = u16::from_be((first >> 16) as u16) as u32;
    packet.part = place(fragmentation & 0x1fff, fragmentation & 0x2000);
    packet.set_protocol((header[2] >> 8) as u8);
    packet.ttl = header[2] as u8;
    packet.source = [header[3] as u64, 0];
    packet.dest = [header[4] as u64, 0];
    transport(ctx, packet, header_len)
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, packet: &mut Packet) -> Result<(), Verdict> {
    let header: [u32; 10] = read(ctx, packet.l3)?;
    if header[0] & 0xf0 != 0x60 {
        return Err(Verdict::PassedMalformed);
    }
    let word = |i: usize| header[i] as u64 | (header[i + 1] as u64) << 32;
    packet.is_ipv6 = true;
    packet.bytes = 40 + u16::from_be(header[1] as u16) as u32;
    packet.set_protocol((header[1] >> 16) as u8);
    packet.ttl = (header[1] >> 24) as u8;
    packet.source = [word(2), word(4)];
    packet.dest = [word(6), word(8)];
    let extensions = extensions(ctx, packet, packet.l3 + 40)?;
    transport(ctx, packet, 40 + extensions)
}

/// Walks the extension headers; their length. The protocol behind them, and whether there is a
/// fragment header among them, goes into the packet.
#[inline(always)]
fn extensions(ctx: &XdpContext, packet: &mut Packet, start: usize) -> Result<usize, Verdict> {
    // IANA protocol numbers.
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DEST_OPTIONS: u8 = 60;
    let mut length = 0usize;
    for _ in 0..MAX_EXTENSIONS {
        match packet.protocol() {
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => {
                let [next, units]: [u8; 2] = read(ctx, start + length)?;
                packet.set_protocol(next);
                length += (units as usize + 1) * 8;
            }
            FRAGMENT => {
                let [first, _id]: [u32; 2] = read(ctx, start + length)?;
                let fragmentation = u16::from_be((first >> 16) as u16);
                packet.set_protocol(first as u8);
                packet.part = place(fragmentation >> 3, fragmentation & 1);
                length += 8;
                if packet.part.is(Part::Later) {
                    break;
                }
            }
            _ => break,
        }
        if length > MAX_EXTENSION_BYTES {
            return Err(Verdict::PassedMalformed);
        }
    }
    Ok(length)
}

#[inline(always)]
fn place(offset: u16, more: u16) -> Part {
    if offset != 0 {
        Part::Later
    } else if more != 0 {
        Part::First
    } else {
        Part::Whole
    }
}

/// Ports and flags; checks that the lengths leave room for the transport header. `before`: bytes of the headers
/// before it.
#[inline(always)]
fn transport(ctx: &XdpContext, packet: &mut Packet, before: usize) -> Result<(), Verdict> {
    let l4 = packet.l3 + before;
    packet.aside |= l4 as u32 & 0xffff;
    // What follows the fragment header of a later fragment may be another extension header: the first one's.
    let is_later = packet.part.is(Part::Later);
    let has_ports = matches!(packet.protocol(), protocol::TCP | protocol::UDP | protocol::SCTP);
    if !has_ports && !(is_later && packet.is_ipv6) {
        let icmp = if packet.is_ipv6 { ICMPV6 } else { ICMPV4 };
        if packet.protocol() != icmp || !packet.part.is(Part::Whole) {
            return Err(Verdict::PassedNotIp);
        }
        packet.part = Part::Icmp;
    } else if !is_later {
        let needed = if packet.protocol() == protocol::TCP {
            let header: [u32; 5] = read(ctx, l4)?;
            packet.ports = header[0];
            packet.segment |= header[3] >> 8 & 0xff;
            20
        } else if packet.protocol() == protocol::UDP {
            let header: [u32; 2] = read(ctx, l4)?;
            packet.ports = header[0];
            8
        } else {
            const LEN: usize = sctp::HEADER_LEN + sctp::CHUNK_LEN;
            let header: [u32; LEN / 4] = read(ctx, l4)?;
            packet.ports = header[0];
            packet.segment |= packet_chunks(ctx.ctx, l4 as u32, packet.l3 as u32 + packet.bytes) & 0xff;
            LEN as u32
        };
        if packet.bytes < before as u32 + needed {
            return Err(Verdict::PassedMalformed);
        }
    }
    let linear = (ctx.data_end() - ctx.data()) as u64;
    let end = packet.l3 as u64 + packet.bytes as u64;
    if end > linear {
        // A jumbo frame's tail is not in the linear part.
        // SAFETY: the helper only reads the context.
        let whole = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
        if end > whole {
            return Err(Verdict::PassedMalformed);
        }
    }
    Ok(())
}
