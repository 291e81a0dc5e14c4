//! rr and wrr: the next position of a rotation. Also where a flow without an entry is placed.

use core::ffi::c_void;

use lb_common::generation::{Arena, Header, MAX_MEMBERS, Search, from_table};

use super::{
    Words, header, is_overloaded,
    load::schedule_first,
    repeat::{GO_ON, STOP, repeat, state},
};
use crate::{maps::ROTATIONS, record, word::fetch_add};

/// Turns of the rotation that overloaded destinations may take before the members are looked
/// at one by one.
const TRIES: u32 = 32;

#[inline(always)]
pub fn next(service: u32, region: u32, header: &Header) -> u32 {
    let Some(rotation) = ROTATIONS.get_ptr_mut(service) else { return 0 };
    for turn in 0..TRIES {
        // SAFETY: only the address of a word of the map's value is taken.
        let position = fetch_add(unsafe { &raw mut (*rotation).position }, 1);
        // The cursor stands still then.
        let position = if record::is_dry() { position + turn as u64 } else { position };
        let dest = at(region, header, (position % header.period as u64) as u32);
        if dest != 0 && !is_overloaded(dest) {
            return dest;
        }
    }
    // Nothing but overloaded ones: whoever has room.
    schedule_first(region)
}

/// The destination at a position of the rotation.
#[inline(always)]
pub fn at(region: u32, header: &Header, position: u32) -> u32 {
    if header.table != 0 {
        return from_table(&Words, region, header, position).unwrap_or(0);
    }
    schedule_computed(region, position)
}

/// A rotation too long for a table: a walk over its levels and members.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule_computed(region: u32, position: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    let walk = Walk { region, search: Search::new(&header, position) };
    repeat(2 * MAX_MEMBERS, step, walk).search.found
}

#[derive(Clone, Copy)]
struct Walk {
    region: u32,
    search: Search,
}

extern "C" fn step(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `schedule_computed` passes a `Walk` to `repeat`.
    let walk = unsafe { state::<Walk>(context) };
    if walk.search.is_over(index) {
        return STOP;
    }
    match Words.word(walk.region + walk.search.word(index)) {
        Some(word) => {
            walk.search.step(index, word);
            GO_ON
        }
        None => STOP,
    }
}
