//! Answers to the client, built in place of the packet that they answer: ICMP errors and TCP resets. All of a CPU's
//! together are rate-limited (RFC 1812 section 4.3.2.8); what goes over that is dropped.

mod icmp;
mod reset;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{
    endpoint::flag,
    icmp::{
        Error, PORT_UNREACHABLE, PROTOCOL_UNREACHABLE, TIME_EXCEEDED, TOO_BIG, is_one_host, next_header,
        next_mtu,
    },
    link::{Link, MAC_MASK},
    service::{Reject, flag::RESET_NODEST},
    tcp,
    tick::Tick,
    verdict::Verdict,
};

use crate::{
    clock,
    endpoint::Endpoints,
    maps::{ALLOWANCE, INGRESS, LINKS, SERVICES},
    packet::{Outline, Packet, at, read},
};

/// Answers that a CPU may send in one tick (an eighth to a quarter of a second).
const PER_TICK: u32 = 128;

/// TTL and hop limit of an answer.
const TTL: u8 = 64;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// What is left of a CPU's allowance of the current tick.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Allowance {
    tick: u32,
    left: u32,
}

/// The TTL or hop limit ran out here. The answer comes from the interface's own address, so that a traceroute
/// shows the director.
#[inline(always)]
pub fn time_exceeded(ctx: &XdpContext, packet: &Packet) -> Verdict {
    match icmp_error(ctx, packet, TIME_EXCEEDED, 0) {
        0 => Verdict::AnsweredTtl,
        _ => Verdict::DroppedTtl,
    }
}

/// The packet is longer than `mtu`, that of the way to its backend.
#[inline(always)]
pub fn too_big(ctx: &XdpContext, packet: &Packet, mtu: u16) -> Verdict {
    match icmp_error(ctx, packet, TOO_BIG, next_mtu(packet.is_ipv6, mtu)) {
        0 => Verdict::AnsweredTooBig,
        _ => Verdict::DroppedTooBig,
    }
}

/// The packet belongs to nothing, or nobody takes its connection: what the service says is done about that.
/// `refused` is returned as it is if it is something else.
#[inline(always)]
pub fn refuse(ctx: &XdpContext, packet: &Packet, endpoints: &Endpoints, refused: Verdict) -> Verdict {
    let is_new = match refused {
        Verdict::DroppedNoFlow => 0,
        Verdict::DroppedNoBackend => 1,
        _ => return refused,
    };
    let Some(endpoint) = endpoints.exact.filter(|exact| exact.has(flag::OPEN)).or(endpoints.wildcard) else {
        return refused;
    };
    match (answer_refused(ctx.ctx, packet.outline().0, endpoint.service() as u32, is_new), refused) {
        (ANSWERED, Verdict::DroppedNoFlow) => Verdict::AnsweredNoFlow,
        (PASS, Verdict::DroppedNoFlow) => Verdict::PassedNoFlow,
        (ANSWERED, _) => Verdict::AnsweredNoBackend,
        (PASS, _) => Verdict::PassedNoBackend,
        _ => refused,
    }
}

/// The connection's backend was removed.
#[inline(always)]
pub fn removed(ctx: &XdpContext, packet: &Packet, service: u32) -> Verdict {
    match answer_removed(ctx.ctx, packet.outline().0, service) {
        ANSWERED => Verdict::AnsweredBackendRemoved,
        _ => Verdict::DroppedBackendRemoved,
    }
}

// What functions that are verified by themselves return (see `flow`).
const ANSWERED: u32 = 0;
const SILENT: u32 = 1;
const PASS: u32 = 2;

#[inline(always)]
fn icmp_error(ctx: &XdpContext, packet: &Packet, error: Error, rest: u32) -> u32 {
    answer_icmp(ctx.ctx, packet.outline().0, error.of(packet.is_ipv6) as u32, rest)
}

/// `is_new`: a new connection that no backend takes; else a packet of no known one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_refused(ctx: *mut xdp_md, word: u64, service: u32, is_new: u32) -> u32 {
    let Some(record) = SERVICES.get(service) else { return SILENT };
    let outline = Outline(word);
    match Reject::of(record.flags) {
        Reject::DROP => SILENT,
        Reject::PASS => PASS,
        reject if outline.is_tcp() && (is_new == 0 || reject == Reject::RESET) => answer_reset(ctx, word),
        // An SCTP packet of no association: IPVS gives it to the director's stack, which has no SCTP.
        _ if outline.is_sctp() && is_new == 0 => {
            let is_ipv6 = outline.is_ipv6();
            answer_icmp(ctx, word, PROTOCOL_UNREACHABLE.of(is_ipv6) as u32, next_header(is_ipv6))
        }
        _ => answer_icmp(ctx, word, PORT_UNREACHABLE.of(outline.is_ipv6()) as u32, 0),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_removed(ctx: *mut xdp_md, outline: u64, service: u32) -> u32 {
    match SERVICES.get(service) {
        Some(record) if record.flags & RESET_NODEST != 0 => answer_reset(ctx, outline),
        _ => SILENT,
    }
}

/// `kind`: type and code as loaded; `rest`: the second half of the ICMP header, as loaded.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_icmp(ctx: *mut xdp_md, word: u64, kind: u32, rest: u32) -> u32 {
    let (ctx, outline) = (XdpContext::new(ctx), Outline(word));
    let Some(link) = LINKS.get(INGRESS.load()) else { return SILENT };
    if !may_be_answered(&ctx, outline) || !is_allowed(clock::now()) {
        return SILENT;
    }
    let built = if outline.is_ipv6() {
        icmp::build6(&ctx, outline, link, kind, rest)
    } else {
        icmp::build4(&ctx, outline, link, kind, rest)
    };
    if built.is_some() { ANSWERED } else { SILENT }
}

/// Answers a segment with a reset.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_reset(ctx: *mut xdp_md, word: u64) -> u32 {
    let (ctx, outline) = (XdpContext::new(ctx), Outline(word));
    let Some(link) = LINKS.get(INGRESS.load()) else { return SILENT };
    // A reset is not answered with a reset (RFC 9293 section 3.5.2).
    let is_reset = outline.flags() & tcp::flag::RST != 0;
    if !may_be_answered(&ctx, outline) || !outline.is_tcp() || is_reset {
        return SILENT;
    }
    // Before a helper is called: else the compiler drops later checks of the frame's bounds that follow from this
    // one, and the verifier misses them.
    let Ok(header) = read(&ctx, outline.l4()) else { return SILENT };
    let segment = reset::answer_to(header, outline);
    if !is_allowed(clock::now()) {
        return SILENT;
    }
    if reset::build(&ctx, outline, link, segment).is_some() { ANSWERED } else { SILENT }
}

/// Neither an error about an error nor one about a later fragment, and to one host only.
#[inline(always)]
fn may_be_answered(ctx: &XdpContext, outline: Outline) -> bool {
    let is_ipv6 = outline.is_ipv6();
    let source = outline.l3() + if is_ipv6 { 8 } else { 12 };
    outline.may_be_answered() && read(ctx, source).is_ok_and(|word| is_one_host(is_ipv6, word))
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
fn reframe(ctx: &XdpContext, l3: usize, link: &Link, grow: usize, length: usize) -> Option<()> {
    let l2: [u16; 6] = read(ctx, 0).ok()?;
    let rest: [u16; 5] = read(ctx, 12).ok()?;
    // SAFETY: the helpers check room and length; pointers are taken anew after each.
    unsafe {
        if grow != 0 && bpf_xdp_adjust_head(ctx.ctx, -(grow as i32)) != 0 {
            return None;
        }
        let have = bpf_xdp_get_buff_len(ctx.ctx) as i32;
        if bpf_xdp_adjust_tail(ctx.ctx, length as i32 - have) != 0 {
            return None;
        }
        let mac = link.mac & MAC_MASK;
        *at::<[u16; 6]>(ctx, 0)? = [l2[3], l2[4], l2[5], mac as u16, (mac >> 16) as u16, (mac >> 32) as u16];
        // EtherType behind no, one or two tags.
        match l3 {
            14 => *at::<u16>(ctx, 12)? = rest[0],
            18 => *at::<[u16; 3]>(ctx, 12)? = [rest[0], rest[1], rest[2]],
            _ => *at::<[u16; 5]>(ctx, 12)? = rest,
        }
    }
    Some(())
}
