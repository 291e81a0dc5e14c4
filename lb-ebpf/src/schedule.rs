//! Step 4: which destination a new connection gets, out of the service's published generation.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::bpf_loop;
use lb_common::generation::{
    Arena, HEADER_WORDS, Header, MAX_MEMBERS, Member, Published, Search, from_table,
};

use crate::{
    maps::{ARENA, CONNS, ROTATIONS, SERVICES},
    word::fetch_add,
};

// What a callback of bpf_loop returns.
const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// Turns of the rotation that overloaded destinations may take before the members are looked
/// at one by one.
const TRIES: u32 = 32;

/// The next destination of the service's rotation; 0 if there is none that takes connections.
///
/// This and the other exported functions here take and return numbers only: the kernel verifies such
/// a function once, by itself, instead of anew at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_next(service: u32) -> u32 {
    let Some((region, header)) = generation(service) else { return 0 };
    let Some(rotation) = ROTATIONS.get_ptr_mut(service) else { return 0 };
    for _ in 0..TRIES {
        // SAFETY: only the address of a word of the map's value is taken.
        let position = fetch_add(unsafe { &raw mut (*rotation).position }, 1);
        let dest = at(region, &header, (position % header.period as u64) as u32);
        if dest != 0 && !is_overloaded(dest) {
            return dest;
        }
    }
    schedule_spare(region)
}

/// The first member that takes connections, where the rotation met nothing but overloaded ones.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_spare(region: u32) -> u32 {
    let (Some(first), Some(second)) = (Words.word(region), Words.word(region + 1)) else { return 0 };
    let header = Header::from_words([first, second]);
    let mut spare = Spare { members: region + header.members_at(), count: header.members as u32, found: 0 };
    // SAFETY: the callback gets the pointer back and nothing else uses it meanwhile.
    unsafe {
        bpf_loop(MAX_MEMBERS, look_at as *mut c_void, (&raw mut spare).cast(), 0);
    }
    spare.found
}

struct Spare {
    members: u32,
    count: u32,
    found: u32,
}

extern "C" fn look_at(index: u32, spare: *mut c_void) -> i64 {
    // SAFETY: `schedule_spare` passed a `Spare`.
    let spare = unsafe { &mut *spare.cast::<Spare>() };
    if index >= spare.count {
        return STOP;
    }
    let Some(word) = Words.word(spare.members + index) else { return STOP };
    let member = Member(word);
    if member.weight() == 0 || is_overloaded(member.dest()) {
        return GO_ON;
    }
    spare.found = member.dest();
    STOP
}

/// The destination that a flow without an entry gets as long as the generation stands.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_by_hash(service: u32, hash: u64) -> u32 {
    let Some((region, header)) = generation(service) else { return 0 };
    at(region, &header, ((hash >> 16) as u32) % header.period)
}

struct Words;

impl Arena for Words {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        ARENA.get(index).copied()
    }
}

/// Where the service's generation stands; none if it serves nobody.
#[inline(always)]
fn generation(service: u32) -> Option<(u32, Header)> {
    let record = SERVICES.get(service)?;
    // SAFETY: one aligned word, which the agent replaces whole.
    let published = Published(unsafe { ptr::read_volatile(&raw const record.generation) });
    if published.length() == 0 {
        return None;
    }
    let region = published.offset();
    let header = Header::from_words([Words.word(region)?, Words.word(region + 1)?]);
    if header.period == 0 { None } else { Some((region, header)) }
}

#[inline(always)]
fn at(region: u32, header: &Header, position: u32) -> u32 {
    if header.table != 0 {
        return from_table(&Words, region, header, position).unwrap_or(0);
    }
    schedule_computed(region, position)
}

/// A rotation too long for a table: a walk over its levels and members.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_computed(region: u32, position: u32) -> u32 {
    let (Some(first), Some(second)) = (Words.word(region), Words.word(region + 1)) else { return 0 };
    let header = Header::from_words([first, second]);
    let mut walk = Walk { words: region + HEADER_WORDS, search: Search::new(&header, position) };
    // SAFETY: the callback gets the pointer back and nothing else uses it meanwhile.
    unsafe {
        bpf_loop(2 * MAX_MEMBERS, step as *mut c_void, (&raw mut walk).cast(), 0);
    }
    walk.search.found
}

struct Walk {
    words: u32,
    search: Search,
}

extern "C" fn step(index: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `computed` passed a `Walk`.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.search.is_over(index) {
        return STOP;
    }
    match Words.word(walk.words + index) {
        Some(word) => {
            walk.search.step(index, word);
            GO_ON
        }
        None => STOP,
    }
}

#[inline(always)]
fn is_overloaded(dest: u32) -> bool {
    CONNS.get(dest).is_some_and(|counts| counts.overloaded != 0)
}
