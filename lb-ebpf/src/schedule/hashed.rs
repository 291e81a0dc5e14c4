//! sh, dh, mh: an address points into the generation's table.

use core::ffi::c_void;

use lb_common::{
    generation::from_table,
    hashed::{MH_TABLE, entry, key},
    scheduler::{DH, flag},
};

use super::{
    Words, header, is_overloaded,
    load::schedule_first,
    repeat::{GO_ON, STOP, repeat, state},
};

/// Where a connection begins. Entries of members that take no connections are 0: without a fallback, who hashes there is
/// refused, and so is who hashes to one that has too many.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_hashed(region: u32, addresses: u64, port: u32) -> u32 {
    pointed_to::<true>(region, addresses, port)
}

/// For a connection that `BEGINS`, or for any packet of one without an entry, which must not move because a member has got,
/// or lost, a connection too many.
#[inline(always)]
pub fn pointed_to<const BEGINS: bool>(region: u32, addresses: u64, port: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    if header.table == 0 {
        return 0;
    }
    let port = if header.flags & flag::PORT != 0 { port as u16 } else { 0 };
    let (client, vip) = (addresses as u32, (addresses >> 32) as u32);
    let key = if header.scheduler == DH { key(vip, 0) } else { key(client, port) };
    let first = entry(header.scheduler, key, 0, header.table);
    let dest = from_table(&Words, region, &header, first).unwrap_or(0);
    if dest != 0 && !(BEGINS && is_overloaded(dest)) {
        return dest;
    }
    if header.flags & flag::FALLBACK == 0 {
        return 0;
    }
    // Nobody has room: the table would be looked through in vain, with mh 4,093 entries for every connection that is refused.
    if BEGINS && schedule_first(region) == 0 {
        return 0;
    }
    let not_found = if BEGINS { 0 } else { STAYS };
    match repeat(MH_TABLE, look_on, Probe { region, key, found: not_found }).found {
        found if found != not_found => found,
        _ => 0,
    }
}

#[derive(Clone, Copy)]
struct Probe {
    region: u32,
    key: u32,
    /// At first 0, or [`STAYS`].
    found: u32,
}

/// No destination's id: whoever looks must not care who has too many connections. In a word that is there anyway, as the stack
/// of a program that traces has room for none on kernel 6.1.
const STAYS: u32 = u32::MAX;

extern "C" fn look_on(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `pointed_to` passes a `Probe` to `repeat`.
    let probe = unsafe { state::<Probe>(context) };
    let Some(hashes) = header(probe.region) else { return STOP };
    if index >= hashes.table {
        return STOP;
    }
    // The entry that was tried first: worked out anew for each, which is seldom, and keeps a word off the stack.
    let first = entry(hashes.scheduler, probe.key, 0, hashes.table);
    let at = entry(hashes.scheduler, probe.key, (index + first) % hashes.table, hashes.table);
    // Where the table stands is read now and not before, for the same reason.
    let Some(stands) = header(probe.region) else { return STOP };
    let dest = from_table(&Words, probe.region, &stands, at).unwrap_or(0);
    if dest == 0 || (probe.found == 0 && is_overloaded(dest)) {
        return GO_ON;
    }
    probe.found = dest;
    STOP
}
