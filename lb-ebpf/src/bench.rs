//! Measures the director's program: `feed` makes a packet of a frame again and again (TEST_RUN hands
//! what one run left to the next) and runs another program on it.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::{Array, DevMap, PerCpuArray, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// What the next packet is made of. The other half of it is in tests/src/feeder.rs.
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
    is_ipv6: u16,
    /// The client stays the same.
    is_fixed: u16,
    /// Where the IP header begins: behind tags, if there are any.
    l3: u32,
    /// Places by which the packet's number is moved up: 16, and every packet has another address, not another port.
    shift: u32,
    /// First port of the services, and how many there are, less one: a power of two.
    port: u32,
    services: u32,
}

#[btf_map]
static FEED: Array<Feed, 1> = Array::new();
/// The program under test.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();
/// Where `redirect` sends to.
#[btf_map]
static OUT: DevMap<1> = DevMap::new();
/// Frames that reached `sink`.
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// What the least that forwards over two interfaces writes: the backend's MAC, and the director's second one.
const REWRITTEN: [u16; 6] = [2, 0, 0x010b_u16, 2, 0, 0x0200];

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

/// Makes live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`), which leave by the interface that they are said to come from. The
/// kernel hands the same pages out again, with what was written into them.
#[xdp(frags)]
pub fn transmit(ctx: XdpContext) -> u32 {
    if next(&ctx).is_some() { XDP_TX } else { XDP_ABORTED }
}

/// The least that forwarding over two interfaces takes.
#[xdp(frags)]
pub fn redirect(ctx: XdpContext) -> u32 {
    let Some(macs) = at::<[u16; 6]>(&ctx, 0) else { return XDP_ABORTED };
    // SAFETY: `at` checked the bounds.
    unsafe { *macs = REWRITTEN };
    OUT.redirect(0, 0).unwrap_or(XDP_ABORTED)
}

/// The end of the way: counts, and lets nothing pass.
#[xdp(frags)]
pub fn sink(_ctx: XdpContext) -> u32 {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and softirqs do not interrupt each other.
        unsafe { *arrived += 1 };
    }
    XDP_DROP
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
        let number = shuffled((*feed).counter, (*feed).mask) << ((*feed).shift & 31);
        (*feed).counter += 1;
        (&*feed, number)
    };
    let beyond = (number >> 16) as u32;
    let (address, port) = ((feed.address + beyond).to_be(), (number as u16).to_be());
    let dest = ((feed.port + (number as u32 & feed.services)) as u16).to_be();
    let l3 = (feed.l3 & 31) as usize;
    // SAFETY: `at` checks the bounds of each write.
    unsafe {
        *at::<[u16; 6]>(ctx, 0)? = feed.macs;
        if feed.is_ipv6 != 0 {
            *at::<u8>(ctx, l3 + 7)? = 64;
            if feed.is_fixed == 0 {
                *at::<u32>(ctx, l3 + 20)? = address;
                *at::<[u16; 2]>(ctx, l3 + 40)? = [port, dest];
            }
        } else if feed.is_fixed == 0 {
            *at::<u32>(ctx, l3 + 8)? = with_checksum(feed.ttl, beyond);
            *at::<u32>(ctx, l3 + 12)? = address;
            *at::<[u16; 2]>(ctx, l3 + 20)? = [port, dest];
        } else {
            *at::<u32>(ctx, l3 + 8)? = feed.ttl;
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

/// The header's checksum follows its source address, to which `beyond` was added (RFC 1624): the lower three bytes of the
/// first address are 0, so both halves of it only grow.
#[inline(always)]
fn with_checksum(ttl: u32, beyond: u32) -> u32 {
    let (high, low) = (((beyond >> 16) as u16).to_be(), (beyond as u16).to_be());
    let sum = (!ttl >> 16) + high as u32 + low as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ttl & 0xffff | (!sum & 0xffff) << 16
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
