//! `bpf_loop` with a state that the verifier knows nothing of.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;

use crate::maps::STATE;

/// What a turn returns.
pub const GO_ON: i64 = 0;
pub const STOP: i64 = 1;

/// Bytes of the largest state.
pub const MAX_STATE: usize = 64;

/// Takes turns with `state`, at most `times`; what has become of it. `turn` gets the turn's number and a pointer that
/// [`state`] understands.
///
/// A state on the stack will not do: kernels before 6.8 verify the callback for its first turn alone, with what they
/// know of the stack then ("found: 0"), and cut out the branches that this turn cannot take ("found already"). What
/// stands in a map they never know.
#[inline(always)]
pub fn repeat<S: Copy>(times: u32, turn: extern "C" fn(u32, *mut c_void) -> i64, state: S) -> S {
    const { assert!(size_of::<S>() <= MAX_STATE && align_of::<S>() <= 8) };
    let Some(kept) = STATE.get_ptr_mut(0) else { return state };
    let mut kept: *mut S = kept.cast();
    // SAFETY: the map's value is large and aligned enough, and this CPU's alone; nothing else runs on it before the
    // program ends. The callback gets the pointer to `kept` back, which lives as long.
    unsafe {
        kept.write(state);
        bpf_loop(times, turn as *mut c_void, (&raw mut kept).cast(), 0);
        kept.read()
    }
}

/// The state of a turn.
///
/// # Safety
/// `context` is what [`repeat`] passed to a turn with a state of this type.
#[inline(always)]
pub unsafe fn state<'a, S>(context: *mut c_void) -> &'a mut S {
    // SAFETY: the caller's.
    unsafe { &mut **context.cast::<*mut S>() }
}
