//! What an SCTP packet does to its association: its first chunk says it, and an ABORT behind some.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::sctp::{ABORTED_BEHIND, CHUNK_LEN, HEADER_LEN, chunk, flags, to_second};

use super::read;

/// [`flags`] of the packet whose common header is at `l4`, and which ends before `end`: offsets in the frame. Verified
/// once, by itself (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn packet_chunks(ctx: *mut xdp_md, l4: u32, end: u32) -> u32 {
    /// More than a frame's linear part has; and what is added to a pointer must be bounded.
    const FAR: u32 = 1 << 13;
    let ctx = XdpContext::new(ctx);
    let at = (l4 & 0x3ff) as usize + HEADER_LEN;
    let Ok([first, _flags, high, low]) = read::<[u8; 4]>(&ctx, at) else { return 0 };
    let second = to_second(first, (high as u16) << 8 | low as u16);
    let is_there = second != 0 && second < FAR && at as u32 + second + CHUNK_LEN as u32 <= end;
    if is_there && let Ok([chunk::ABORT, ..]) = read::<[u8; 4]>(&ctx, at + second as usize) {
        return ABORTED_BEHIND as u32;
    }
    flags(first) as u32
}
