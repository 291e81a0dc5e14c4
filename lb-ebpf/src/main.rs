//! The XDP program of `lb`: the way of a packet through the decisions of `lb-common`.
//!
//! parse → endpoint → flow (→ schedule) → forward → count; one file per step.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "BPF has 64-bit compare-and-swap only as compiler intrinsics")]
#![feature(core_intrinsics)]
#![feature(asm_experimental_arch)]

mod answer;
mod clock;
mod count;
mod endpoint;
mod flow;
mod forward;
mod fragment;
mod maps;
mod packet;
mod probe;
mod quoted;
mod record;
mod schedule;
mod table;
mod template;
mod trace;
mod word;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::verdict::Verdict;

use packet::{Packet, Part};

/// The program. `frags`: jumbo frames reach it in pieces, of which it needs only the first. There is
/// no second one without: a device map belongs to one kind (`bpf_prog_map_compatible`).
#[xdp(frags)]
pub fn lb(ctx: XdpContext) -> u32 {
    let verdict = match balance(&ctx) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    count::verdict(verdict);
    trace::ended(verdict);
    action(verdict)
}

/// Tells the agent what the flow table's clock says (run through BPF_PROG_TEST_RUN only).
#[xdp]
pub fn clock(_ctx: XdpContext) -> u32 {
    clock::publish();
    XDP_PASS
}

/// The way of a packet. Both arms are ways out; `Err` is for those that end it early.
#[inline(always)]
fn balance(ctx: &XdpContext) -> Result<Verdict, Verdict> {
    let mut packet = Packet::new();
    packet::parse(ctx, &mut packet).inspect_err(|_| trace::unread(ctx))?;
    let packet = packet;
    trace::came(ctx, &packet);
    let flow = if packet.part.is(Part::Later) {
        fragment::follow_first(ctx, &packet)?
    } else if packet.part.is(Part::Icmp) {
        quoted::find(ctx, &packet)?
    } else {
        let endpoints = endpoint::find(ctx, &packet).inspect_err(|_| fragment::passed(ctx, &packet))?;
        let flow = flow::find_or_open(&packet, &endpoints)
            .map_err(|refused| answer::refuse(ctx, &packet, &endpoints, refused))
            .inspect_err(|end| {
                // Nobody's, but for an endpoint that is not open.
                if matches!(end, Verdict::PassedNoService) {
                    fragment::passed(ctx, &packet);
                }
            })?;
        fragment::went(ctx, &packet, &flow);
        flow
    };
    forward::forward(ctx, &packet, &flow)
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::ForwardedTx
        | Verdict::AnsweredTtl
        | Verdict::AnsweredTooBig
        | Verdict::AnsweredNoFlow
        | Verdict::AnsweredNoBackend
        | Verdict::AnsweredBackendRemoved => XDP_TX,
        Verdict::ForwardedRedirect | Verdict::ForwardedProbe => XDP_REDIRECT,
        Verdict::PassedLocalBackend
        | Verdict::PassedNotForUs
        | Verdict::PassedNotIp
        | Verdict::PassedMalformed
        | Verdict::PassedNoService
        | Verdict::PassedNoFlow
        | Verdict::PassedNoBackend => XDP_PASS,
        _ => XDP_DROP,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here can panic, and the verifier would refuse an endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
