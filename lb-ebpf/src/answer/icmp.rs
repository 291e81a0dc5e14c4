//! An ICMP error: headers in front of the packet, which is cut to what is quoted.
//!
//! A header and what is quoted behind it are reached through one pointer and one bounds check: the compiler
//! drops a second check that follows from the first, and the verifier then misses it.

use aya_ebpf::{helpers::bpf_xdp_adjust_tail, programs::XdpContext};
use lb_common::{
    checksum::fold,
    icmp::{HEADER_LEN, ICMPV4, ICMPV6, TIME_EXCEEDED, TOO_BIG},
    link::Link,
};

use super::{IPV4_LEN, IPV6_LEN, TTL, reframe};
use crate::packet::{Outline, at, read};

/// Bytes of the offending packet after its IPv6 header that are quoted; 8 where there are fewer.
const QUOTED_PAYLOAD6: usize = 16;

/// The whole IPv4 header and eight bytes behind it are quoted; of SCTP the common header and an INIT's tag, since an INIT
/// is known by nothing else (`sctp_err_lookup` in the kernel).
#[inline(always)]
pub fn build4(ctx: &XdpContext, outline: Outline, link: &Link, kind: u32, rest: u32) -> Option<()> {
    const GROW: usize = IPV4_LEN + HEADER_LEN;
    let l3 = outline.l3();
    // A router fragments what has no DF; we do not (`ip_exceeds_mtu` in the kernel's words).
    let fragmentation: u16 = read(ctx, l3 + 6).ok()?;
    if kind == TOO_BIG.v4 as u32 && u16::from_be(fragmentation) & 0x4000 == 0 {
        return None;
    }
    let source = u32::from_ne_bytes(link.ipv4);
    let from_link = kind == TIME_EXCEEDED.v4 as u32;
    if from_link && source == 0 {
        return None;
    }
    let behind = if outline.is_sctp() && outline.payload() >= 20 { 20 } else { 8 };
    let quoted = ((outline.l4() - l3) & 0x3c) + behind;
    reframe(ctx, l3, link, GROW, l3 + GROW + quoted)?;
    // Both headers, and the least that is quoted: a header without options and eight bytes.
    let block = at::<[u32; 14]>(ctx, l3)?;
    // SAFETY: `at` checked the bounds.
    let words = unsafe { *block };
    let mut sum = kind as u64 + rest as u64;
    for word in &words[7..] {
        sum += *word as u64;
    }
    // Ten words of options at most, and three more of SCTP.
    for word in 7..20usize {
        if word * 4 >= quoted {
            break;
        }
        sum += read::<u32>(ctx, l3 + GROW + word * 4).ok()? as u64;
    }
    let checksum = !fold(sum) as u32;
    let total = ((GROW + quoted) as u16).to_be() as u32;
    let (sender, vip) = (words[7 + 3], words[7 + 4]);
    let source = if from_link { source } else { vip };
    // Version 4, five words; DSCP CS6 as the kernel's own errors have it (`icmp_send`,
    // IPTOS_PREC_INTERNETCONTROL).
    let mut header: [u32; 5] = [0xc045 | total << 16, 0, TTL as u32 | (ICMPV4 as u32) << 8, source, sender];
    let sum = header[0] as u64 + header[2] as u64 + header[3] as u64 + header[4] as u64;
    header[2] |= (!fold(sum) as u32) << 16;
    // SAFETY: in the bounds that were checked for `block`.
    unsafe {
        *block.cast::<[u32; 7]>() =
            [header[0], header[1], header[2], header[3], header[4], kind | checksum << 16, rest];
    }
    Some(())
}

/// The IPv6 header and sixteen bytes behind it are quoted, or eight of a short datagram.
#[inline(always)]
pub fn build6(ctx: &XdpContext, outline: Outline, link: &Link, kind: u32, rest: u32) -> Option<()> {
    const GROW: usize = IPV6_LEN + HEADER_LEN;
    const QUOTED: usize = IPV6_LEN + QUOTED_PAYLOAD6;
    const LENGTH: usize = HEADER_LEN + QUOTED;
    let l3 = outline.l3();
    let from_link = kind == TIME_EXCEEDED.v6 as u32;
    if from_link && link.ipv6 == [0; 16] {
        return None;
    }
    let payload: u16 = read(ctx, l3 + 4).ok()?;
    let left_out = if (u16::from_be(payload) as usize) < QUOTED_PAYLOAD6 { 8 } else { 0 };
    // The whole of it first, whatever its last bytes are then: a size that the compiler knows.
    reframe(ctx, l3, link, GROW, l3 + GROW + QUOTED)?;
    let block = at::<[u64; (GROW + QUOTED) / 8]>(ctx, l3)?;
    let halves = |x: u64| (x & 0xffff_ffff) + (x >> 32);
    // SAFETY: `at` checked the bounds.
    let words = unsafe { *block };
    let mut sum = rest as u64;
    const LAST: usize = (GROW + QUOTED) / 8 - 1;
    for word in &words[GROW / 8..LAST] {
        sum += halves(*word);
    }
    if left_out == 0 {
        sum += halves(words[LAST]);
    }
    let length = LENGTH - left_out;
    let sender = [words[GROW / 8 + 1], words[GROW / 8 + 2]];
    let word = |i: usize| {
        let b = &link.ipv6;
        u64::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5], b[i + 6], b[i + 7]])
    };
    let vip = [words[GROW / 8 + 3], words[GROW / 8 + 4]];
    let source = if from_link { [word(0), word(8)] } else { vip };
    // Pseudo header (RFC 8200 section 8.1).
    sum += halves(source[0]) + halves(source[1]) + halves(sender[0]) + halves(sender[1]);
    sum += (length as u32).to_be() as u64 + ((ICMPV6 as u64) << 24) + kind as u64;
    let checksum = !fold(sum) as u64;
    let first =
        0x60u64 | (((length as u16).to_be() as u64) << 32) | (ICMPV6 as u64) << 48 | (TTL as u64) << 56;
    // SAFETY: in the bounds that were checked for `block`.
    unsafe {
        *block.cast::<[u64; GROW / 8]>() = [
            first,
            source[0],
            source[1],
            sender[0],
            sender[1],
            kind as u64 | checksum << 16 | (rest as u64) << 32,
        ];
        if left_out != 0 && bpf_xdp_adjust_tail(ctx.ctx, -(left_out as i32)) != 0 {
            return None;
        }
    }
    Some(())
}
