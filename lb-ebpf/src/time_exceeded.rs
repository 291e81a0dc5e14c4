//! ICMP time exceeded, built in place: the director is a hop, and a traceroute should show it.
//! (RFC 792, RFC 4443 section 3.3; rate limit RFC 1812 section 4.3.2.8.)

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{
    checksum::fold,
    link::{Link, MAC_MASK},
    tick::Tick,
    verdict::Verdict,
};

use crate::{
    clock,
    maps::{ALLOWANCE, INGRESS, LINKS},
    packet::{Packet, at, read},
};

/// Errors a CPU may send in one tick (an eighth to a quarter of a second).
const PER_TICK: u32 = 128;

/// What is left of a CPU's allowance of the current tick.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Allowance {
    tick: u32,
    left: u32,
}

const ICMP_LEN: usize = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Bytes of the offending packet after its IPv6 header that are quoted; 8 where there are fewer.
const QUOTED_PAYLOAD6: usize = 16;
const TTL: u8 = 64;

/// Turns the frame into the answer to its sender; the verdict.
#[inline(always)]
pub fn answer(ctx: &XdpContext, packet: &Packet) -> Verdict {
    let shape = (packet.l3 as u32) << 16 | (packet.header_len as u32) << 8 | packet.is_ipv6 as u32;
    match time_exceeded_answer(ctx.ctx, shape) {
        0 => Verdict::AnsweredTtl,
        _ => Verdict::DroppedTtl,
    }
}

/// Where the headers of the offending packet lie.
struct Shape {
    l3: usize,
    header_len: usize,
}

/// `shape`: offset of the IP header 16 | IPv4 header length 8 | is IPv6 8; 0 if the answer was built.
/// Verified once (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn time_exceeded_answer(ctx: *mut xdp_md, shape: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let is_ipv6 = shape & 1 != 0;
    let shape = Shape { l3: (shape >> 16) as usize & 0x1f, header_len: (shape >> 8) as usize & 0x3c };
    let Some(link) = LINKS.get(INGRESS.load()) else { return 1 };
    if !is_allowed(clock::now()) {
        return 1;
    }
    let built = if is_ipv6 { build6(&ctx, &shape, link) } else { build4(&ctx, &shape, link) };
    built.is_none() as u32
}

#[inline(always)]
fn is_allowed(now: Tick) -> bool {
    let Some(allowance) = ALLOWANCE.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own copy.
    unsafe {
        if (*allowance).tick != now.0 {
            *allowance = Allowance { tick: now.0, left: PER_TICK };
        }
        if (*allowance).left == 0 {
            return false;
        }
        (*allowance).left -= 1;
    }
    true
}

/// Makes room for `grow` bytes of headers, cuts the frame to `length`, and puts the layer-2 header
/// (with whatever tags it has) back in front, from us to the sender.
#[inline(always)]
fn reframe(ctx: &XdpContext, packet: &Shape, link: &Link, grow: usize, length: usize) -> Option<()> {
    let l2: [u16; 6] = read(ctx, 0).ok()?;
    let rest: [u16; 5] = read(ctx, 12).ok()?;
    // SAFETY: the helpers check room and length; pointers are taken anew after each.
    unsafe {
        if bpf_xdp_adjust_head(ctx.ctx, -(grow as i32)) != 0 {
            return None;
        }
        let have = bpf_xdp_get_buff_len(ctx.ctx) as i32;
        if bpf_xdp_adjust_tail(ctx.ctx, length as i32 - have) != 0 {
            return None;
        }
        let mac = link.mac & MAC_MASK;
        *at::<[u16; 6]>(ctx, 0)? = [l2[3], l2[4], l2[5], mac as u16, (mac >> 16) as u16, (mac >> 32) as u16];
        // EtherType behind no, one or two tags.
        match packet.l3 {
            14 => *at::<u16>(ctx, 12)? = rest[0],
            18 => *at::<[u16; 3]>(ctx, 12)? = [rest[0], rest[1], rest[2]],
            _ => *at::<[u16; 5]>(ctx, 12)? = rest,
        }
    }
    Some(())
}

// Below, a header and what is quoted behind it are reached through one pointer and one bounds check:
// the compiler drops a second check that follows from the first, and the verifier then misses it.

/// The whole IPv4 header and eight bytes behind it are quoted.
#[inline(always)]
fn build4(ctx: &XdpContext, packet: &Shape, link: &Link) -> Option<()> {
    const GROW: usize = IPV4_LEN + ICMP_LEN;
    const TYPE_CODE: u32 = 11; // time exceeded in transit, as loaded
    let source = u32::from_ne_bytes(link.ipv4);
    if source == 0 {
        return None;
    }
    let quoted = packet.header_len + 8;
    reframe(ctx, packet, link, GROW, packet.l3 + GROW + quoted)?;
    // Both headers, and the least that is quoted: a header without options and eight bytes.
    let block = at::<[u32; 14]>(ctx, packet.l3)?;
    // SAFETY: `at` checked the bounds.
    let words = unsafe { *block };
    let mut sum = TYPE_CODE as u64;
    for word in &words[7..] {
        sum += *word as u64;
    }
    // Options: ten words at most.
    for word in 7..17usize {
        if word * 4 >= quoted {
            break;
        }
        sum += read::<u32>(ctx, packet.l3 + GROW + word * 4).ok()? as u64;
    }
    let checksum = !fold(sum) as u32;
    let total = ((GROW + quoted) as u16).to_be() as u32;
    let sender = words[7 + 3];
    // Version 4, five words; DSCP CS6 as the kernel's own errors have it (`icmp_send`,
    // IPTOS_PREC_INTERNETCONTROL).
    let mut header: [u32; 5] = [0xc045 | total << 16, 0, TTL as u32 | 1 << 8, source, sender];
    let sum = header[0] as u64 + header[2] as u64 + header[3] as u64 + header[4] as u64;
    header[2] |= (!fold(sum) as u32) << 16;
    // SAFETY: in the bounds that were checked for `block`.
    unsafe {
        *block.cast::<[u32; 7]>() =
            [header[0], header[1], header[2], header[3], header[4], TYPE_CODE | checksum << 16, 0];
    }
    Some(())
}

/// The IPv6 header and sixteen bytes behind it are quoted, or eight of a short datagram.
#[inline(always)]
fn build6(ctx: &XdpContext, packet: &Shape, link: &Link) -> Option<()> {
    const GROW: usize = IPV6_LEN + ICMP_LEN;
    const QUOTED: usize = IPV6_LEN + QUOTED_PAYLOAD6;
    const LENGTH: usize = ICMP_LEN + QUOTED;
    const NEXT_HEADER: u64 = 58;
    const TYPE_CODE: u64 = 3; // time exceeded, hop limit, as loaded
    if link.ipv6 == [0; 16] {
        return None;
    }
    let payload: u16 = read(ctx, packet.l3 + 4).ok()?;
    let left_out = if (u16::from_be(payload) as usize) < QUOTED_PAYLOAD6 { 8 } else { 0 };
    // The whole of it first, whatever its last bytes are then: a size that the compiler knows.
    reframe(ctx, packet, link, GROW, packet.l3 + GROW + QUOTED)?;
    let block = at::<[u64; (GROW + QUOTED) / 8]>(ctx, packet.l3)?;
    let halves = |x: u64| (x & 0xffff_ffff) + (x >> 32);
    // SAFETY: `at` checked the bounds.
    let words = unsafe { *block };
    let mut sum = 0u64;
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
    let source = [word(0), word(8)];
    // Pseudo header (RFC 8200 section 8.1).
    sum += halves(source[0]) + halves(source[1]) + halves(sender[0]) + halves(sender[1]);
    sum += (length as u32).to_be() as u64 + (NEXT_HEADER << 24) + TYPE_CODE;
    let checksum = !fold(sum) as u64;
    let first = 0x60u64 | (((length as u16).to_be() as u64) << 32) | NEXT_HEADER << 48 | (TTL as u64) << 56;
    // SAFETY: in the bounds that were checked for `block`.
    unsafe {
        *block.cast::<[u64; GROW / 8]>() =
            [first, source[0], source[1], sender[0], sender[1], TYPE_CODE | checksum << 16];
        if left_out != 0 && bpf_xdp_adjust_tail(ctx.ctx, -(left_out as i32)) != 0 {
            return None;
        }
    }
    Some(())
}
