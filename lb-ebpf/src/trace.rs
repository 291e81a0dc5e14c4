//! Reports what becomes of packets, to those who ask (`lb trace`): in the build with feature `trace`, which is on the
//! interfaces only while somebody does. In the one that forwards every other day nothing of it is compiled.
//!
//! A packet whose headers nobody wants costs a look at the filters; steps and frame are noted only of one that may be
//! reported. What is reported is bounded by each filter's rate, and what is not is counted.

use aya_ebpf::programs::XdpContext;
use lb_common::verdict::Verdict;

use crate::packet::Packet;

/// A packet has been read: whether somebody wants it is known from here on. The frame is still as it came.
#[inline(always)]
pub fn came(ctx: &XdpContext, packet: &Packet) {
    #[cfg(feature = "trace")]
    on::came(ctx, packet);
    #[cfg(not(feature = "trace"))]
    let _ = (ctx, packet);
}

/// The same of a frame that is not for us, or that is not read.
#[inline(always)]
pub fn unread(ctx: &XdpContext) {
    #[cfg(feature = "trace")]
    on::unread(ctx);
    #[cfg(not(feature = "trace"))]
    let _ = ctx;
}

/// It has come to its end.
#[inline(always)]
pub fn ended(verdict: Verdict) {
    #[cfg(feature = "trace")]
    on::trace_ended(verdict as u32);
    #[cfg(not(feature = "trace"))]
    let _ = verdict;
}

#[cfg(feature = "trace")]
pub use on::trace_step;

#[cfg(feature = "trace")]
mod on {
    use core::slice;

    use aya_ebpf::{
        bindings::{BPF_RB_NO_WAKEUP, xdp_md},
        helpers::{
            bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_get_buff_len, generated::bpf_xdp_load_bytes,
        },
        programs::XdpContext,
    };
    use lb_common::{
        endpoint::Endpoint,
        record::Step,
        tick::Tick,
        trace::{Filter, HEAD, Headers, MAX_SNAP, SLOTS, Scratch},
        verdict::Verdict,
    };

    use crate::{
        clock,
        maps::{INGRESS, LOST, RING, SCRATCH, TRACES},
        packet::{ETH_LEN, Outline, Packet, Part, read},
        record,
    };

    #[inline(always)]
    pub fn came(ctx: &XdpContext, packet: &Packet) {
        trace_begin(ctx.ctx, packet.outline().0);
    }

    #[inline(always)]
    pub fn unread(ctx: &XdpContext) {
        trace_begin(ctx.ctx, 0);
    }

    /// Of the packet whose outline this is, or of a frame without one.
    #[inline(always)]
    fn headers(ctx: &XdpContext, outline: Outline) -> Result<Headers, Verdict> {
        let mut headers = Headers::default();
        if outline.0 == 0 {
            return Ok(headers);
        }
        if outline.is_ipv6() {
            let [a, b, c, d, e, f, g, h]: [u32; 8] = read(ctx, outline.l3() + 8)?;
            let word = |low: u32, high: u32| low as u64 | (high as u64) << 32;
            headers.source = [word(a, b), word(c, d)];
            headers.dest = [word(e, f), word(g, h)];
            headers.family = 6;
        } else {
            let [source, dest]: [u32; 2] = read(ctx, outline.l3() + 12)?;
            (headers.source[0], headers.dest[0]) = (source as u64, dest as u64);
            headers.family = 4;
        }
        let has_ports = outline.is(Part::Whole) || outline.is(Part::First);
        if has_ports {
            [headers.source_port, headers.dest_port] = read(ctx, outline.l4())?;
        }
        headers.protocol = outline.protocol();
        headers.flags = outline.flags();
        headers.fragment = (outline.is(Part::First) || outline.is(Part::Later)) as u8;
        headers.bytes = outline.bytes();
        Ok(headers)
    }

    /// Asks the filters, and notes the frame if it may be reported. Verified once, by itself (see `flow`).
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn trace_begin(ctx: *mut xdp_md, outline: u64) -> u32 {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: this CPU's own copy.
        let scratch = unsafe { &mut *scratch };
        scratch.seen.headers = headers(&XdpContext::new(ctx), Outline(outline)).unwrap_or_default();
        let now = clock::now();
        let (mut wanted, mut noting, mut snap) = (0, 0, 0);
        for slot in 0..SLOTS as u32 {
            let Some(filter) = TRACES.get(slot) else { break };
            if filter.on == 0 || Tick(filter.until).is_past(now) || !filter.wants(&scratch.seen.headers) {
                continue;
            }
            // SAFETY: a helper without arguments.
            if filter.sample != u32::MAX && unsafe { bpf_get_prandom_u32() } > filter.sample {
                continue;
            }
            wanted |= 1 << slot;
            if has_room(scratch, slot, filter, now) {
                noting = 1;
                snap = if filter.snap > snap { filter.snap } else { snap };
            }
        }
        (scratch.wanted, scratch.noting, scratch.service) = (wanted, noting, 0);
        if noting != 0 {
            note_frame(ctx, scratch, snap);
        }
        wanted
    }

    #[inline(always)]
    fn note_frame(ctx: *mut xdp_md, scratch: &mut Scratch, snap: u32) {
        let seen = &mut scratch.seen;
        // SAFETY: helpers that read the clock and the context.
        let (time, length) = unsafe { (bpf_ktime_get_ns(), bpf_xdp_get_buff_len(ctx) as u32) };
        (seen.time, seen.length, seen.snapped) = (time, length, 0);
        seen.ingress = INGRESS.load();
        seen.record.count = 0;
        let wanted = if snap > length { length } else { snap };
        // No frame is shorter. (The verifier of 6.1 learns nothing from a comparison with 0.)
        if wanted < ETH_LEN as u32 || wanted > MAX_SNAP as u32 {
            return;
        }
        // SAFETY: the buffer has MAX_SNAP bytes.
        let copied = unsafe { bpf_xdp_load_bytes(ctx, 0, (&raw mut seen.frame).cast(), wanted) };
        if copied == 0 {
            seen.snapped = wanted;
        }
    }

    /// Whether this CPU may still report something to a trace in this tick.
    #[inline(always)]
    fn has_room(scratch: &Scratch, slot: u32, filter: &Filter, now: Tick) -> bool {
        let [tick, reported] = scratch.reported[slot as usize % SLOTS];
        let used = if tick == now.0 { reported } else { 0 };
        used < filter.per_tick
    }

    /// The packet has come to a step (see `record`).
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn trace_step(step: u32, first: u64, second: u64) -> u32 {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: this CPU's own copy.
        let scratch = unsafe { &mut *scratch };
        if scratch.wanted == 0 {
            return 0;
        }
        if step == Step::Dest as u32 {
            scratch.service = second as u32 & 0xffff;
        } else if step == Step::Endpoints as u32 {
            let endpoint = if first != 0 { first } else { second };
            scratch.service = Endpoint(endpoint).service() as u32;
        }
        if scratch.noting == 0 {
            return 0;
        }
        record::note(&mut scratch.seen.record, step, first, second)
    }

    /// Reports it to those who want its end, too.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn trace_ended(verdict: u32) -> u32 {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: this CPU's own copy.
        let scratch = unsafe { &mut *scratch };
        if scratch.wanted == 0 {
            return 0;
        }
        let now = clock::now();
        let mut slots = 0;
        for slot in 0..SLOTS as u32 {
            let Some(filter) = TRACES.get(slot) else { break };
            if scratch.wanted >> slot & 1 == 0 || !filter.wants_end(scratch.service, verdict) {
                continue;
            }
            if scratch.noting == 0 || !has_room(scratch, slot, filter, now) {
                lost(slot, false);
                continue;
            }
            let reported = &mut scratch.reported[slot as usize % SLOTS];
            *reported = [now.0, if reported[0] == now.0 { reported[1] + 1 } else { 1 }];
            slots |= 1 << slot;
        }
        if slots == 0 {
            return 0;
        }
        (scratch.seen.slots, scratch.seen.verdict) = (slots, verdict);
        if !report(scratch) {
            for slot in 0..SLOTS as u32 {
                if slots >> slot & 1 != 0 {
                    lost(slot, true);
                }
            }
        }
        slots
    }

    /// Whether there was room. Nobody is woken: the agent looks every few milliseconds.
    #[inline(always)]
    fn report(scratch: &mut Scratch) -> bool {
        let snapped = scratch.seen.snapped;
        if snapped > MAX_SNAP as u32 {
            return false;
        }
        // SAFETY: so many bytes of the map's value.
        let said =
            unsafe { slice::from_raw_parts((&raw const scratch.seen).cast::<u8>(), HEAD + snapped as usize) };
        RING.output_untyped::<[u8]>(said, BPF_RB_NO_WAKEUP as u64).is_ok()
    }

    #[inline(always)]
    fn lost(slot: u32, ring_full: bool) {
        let Some(lost) = LOST.get_ptr_mut(slot) else { return };
        // SAFETY: this CPU's own copy.
        unsafe {
            if ring_full {
                (*lost).ring_full += 1;
            } else {
                (*lost).over_rate += 1;
            }
        }
    }
}
