//! Counting, per CPU: who was served, and what became of each packet.

use lb_common::{
    counters::{ConnCounts, Counters, is_overloaded},
    dest::Dest,
    record::Step,
    tcp::{self, State},
    tick::Tick,
    value::Value,
    verdict::{Event, Verdict},
};

use crate::{
    maps::{CONNS, DEST_COUNTERS, DESTS, SERVICE_COUNTERS, VERDICTS},
    record,
    word::fetch_add,
};

#[inline(always)]
pub fn verdict(verdict: Verdict) {
    record::step(Step::Verdict, verdict as u64, 0);
    bump(verdict as u32);
}

#[inline(always)]
pub fn event(event: Event) {
    record::step(Step::Event, event as u64, 0);
    bump(event.index());
}

#[inline(always)]
fn bump(index: u32) {
    if record::is_dry() {
        return;
    }
    if let Some(count) = VERDICTS.get_ptr_mut(index) {
        // SAFETY: this CPU's own copy.
        unsafe { *count += 1 }
    }
}

/// A packet of `bytes` (IP total length) went to `dest`; `opened` if it made a new connection.
#[inline(always)]
pub fn served(service: u32, dest: u32, bytes: u32, opened: bool) {
    if record::is_dry() {
        return;
    }
    add(SERVICE_COUNTERS.get_ptr_mut(service), bytes, opened);
    // SAFETY: only the address of a part of the map's value is taken.
    add(DEST_COUNTERS.get_ptr_mut(dest).map(|all| unsafe { &raw mut (*all).served }), bytes, opened);
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, bytes: u32, opened: bool) {
    if let Some(counters) = counters {
        // SAFETY: this CPU's own copy.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += bytes as u64;
            if opened {
                (*counters).connections += 1;
            }
        }
    }
}

/// What a client's TCP segment tells of `dest`, whose flow was in `state`.
#[inline(always)]
pub fn heard(dest: u32, state: State, flags: u8) {
    let (resets, retransmits) = (tcp::resets(state, flags), tcp::retransmits_syn(state, flags));
    if (!resets && !retransmits) || record::is_dry() {
        return;
    }
    if let Some(counters) = DEST_COUNTERS.get_ptr_mut(dest) {
        // SAFETY: this CPU's own copy.
        unsafe {
            (*counters).resets += resets as u64;
            (*counters).retransmissions += retransmits as u64;
        }
    }
}

/// A flow was stored.
#[inline(always)]
pub fn opened(value: Value) {
    let active = value.state().is_active();
    // Not by a call, which would cost more than it does.
    change(value.dest(), active as i64, !active as i64, 0);
}

/// A flow's slot was freed or given away. Templates are not counted.
#[inline(always)]
pub fn ended(value: Value, now: Tick) {
    if value.is_template() {
        return;
    }
    let active = value.state().is_active();
    // One that was evicted before might have been completed.
    let incomplete = value.is_incomplete() && value.expiry().is_past(now);
    count_change(value.dest(), -(active as i64), -(!active as i64), incomplete as u64);
}

/// A flow went from one state to another.
#[inline(always)]
pub fn moved(dest: u32, from: State, to: State) {
    if from.is_active() != to.is_active() {
        let active = if to.is_active() { 1 } else { -1 };
        count_change(dest, active, -active, 0);
    }
}

/// Adds to the counts of `dest`. Verified once, as it takes numbers only.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_change(dest: u32, active: i64, inactive: i64, incomplete: u64) -> u32 {
    change(dest, active, inactive, incomplete);
    // A function that is verified by itself must return a number.
    0
}

#[inline(always)]
fn change(dest: u32, active: i64, inactive: i64, incomplete: u64) {
    if record::is_dry() {
        return;
    }
    let Some(counts) = CONNS.get_ptr_mut(dest) else { return };
    // SAFETY: pointers into the map's value, valid for the program's run.
    let (active_word, inactive_word, incomplete_word) =
        unsafe { (&raw mut (*counts).active, &raw mut (*counts).inactive, &raw mut (*counts).incomplete) };
    if active != 0 {
        fetch_add(active_word, active as u64);
    }
    if inactive != 0 {
        fetch_add(inactive_word, inactive as u64);
    }
    if incomplete != 0 {
        fetch_add(incomplete_word, incomplete);
    }
    if let Some(dest) = DESTS.get(dest) {
        overload(counts, dest);
    }
}

/// Keeps the overload mark of a destination with thresholds.
#[inline(always)]
fn overload(counts: *mut ConnCounts, dest: &Dest) {
    if dest.upper == 0 {
        return;
    }
    // SAFETY: as in `change`; a mark that races with another CPU's is corrected by the next change.
    unsafe {
        let total = (*counts).active + (*counts).inactive;
        let was = (*counts).overloaded != 0;
        let is = is_overloaded(total, dest.upper, dest.lower, was);
        if is != was {
            (*counts).overloaded = is as u64;
        }
    }
}
