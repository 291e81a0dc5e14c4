//! ICMP time exceeded, built in place: the director is a hop, and a traceroute should show it.
//! (RFC 792, RFC 4443 section 3.3; rate limit RFC 1812 section 4.3.2.8.)

use aya_ebpf::{
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
/// Bytes of the offending packet after its IPv6 header that are quoted.
const QUOTED_PAYLOAD6: usize = 16;
const TTL: u8 = 64;

/// Turns the frame into the answer to its sender; the verdict.
#[inline(never)]
pub fn answer(ctx: &XdpContext, packet: &Packet) -> Verdict {
    let Some(link) = LINKS.get(INGRESS.load()) else { return Verdict::DroppedTtl };
    if !is_allowed(clock::now()) {
        return Verdict::DroppedTtl;
    }
    let built = if packet.is_ipv6 { build6(ctx, packet, link) } else { build4(ctx, packet, link) };
    if built.is_some() { Verdict::AnsweredTtl } else { Verdict::DroppedTtl }
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
fn reframe(ctx: &XdpContext, packet: &Packet, link: &Link, grow: usize, length: usize) -> Option<()> {
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

/// The whole IPv4 header and eight bytes behind it are quoted.
#[inline(always)]
fn build4(ctx: &XdpContext, packet: &Packet, link: &Link) -> Option<()> {
    let source = u32::from_ne_bytes(link.ipv4);
    if source == 0 {
        return None;
    }
    const GROW: usize = IPV4_LEN + ICMP_LEN;
    let quoted = packet.header_len + 8;
    reframe(ctx, packet, link, GROW, packet.l3 + GROW + quoted)?;
    // 68 bytes at most, 60 of header: 17 words.
    let mut sum = 0u64;
    let start = packet.l3 + GROW;
    for word in 0..17usize {
        if word * 4 >= quoted {
            break;
        }
        sum += read::<u32>(ctx, start + word * 4).ok()? as u64;
    }
    const TYPE_CODE: u32 = 11; // time exceeded in transit, as loaded
    let checksum = !fold(sum + TYPE_CODE as u64) as u32;
    let total = ((GROW + quoted) as u16).to_be() as u32;
    // Version 4, five words, DSCP CS6 as the kernel gives its own errors (`icmp.c`, IPTOS_PREC_INTERNETCONTROL).
    let mut header: [u32; 5] =
        [0xc045 | total << 16, 0, TTL as u32 | 1 << 8, source, packet.source[0] as u32];
    let sum = header[0] as u64 + header[2] as u64 + header[3] as u64 + header[4] as u64;
    header[2] |= (!fold(sum) as u32) << 16;
    // SAFETY: `at` checks the bounds.
    unsafe {
        *at::<[u32; 5]>(ctx, packet.l3)? = header;
        *at::<[u32; 2]>(ctx, packet.l3 + IPV4_LEN)? = [TYPE_CODE | checksum << 16, 0];
    }
    Some(())
}

/// The IPv6 header and sixteen bytes behind it are quoted.
#[inline(always)]
fn build6(ctx: &XdpContext, packet: &Packet, link: &Link) -> Option<()> {
    if link.ipv6 == [0; 16] {
        return None;
    }
    const GROW: usize = IPV6_LEN + ICMP_LEN;
    const QUOTED: usize = IPV6_LEN + QUOTED_PAYLOAD6;
    const LENGTH: usize = ICMP_LEN + QUOTED;
    if (packet.bytes as usize) < QUOTED {
        return None;
    }
    reframe(ctx, packet, link, GROW, packet.l3 + GROW + QUOTED)?;
    let mut sum = 0u64;
    let quoted: [u32; QUOTED / 4] = read(ctx, packet.l3 + GROW).ok()?;
    for word in quoted {
        sum += word as u64;
    }
    let words = |x: u64| (x & 0xffff_ffff) + (x >> 32);
    // SAFETY: sixteen plain bytes as two words.
    let source: [u64; 2] = unsafe { core::mem::transmute(link.ipv6) };
    const NEXT_HEADER: u64 = 58;
    const TYPE_CODE: u64 = 3; // time exceeded, hop limit, as loaded
    // Pseudo header (RFC 8200 section 8.1).
    sum += words(source[0]) + words(source[1]) + words(packet.source[0]) + words(packet.source[1]);
    sum += (LENGTH as u32).to_be() as u64 + (NEXT_HEADER << 24) + TYPE_CODE;
    let checksum = !fold(sum) as u32;
    let first = 0x60u64 | (((LENGTH as u16).to_be() as u64) << 32) | NEXT_HEADER << 48 | (TTL as u64) << 56;
    // SAFETY: `at` checks the bounds.
    unsafe {
        *at::<[u64; 5]>(ctx, packet.l3)? = [first, source[0], source[1], packet.source[0], packet.source[1]];
        *at::<[u32; 2]>(ctx, packet.l3 + IPV6_LEN)? = [TYPE_CODE as u32 | checksum << 16, 0];
    }
    Some(())
}
