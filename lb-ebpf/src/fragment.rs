//! Fragments: the first one has the ports and decides; the later ones follow it. Those that come before it, or
//! whose datagram was forgotten, are dropped: they must not reach another backend, nor the local stack.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    fragment::{Key, LIFETIME, Place},
    icmp::ICMPV6,
    tick::Tick,
    verdict::Verdict,
};

use crate::{
    clock, endpoint,
    flow::Flow,
    maps::{FRAGMENTS, REFRESH},
    packet::{Outline, Packet, Part, read},
    record,
};

/// Where a later fragment goes.
#[inline(always)]
pub fn follow_first(ctx: &XdpContext, packet: &Packet) -> Result<Flow, Verdict> {
    let found = fragment_find(ctx.ctx, packet.outline().0);
    match (found as u32, found >> 32) {
        (0, 0) => Err(Verdict::DroppedFragment),
        (0, _) => Err(Verdict::PassedNoService),
        (dest, service) => Ok(Flow { dest, service: service as u32, opened: false }),
    }
}

/// A packet went there: if it is a first fragment, the later ones follow.
#[inline(always)]
pub fn went(ctx: &XdpContext, packet: &Packet, flow: &Flow) {
    if packet.part.is(Part::First) {
        fragment_remember(ctx.ctx, packet.outline().0, flow.dest, flow.service);
    }
}

/// A packet is for no service: if it is a first fragment, neither are the later ones.
#[inline(always)]
pub fn passed(ctx: &XdpContext, packet: &Packet) {
    if packet.part.is(Part::First) {
        fragment_remember(ctx.ctx, packet.outline().0, 0, 0);
    }
}

/// What `fragment_find` returns of fragments that are none of ours.
const NOT_OURS: u64 = 1 << 32;

/// Where an IPv6 extension header stands between the fragment header and the transport header, which nobody sends,
/// the identification is read wrong, and later fragments are dropped.
#[inline(always)]
fn key(ctx: &XdpContext, outline: Outline) -> Result<Key, Verdict> {
    if outline.is_ipv6() {
        let [a, b, c, d]: [u64; 4] = read(ctx, outline.l3() + 8)?;
        let id = read(ctx, outline.l4().wrapping_sub(4) & 0x3ff)?;
        return Ok(Key { source: [a, b], dest: [c, d], id, protocol: 0, pad: [0; 3] });
    }
    let [_, id, _, source, dest]: [u32; 5] = read(ctx, outline.l3())?;
    Ok(Key {
        source: [source as u64, 0],
        dest: [dest as u64, 0],
        id: id & 0xffff,
        protocol: outline.protocol(),
        pad: [0; 3],
    })
}

// Verified once, by themselves (see `flow`).

/// `service 32 | destination 32`; 0 if the first fragment is not known.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragment_find(ctx: *mut xdp_md, outline: u64) -> u64 {
    let outline = Outline(outline);
    let Ok(key) = key(&XdpContext::new(ctx), outline) else { return 0 };
    // A long ping is the stack's.
    let is_ping = outline.protocol() == ICMPV6;
    if is_ping || !endpoint::may_be_ours(key.dest, outline.is_ipv6(), outline.protocol()) {
        return NOT_OURS;
    }
    // SAFETY: a copy; another CPU may replace it by that of the same datagram.
    let Some(place) = (unsafe { FRAGMENTS.get(key) }) else { return 0 };
    if Tick(place.until).is_past(clock::now()) {
        0
    } else if place.dest == 0 {
        NOT_OURS
    } else {
        (place.service as u64) << 32 | place.dest as u64
    }
}

/// Destination 0: the fragment was passed, which is worth remembering where later ones could be taken for ours.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragment_remember(ctx: *mut xdp_md, outline: u64, dest: u32, service: u32) -> u32 {
    let outline = Outline(outline);
    let Ok(key) = key(&XdpContext::new(ctx), outline) else { return 0 };
    if record::is_dry() {
        return 0;
    }
    if dest == 0 && !endpoint::may_be_ours(key.dest, outline.is_ipv6(), outline.protocol()) {
        return 0;
    }
    // `REFRESH` is half a second.
    let until = clock::now().after(2 * LIFETIME * REFRESH.load()).0;
    let place = Place { dest, until, service: service as u16, pad: [0; 6] };
    FRAGMENTS.insert(key, place, 0).is_ok() as u32
}
