//! Beside 2: the answers to health checks through the VIP, which the local stack would discard, for it owns the VIP
//! too. What the checks send does not come here: see `deliver.rs`.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{host::Route, icmp::is_echo_reply, link::MAC_MASK, verdict::Verdict, vlan::Tags};

use crate::{
    endpoint,
    forward::forward_retag,
    maps::{DEVICES, INGRESS, LINKS, PROBES},
    packet::{Outline, Packet, Part, read},
    quoted,
};

/// Gives a packet that is for no service to the checks, if it is from a VIP and to one of their ports. No flow, cursor
/// or counter of a service has to do with it.
#[inline(always)]
pub fn answered(ctx: &XdpContext, packet: &Packet) -> Verdict {
    if !packet.part.is(Part::Whole) {
        return Verdict::PassedNoService;
    }
    match probe_answered(ctx.ctx, packet.outline().0, packet.dest_port() as u32) {
        SENT => Verdict::ForwardedProbe,
        GONE => Verdict::DroppedRedirect,
        _ => Verdict::PassedNoService,
    }
}

/// Gives an ICMP message that is about no service to the checks, if it is the answer to an echo of theirs, or an error
/// about what one of them has sent.
#[inline(always)]
pub fn told(ctx: &XdpContext, packet: &Packet) -> Verdict {
    match probe_told(ctx.ctx, packet.outline().0) {
        SENT => Verdict::ForwardedProbe,
        GONE => Verdict::DroppedRedirect,
        _ => Verdict::PassedNotIp,
    }
}

// What the following return, beside 0 for what is none of the checks'.

const SENT: u32 = 1;
/// To an agent that is gone.
const GONE: u32 = 2;

// Verified once, by themselves (see `flow`).

/// `port` as loaded.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe_answered(ctx: *mut xdp_md, outline: u64, port: u32) -> u32 {
    let (ctx, outline) = (XdpContext::new(ctx), Outline(outline));
    match addresses(&ctx, outline) {
        Ok((vip, own)) => send(&ctx, outline, vip, own, port as u16),
        Err(_) => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe_told(ctx: *mut xdp_md, outline: u64) -> u32 {
    let (ctx, outline) = (XdpContext::new(ctx), Outline(outline));
    match about(&ctx, outline) {
        Ok((vip, own, port)) => send(&ctx, outline, vip, own, port),
        Err(_) => 0,
    }
}

/// The VIP that was asked, who asked, and its port, or what an echo bears instead.
#[inline(always)]
fn about(ctx: &XdpContext, outline: Outline) -> Result<([u64; 2], [u64; 2], u16), Verdict> {
    let [kind, _checksum, id, _sequence]: [u16; 4] = read(ctx, outline.l4())?;
    if is_echo_reply(outline.is_ipv6(), kind as u8) {
        let (vip, own) = addresses(ctx, outline)?;
        return Ok((vip, own, id));
    }
    // Turned round: who sent it is the director, at one of its own addresses.
    let quoted = quoted::read_error(ctx, outline)?;
    Ok((quoted.client, quoted.vip, quoted.port))
}

/// Sends the frame to the checks, without its tags, if it is about `vip` and theirs is `port` of `own`.
#[inline(always)]
fn send(ctx: &XdpContext, outline: Outline, vip: [u64; 2], own: [u64; 2], port: u16) -> u32 {
    // SAFETY: a copy; the agent replaces it whole.
    let Some(probes) = (unsafe { PROBES.get(own) }).copied() else { return 0 };
    let is_vip = endpoint::may_be_ours(vip, outline.is_ipv6(), outline.protocol());
    let Some(link) = LINKS.get(INGRESS.load()).filter(|_| is_vip) else { return 0 };
    if !probes.has(u16::from_be(port)) {
        return 0;
    }
    let (to, old) = (Route(probes.route), (outline.l3() as u64) << 32 | (outline.is_ipv6() as u64) << 16);
    if forward_retag(ctx.ctx, old, to.mac_word(), link.mac & MAC_MASK, Tags::NONE.0) != 0 {
        return GONE;
    }
    if DEVICES.redirect(to.link() as u32, 0).is_ok() { SENT } else { GONE }
}

/// Source and destination.
#[inline(always)]
fn addresses(ctx: &XdpContext, outline: Outline) -> Result<([u64; 2], [u64; 2]), Verdict> {
    if outline.is_ipv6() {
        let [a, b, c, d]: [u64; 4] = read(ctx, outline.l3() + 8)?;
        return Ok(([a, b], [c, d]));
    }
    let [source, dest]: [u32; 2] = read(ctx, outline.l3() + 12)?;
    Ok(([source as u64, 0], [dest as u64, 0]))
}
