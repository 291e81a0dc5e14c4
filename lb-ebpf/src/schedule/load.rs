//! lc, wlc, sed, nq, fo, ovf, and the less loaded of two that twos draws.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use lb_common::{
    generation::Header,
    scheduler::{Draw, FO, First, LC, Least, Load, Look, NQ, OVF, SED, Total, WLC},
};

use super::{header, members::each};
use crate::maps::CONNS;

/// The least loaded member, in the sense of `scheduler` and [`Load`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_least(region: u32, scheduler: u32, load: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    let load = Load(load);
    match scheduler as u8 {
        LC => least::<LC>(region, &header, load),
        SED => least::<SED>(region, &header, load),
        NQ => least::<NQ>(region, &header, load),
        FO => least::<FO>(region, &header, load),
        OVF => least::<OVF>(region, &header, load),
        _ => least::<WLC>(region, &header, load),
    }
}

#[inline(always)]
fn least<const SCHEDULER: u8>(region: u32, header: &Header, load: Load) -> u32 {
    each(region, header, Least::<SCHEDULER>::of(load)).found()
}

/// The less loaded of two members that are drawn.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_drawn(region: u32, load: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    let total = each(region, &header, Total::default()).0;
    // SAFETY: without arguments, nothing can be wrong about the call.
    let random = unsafe { [bpf_get_prandom_u32(), bpf_get_prandom_u32()] };
    let drawn = each(region, &header, Draw::new(total, random)).drawn;
    let mut least = Least::<WLC>::of(Load(load));
    for member in drawn {
        if let Some(counts) = CONNS.get(member.dest()) {
            least.look(member, counts);
        }
    }
    least.found()
}

/// The first member that takes connections.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_first(region: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    each(region, &header, First::default()).0
}
