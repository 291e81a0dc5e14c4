//! A TCP reset, as a host answers a segment of a connection that it does not have (RFC 9293 section 3.10.7.1).

use aya_ebpf::programs::XdpContext;
use lb_common::{
    checksum::fold,
    link::Link,
    protocol,
    tcp::flag::{ACK, FIN, RST, SYN},
};

use super::{IPV4_LEN, IPV6_LEN, TTL, reframe};
use crate::packet::{Outline, at};

const TCP_LEN: usize = 20;

/// Turns the frame into the answer, whose TCP header is `tcp`, without the checksum.
#[inline(always)]
pub fn build(ctx: &XdpContext, outline: Outline, link: &Link, tcp: [u32; 5]) -> Option<()> {
    if outline.is_ipv6() { build6(ctx, outline, link, tcp) } else { build4(ctx, outline, link, tcp) }
}

/// The TCP header of the answer to a segment with these first four words; its checksum is 0.
#[inline(always)]
pub fn answer_to(words: [u32; 4], outline: Outline) -> [u32; 5] {
    let [ports, sequence, acknowledged, offset] = words;
    let flags = outline.flags();
    let (sequence, acknowledges, answer) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        let header = (offset >> 4 & 0xf) << 2;
        let length =
            outline.payload().wrapping_sub(header) + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        (0, u32::from_be(sequence).wrapping_add(length).to_be(), RST | ACK)
    };
    // Five words of header; window 0.
    [ports.rotate_left(16), sequence, acknowledges, 0x50 | (answer as u32) << 8, 0]
}

#[inline(always)]
fn sum(words: &[u32]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += *word as u64;
    }
    sum
}

#[inline(always)]
fn build4(ctx: &XdpContext, outline: Outline, link: &Link, mut tcp: [u32; 5]) -> Option<()> {
    const LENGTH: usize = IPV4_LEN + TCP_LEN;
    let l3 = outline.l3();
    reframe(ctx, l3, link, 0, l3 + LENGTH)?;
    let block = at::<[u32; LENGTH / 4]>(ctx, l3)?;
    // SAFETY: `at` checked the bounds.
    let [_, _, _, client, vip, ..] = unsafe { *block };
    let length = |bytes: usize| (bytes as u16).to_be() as u32;
    // Version 4, five words; DF.
    let mut ip =
        [0x45 | length(LENGTH) << 16, 0x40u32 << 16, TTL as u32 | (protocol::TCP as u32) << 8, vip, client];
    ip[2] |= (!fold(sum(&ip)) as u32) << 16;
    // Pseudo header (RFC 9293 section 3.1).
    let pseudo = [vip, client, (protocol::TCP as u32) << 8 | length(TCP_LEN) << 16];
    tcp[4] = !fold(sum(&pseudo) + sum(&tcp)) as u32;
    // SAFETY: `at` checked the bounds.
    unsafe {
        *block = [ip[0], ip[1], ip[2], ip[3], ip[4], tcp[0], tcp[1], tcp[2], tcp[3], tcp[4]];
    }
    Some(())
}

#[inline(always)]
fn build6(ctx: &XdpContext, outline: Outline, link: &Link, mut tcp: [u32; 5]) -> Option<()> {
    const LENGTH: usize = IPV6_LEN + TCP_LEN;
    let l3 = outline.l3();
    reframe(ctx, l3, link, 0, l3 + LENGTH)?;
    let block = at::<[u32; LENGTH / 4]>(ctx, l3)?;
    // SAFETY: `at` checked the bounds.
    let [_, _, a @ .., _, _, _, _, _] = unsafe { *block };
    let length = (TCP_LEN as u16).to_be() as u32;
    // Pseudo header (RFC 8200 section 8.1).
    let pseudo = [length << 16, (protocol::TCP as u32) << 24];
    tcp[4] = !fold(sum(&a) + sum(&pseudo) + sum(&tcp)) as u32;
    let second = length | (protocol::TCP as u32) << 16 | (TTL as u32) << 24;
    // SAFETY: `at` checked the bounds.
    unsafe {
        *block = [
            0x60, second, a[4], a[5], a[6], a[7], a[0], a[1], a[2], a[3], tcp[0], tcp[1], tcp[2], tcp[3],
            tcp[4],
        ];
    }
    Some(())
}
