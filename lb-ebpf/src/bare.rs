//! What `cargo xtask bench --vm` is fed by and compared with: the least that each thing can be done with. In no
//! production object.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_REDIRECT},
    btf_maps::DevMap,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Where frames leave by.
#[btf_map]
static DEVICES: DevMap<1> = DevMap::new();
/// The next hop's MAC and our own, two bytes to a word, as they stand in the frame.
#[unsafe(no_mangle)]
static MACS: Global<[u16; 6]> = Global::new([0; 6]);

/// Turns what a packet generator sends into frames as a NIC would receive them.
#[xdp(frags)]
pub fn relay(_ctx: XdpContext) -> u32 {
    redirect()
}

/// Takes a packet's addresses and sends it on: the floor under every director.
#[xdp(frags)]
pub fn rewrite(ctx: XdpContext) -> u32 {
    let macs = ctx.data() as *mut [u16; 6];
    if ctx.data() + size_of::<[u16; 6]>() > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: within the frame, as checked.
    unsafe { *macs = MACS.load() };
    redirect()
}

/// What receiving costs, and nothing else.
#[xdp(frags)]
pub fn drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

#[inline(always)]
fn redirect() -> u32 {
    match DEVICES.redirect(0, 0) {
        Ok(_) => XDP_REDIRECT,
        Err(_) => XDP_ABORTED,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
