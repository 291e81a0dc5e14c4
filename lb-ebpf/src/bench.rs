//! Measures the director's program: `feed` makes a packet of a frame again and again (TEST_RUN hands
//! what one run left to the next) and runs another program on it.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// What the next packet is made of. The other half of it is in tests/src/bin/bench/feed.rs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Feed {
    /// Number of the next packet.
    counter: u64,
    /// Flows, less one: a power of two.
    mask: u64,
    /// Destination and source MAC.
    macs: [u16; 6],
    /// TTL, protocol, checksum of an IPv4 header as loaded.
    ttl: u32,
    /// First client address (the last four bytes of an IPv6 one), host order.
    address: u32,
    is_ipv6: u32,
}

#[btf_map]
static FEED: Array<Feed, 1> = Array::new();
/// The program under test.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();

#[xdp(frags)]
pub fn feed(ctx: XdpContext) -> u32 {
    if next(&ctx).is_some() {
        // SAFETY: does not return if there is a program.
        unsafe { TARGET.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

/// The least that forwarding takes.
#[xdp(frags)]
pub fn swap(ctx: XdpContext) -> u32 {
    let Some(macs) = at::<[u16; 6]>(&ctx, 0) else { return XDP_ABORTED };
    // SAFETY: `at` checked the bounds.
    unsafe {
        let [a, b, c, d, e, f] = *macs;
        *macs = [d, e, f, a, b, c];
    }
    XDP_TX
}

/// What `feed` itself costs.
#[xdp(frags)]
pub fn nothing(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Restores what a forwarded frame lost, and makes it one of the next flow: the client's address and
/// port are the packet's number.
#[inline(always)]
fn next(ctx: &XdpContext) -> Option<()> {
    let feed = FEED.get_ptr_mut(0)?;
    // SAFETY: the map's value; nobody else runs `feed`.
    let (feed, number) = unsafe {
        let number = shuffled((*feed).counter, (*feed).mask);
        (*feed).counter += 1;
        (&*feed, number)
    };
    let (address, port) = ((feed.address + (number >> 16) as u32).to_be(), (number as u16).to_be());
    // SAFETY: `at` checks the bounds of each write.
    unsafe {
        *at::<[u16; 6]>(ctx, 0)? = feed.macs;
        if feed.is_ipv6 != 0 {
            *at::<u8>(ctx, 14 + 7)? = 64;
            *at::<u32>(ctx, 14 + 20)? = address;
            *at::<u16>(ctx, 14 + 40)? = port;
        } else {
            *at::<u32>(ctx, 14 + 8)? = feed.ttl;
            *at::<u32>(ctx, 14 + 12)? = address;
            *at::<u16>(ctx, 14 + 20)? = port;
        }
    }
    Some(())
}

/// The packet's flow. A number of flows comes in an order that no prefetcher foresees: a map that hands out its
/// entries one after the other would have the next one ready otherwise. Each comes once before any comes again.
#[inline(always)]
fn shuffled(counter: u64, mask: u64) -> u64 {
    let number = counter & mask;
    if mask > u32::MAX as u64 {
        return number;
    }
    // Each step is one-to-one below a power of two.
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    let number = number ^ number >> 5;
    number.wrapping_mul(0xd1b5_4a32_d192_ed03) & mask
}

/// A bounded pointer into the frame.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() { None } else { Some(start as *mut T) }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
