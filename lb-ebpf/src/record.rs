//! What the program notes of its way: in the build for `lb explain`, feature `explain`, which is run by
//! BPF_PROG_TEST_RUN alone and leaves nothing else behind; and in the one for `lb trace`, feature `trace`, which forwards
//! (see `trace`). In the one that forwards every other day nothing of it is compiled.

use lb_common::record::Step;

/// Whether nothing may be written that the next packet, or another program, reads.
#[inline(always)]
pub const fn is_dry() -> bool {
    cfg!(feature = "explain")
}

/// Whether steps are noted.
#[inline(always)]
pub const fn is_kept() -> bool {
    cfg!(any(feature = "explain", feature = "trace"))
}

/// The packet has come to a step.
#[inline(always)]
pub fn step(step: Step, first: u64, second: u64) {
    #[cfg(feature = "explain")]
    record_step(step as u32, first, second);
    #[cfg(feature = "trace")]
    crate::trace::trace_step(step as u32, first, second);
    #[cfg(not(any(feature = "explain", feature = "trace")))]
    let _ = (step, first, second);
}

/// Verified once, by itself (see `flow`).
#[cfg(feature = "explain")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn record_step(step: u32, first: u64, second: u64) -> u32 {
    let Some(record) = crate::maps::RECORD.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map's value; packets are explained one at a time.
    note(unsafe { &mut *record }, step, first, second)
}

/// 1 if there was room for it.
#[cfg(any(feature = "explain", feature = "trace"))]
#[inline(always)]
pub fn note(record: &mut lb_common::record::Record, step: u32, first: u64, second: u64) -> u32 {
    let at = record.count as usize;
    if at >= lb_common::record::STEPS {
        return 0;
    }
    record.steps[at] = [step as u64, first, second];
    record.count = at as u64 + 1;
    1
}
