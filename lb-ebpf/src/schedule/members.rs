//! A look at every member of a generation. So a new connection costs the more the more members there are
//! (at most [`lb_common::generation::MAX_MEMBERS`]), as in IPVS.

use core::ffi::c_void;

use lb_common::{
    generation::{Header, Member, PIECE_WORDS, header_piece},
    scheduler::Look,
};

use super::repeat::{GO_ON, STOP, repeat, state};
use crate::maps::{ARENA, CONNS};

/// Lets `look` look at the members of the generation at `region`.
#[inline(always)]
pub fn each<L: Look + Copy>(region: u32, header: &Header, look: L) -> L {
    let walk = Walk { look, piece: header_piece(region) + 1, count: header.members as u32 };
    // As many as one turn looks at: without the call and the state of `repeat`, a quarter of their time.
    if L::AT_ONCE > 1 && walk.count <= L::AT_ONCE {
        return some(walk.look, walk.piece, 0, walk.count);
    }
    repeat(walk.count.div_ceil(L::AT_ONCE), visit::<L>, walk).look
}

#[derive(Clone, Copy)]
struct Walk<L> {
    look: L,
    /// Which the members begin.
    piece: u32,
    count: u32,
}

extern "C" fn visit<L: Look + Copy>(turn: u32, context: *mut c_void) -> i64 {
    // SAFETY: `each` passes a `Walk<L>` to `repeat`.
    let walk = unsafe { state::<Walk<L>>(context) };
    let first = turn * L::AT_ONCE;
    walk.look = some(walk.look, walk.piece, first, walk.count.wrapping_sub(first));
    if walk.look.is_over() { STOP } else { GO_ON }
}

/// Looks at the members from the one of number `first` on: at most so many as are `left`. The look is not where it stands:
/// what one member leaves to the next one goes through registers.
#[inline(always)]
fn some<L: Look>(mut look: L, piece: u32, first: u32, left: u32) -> L {
    const { assert!(PIECE_WORDS.is_multiple_of(L::AT_ONCE)) };
    let Some(piece) = ARENA.get(piece + first / PIECE_WORDS) else { return look };
    for step in 0..L::AT_ONCE {
        if step >= left {
            break;
        }
        let member = Member(piece[((first + step) % PIECE_WORDS) as usize]);
        if let Some(counts) = CONNS.get(member.dest()) {
            look.look(member, counts);
        }
    }
    look
}
