//! A look at every member of a generation. So a new connection costs the more the more members there are
//! (at most [`MAX_MEMBERS`]), as in IPVS.

use core::ffi::c_void;

use lb_common::{
    generation::{Arena, Header, MAX_MEMBERS, Member},
    scheduler::Look,
};

use super::{
    Words,
    repeat::{GO_ON, STOP, repeat, state},
};
use crate::maps::CONNS;

/// Lets `look` look at the members of the generation at `region`.
#[inline(always)]
pub fn each<L: Look + Copy>(region: u32, header: &Header, look: L) -> L {
    let walk = Walk { look, members: region + header.members_at(), count: header.members as u32 };
    repeat(MAX_MEMBERS, visit::<L>, walk).look
}

#[derive(Clone, Copy)]
struct Walk<L> {
    look: L,
    members: u32,
    count: u32,
}

extern "C" fn visit<L: Look>(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `each` passes a `Walk<L>` to `repeat`.
    let walk = unsafe { state::<Walk<L>>(context) };
    if index >= walk.count {
        return STOP;
    }
    let Some(word) = Words.word(walk.members + index) else { return STOP };
    let member = Member(word);
    let Some(counts) = CONNS.get(member.dest()) else { return GO_ON };
    if walk.look.look(member, counts) { STOP } else { GO_ON }
}
