//! A third object: the way of health checks through the VIP to their backend, from the agent's namespace for them
//! into the data path's own records. Two classifiers (tc), for a socket's mark is lost on the way out of a namespace,
//! and every device transmits what the stack gives it, tags and checksums included.
#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    btf_maps::Array,
    helpers::{bpf_redirect, bpf_skb_vlan_push},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    host::{self, Host, Path, Route},
    link::{self, Link, MAC_MASK},
    probe::{host_of, mac_of},
    vlan::{SERVICE, VID_MASK},
};

/// See `maps.rs`.
const MMAPABLE: usize = 1 << 10;

#[btf_map]
pub static HOSTS: Array<Host, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static LINKS: Array<Link, { link::MAX_LINKS as usize }, MMAPABLE> = Array::new();

/// On the way out of the namespace: the socket's mark, an index in `HOSTS`, becomes the destination MAC.
#[classifier]
pub fn mark(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for the program's run.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark == 0 {
        // Of no check: the namespace's kernel itself.
        return TC_ACT_SHOT;
    }
    match ctx.store(0, &mac_of(mark), 0) {
        Ok(()) => TC_ACT_OK,
        Err(_) => TC_ACT_SHOT,
    }
}

/// On the director's side: out to the host, as `forward` would send it.
#[classifier]
pub fn deliver(ctx: TcContext) -> i32 {
    sent(&ctx).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn sent(ctx: &TcContext) -> Option<i32> {
    let host = HOSTS.get(host_of(ctx.load(0).ok()?)?)?;
    // SAFETY: aligned words that the agent replaces whole.
    let (route, path) = unsafe {
        (Route(ptr::read_volatile(&raw const host.route)), Path(ptr::read_volatile(&raw const host.path)))
    };
    if route.link() == 0 || route.link() == host::LOCAL {
        return None;
    }
    let link = LINKS.get(route.link() as u32)?;
    let (dest, source) = (route.mac_word().to_le_bytes(), (link.mac & MAC_MASK).to_le_bytes());
    let [a, b, c, d, e, f, ..] = dest;
    let [g, h, i, j, k, l, ..] = source;
    ctx.store(0, &[a, b, c, d, e, f, g, h, i, j, k, l], 0).ok()?;
    let tags = path.tags();
    for tag in [tags.inner(), tags.outer()] {
        if tag != 0 {
            let protocol: u16 = if tag & SERVICE != 0 { 0x88a8 } else { 0x8100 };
            // SAFETY: the helper checks the packet.
            if unsafe { bpf_skb_vlan_push(ctx.skb.skb, protocol.to_be(), tag & VID_MASK) } != 0 {
                return None;
            }
        }
    }
    // SAFETY: the helper takes numbers.
    Some(unsafe { bpf_redirect(link.ifindex, 0) } as i32)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
