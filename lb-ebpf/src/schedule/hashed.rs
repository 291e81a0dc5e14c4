//! sh, dh, mh: an address points into the generation's table.

use core::ffi::c_void;

use lb_common::{
    generation::from_table,
    hashed::{MH_TABLE, entry, key},
    scheduler::{DH, flag},
};

use super::{
    Words, header, is_overloaded,
    repeat::{GO_ON, STOP, repeat, state},
};

/// Entries of members that take no connections are 0: without a fallback, who hashes there is refused. So is who hashes to
/// one that has too many, if it is [`NEW`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_hashed(region: u32, addresses: u64, port: u32, whom: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    if header.table == 0 {
        return 0;
    }
    let port = if header.flags & flag::PORT != 0 { port as u16 } else { 0 };
    let (client, vip) = (addresses as u32, (addresses >> 32) as u32);
    let key = if header.scheduler == DH { key(vip, 0) } else { key(client, port) };
    let first = entry(header.scheduler, key, 0, header.table);
    let dest = from_table(&Words, region, &header, first).unwrap_or(0);
    if dest != 0 && may_go_to(dest, whom) {
        return dest;
    }
    if header.flags & flag::FALLBACK == 0 {
        return 0;
    }
    repeat(MH_TABLE, look_on, Probe { region, key, whom, found: 0 }).found
}

/// For whom [`schedule_hashed`] looks: a connection that begins; or any packet of one that has no entry, which must not
/// move because somebody has got, or lost, a connection too many.
pub const NEW: u32 = 0;
pub const WITHOUT_ENTRY: u32 = 1;

#[inline(always)]
fn may_go_to(dest: u32, whom: u32) -> bool {
    whom == WITHOUT_ENTRY || !is_overloaded(dest)
}

#[derive(Clone, Copy)]
struct Probe {
    region: u32,
    key: u32,
    whom: u32,
    found: u32,
}

extern "C" fn look_on(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `schedule_hashed` passes a `Probe` to `repeat`.
    let probe = unsafe { state::<Probe>(context) };
    let Some(header) = header(probe.region) else { return STOP };
    if index >= header.table {
        return STOP;
    }
    // The entry that was tried first: worked out anew for each, which is seldom, and keeps a word off the stack.
    let first = entry(header.scheduler, probe.key, 0, header.table);
    let at = entry(header.scheduler, probe.key, (index + first) % header.table, header.table);
    let dest = from_table(&Words, probe.region, &header, at).unwrap_or(0);
    if dest == 0 || !may_go_to(dest, probe.whom) {
        return GO_ON;
    }
    probe.found = dest;
    STOP
}
