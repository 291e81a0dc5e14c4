//! lblc and lblcr: new connections go where those of the same VIP went, as long as that is not overloaded.
//! A service has one VIP, so what IPVS keeps in a table by address is one word of the service here.

use core::ptr;

use lb_common::{
    scheduler::{LBLC, Load, Most, Pressure, Set, WLC},
    service::Locality,
    tick::Tick,
};

use super::{header, load, load::schedule_least, members::each};
use crate::{
    clock,
    maps::{CONNS, REFRESH, ROTATIONS},
    record,
};

/// `sysctl_lblc_expiration`, `sysctl_lblcr_expiration`: 24 hours, here in units of [`REFRESH`], half a second.
const EXPIRATION: u32 = 2 * 86_400;

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_near(service: u32, region: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    let Some(rotation) = ROTATIONS.get_ptr_mut(service) else { return 0 };
    // SAFETY: only the address is taken.
    let word = unsafe { &raw mut (*rotation).locality };
    let load = load(service);
    if header.scheduler == LBLC { one(region, load, word) } else { set(region, load, word) }
}

/// lblc: the destination of the last connection.
#[inline(always)]
fn one(region: u32, load: Load, word: *mut u64) -> u32 {
    let now = clock::now();
    let mut dest = 0;
    let before = read(word);
    if before.number() != 0 && !is_old(before.tick(), now) && schedule_bears(region, before.number()) != 0 {
        dest = before.number();
    }
    if dest == 0 {
        dest = schedule_least(region, WLC as u32, load.0);
    }
    if dest != 0 {
        write(word, Locality::new(dest, now));
    }
    dest
}

/// lblcr: the least loaded of a set, which grows when that is overloaded, and shrinks with time.
#[inline(always)]
fn set(region: u32, load: Load, word: *mut u64) -> u32 {
    let now = clock::now();
    let found = schedule_of_set(region, load.0);
    let (size, mut dest) = ((found >> 32) as u32, found as u32);
    if size > 1 && is_old(read(word).tick(), now) {
        join(schedule_most(region, load.0), 0);
        write(word, Locality::new(read(word).number(), now));
    }
    if dest != 0 && schedule_bears(region, dest) != 0 {
        return dest;
    }
    dest = schedule_least(region, WLC as u32, load.0);
    if CONNS.get(dest).is_some_and(|counts| counts.joined == 0) {
        let number = read(word).number().wrapping_add(1);
        join(dest, if number == 0 { 1 } else { number });
        write(word, Locality::new(number, now));
    }
    dest
}

/// Whether a destination is a member that takes connections and is not under pressure.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule_bears(region: u32, dest: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    let pressure = each(region, &header, Pressure::on(dest));
    (pressure.takes && !pressure.is_overloaded()) as u32
}

/// `size of the set 32 | its least loaded 32`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule_of_set(region: u32, load: u32) -> u64 {
    let Some(header) = header(region) else { return 0 };
    let set = each(region, &header, Set::of(Load(load)));
    (set.size as u64) << 32 | set.found as u64
}

/// The most loaded of the set.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule_most(region: u32, load: u32) -> u32 {
    let Some(header) = header(region) else { return 0 };
    each(region, &header, Most::of(Load(load))).found
}

#[inline(always)]
fn join(dest: u32, number: u32) {
    if !record::is_dry()
        && let Some(counts) = CONNS.get_ptr_mut(dest)
    {
        // SAFETY: an aligned word of the map's value; of two CPUs the later one wins.
        unsafe { ptr::write_volatile(&raw mut (*counts).joined, number as u64) }
    }
}

#[inline(always)]
fn is_old(since: Tick, now: Tick) -> bool {
    now.until(since) > (REFRESH.load() * EXPIRATION) as i32
}

#[inline(always)]
fn read(word: *mut u64) -> Locality {
    // SAFETY: an aligned word of the map's value.
    Locality(unsafe { ptr::read_volatile(word) })
}

#[inline(always)]
fn write(word: *mut u64, locality: Locality) {
    if record::is_dry() {
        return;
    }
    // SAFETY: as above; of two CPUs the later one wins.
    unsafe { ptr::write_volatile(word, locality.0) }
}
