//! A look at every member of a generation. So a new connection costs the more the more members there are
//! (at most [`MAX_MEMBERS`]), as in IPVS.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use lb_common::{
    generation::{Arena, Header, MAX_MEMBERS, Member},
    scheduler::Look,
};

use super::{GO_ON, STOP, Words};
use crate::maps::CONNS;

/// Lets `look` look at the members of the generation at `region`.
#[inline(always)]
pub fn each<L: Look>(region: u32, header: &Header, look: L) -> L {
    let mut walk = Walk { look, members: region + header.members_at(), count: header.members as u32 };
    // SAFETY: the callback gets the pointer back and nothing else uses it meanwhile.
    unsafe {
        bpf_loop(MAX_MEMBERS, visit::<L> as *mut c_void, (&raw mut walk).cast(), 0);
    }
    walk.look
}

struct Walk<L> {
    look: L,
    members: u32,
    count: u32,
}

extern "C" fn visit<L: Look>(index: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `each` passed it.
    let walk = unsafe { &mut *walk.cast::<Walk<L>>() };
    if index >= walk.count {
        return STOP;
    }
    let Some(word) = Words.word(walk.members + index) else { return STOP };
    let member = Member(word);
    let Some(counts) = CONNS.get(member.dest()) else { return GO_ON };
    if walk.look.look(member, counts) { STOP } else { GO_ON }
}
