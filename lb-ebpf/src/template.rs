//! Persistence: the template that says where a client's connections go. See [`lb_common::template`].

use lb_common::{
    bucket::{self, Bucket, Word, find},
    dest,
    endpoint::Endpoint,
    flow::{WideBucket, WideKey},
    record::Step,
    service::{self, Service},
    template::{ASSURED, NONE, Owner, key, renewed, value},
    verdict::Event,
};

use crate::{
    clock, count,
    flow::{
        open::{Placed, store},
        peek::peek,
    },
    maps::{DESTS, SERVICES},
    record,
    table::{Side, Table, on_both_sides, secret},
    word::KernelWord,
};

type Templates = WideBucket<KernelWord>;

/// The client's address as loaded.
#[repr(C)]
pub struct Source(pub [u64; 2]);

/// [`template_find`] wherever the template stands.
#[inline(always)]
pub fn find_template(source: &Source, endpoint: Endpoint) -> u64 {
    on_both_sides(|side| template_find(source, endpoint.0, side.0), |placed| placed != 0)
}

/// Where the template of `source` leads, for what is about a connection and not of it: nothing changes. 0 if there is none
/// that holds.
#[inline(always)]
pub fn peek_template(source: &Source, endpoint: Endpoint) -> u32 {
    on_both_sides(|side| template_peek(source, endpoint.0, side.0), |dest| dest != 0) as u32
}

/// [`template_assure`] wherever the template stands.
#[inline(always)]
pub fn assure_template(source: &Source, endpoint: Endpoint, dest: u32) {
    on_both_sides(|side| template_assure(source, endpoint.0, side.0, dest), |assured| assured != 0);
}

/// Where the template of `source` leads, as a [`Placed`], and its timeout begun anew; 0 if there is none that
/// holds.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn template_find(source: *const Source, endpoint: u64, side: u32) -> u64 {
    let Some((key, record)) = key_of(source, endpoint) else { return 0 };
    let (first, second) = Templates::places(&key, Side(side));
    let now = clock::now();
    for index in [first, second] {
        let Some(bucket) = Templates::bucket(index) else { break };
        let hit = find(bucket, &key);
        if hit.is_miss() || hit.value.expiry().is_past(now) {
            continue;
        }
        let dest = hit.value.dest();
        record::step(Step::Template, dest as u64, holds(record, dest) as u64);
        if !holds(record, dest) {
            // For good, should its destination come back (`ip_vs_check_template`).
            bucket.value(hit.slot).cas(hit.value.0, hit.value.moved_to(hit.value.state(), now).0);
            break;
        }
        // Lost to another CPU, which begins it anew as well.
        let renewed = renewed(hit.value, record.persistence, record.rearm, now);
        bucket.value(hit.slot).cas(hit.value.0, renewed.0);
        count::event(Event::TemplateHit);
        return dest as u64 | Placed::CONTROLLED;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn template_peek(source: *const Source, endpoint: u64, side: u32) -> u64 {
    let Some((key, record)) = key_of(source, endpoint) else { return 0 };
    // Within this call: one more would be too deep for the stack of the program that traces, under Linux 6.1.
    let dest = peek::<Templates>(&key, Side(side));
    if dest != 0 && holds(record, dest) { dest as u64 } else { 0 }
}

/// Stores the template of `source` for where its connection was placed, in the place of one that does not hold
/// any more; `placed`, now controlled if there was room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn template_store(source: *const Source, endpoint: u64, placed: u64) -> u64 {
    let Some((key, record)) = key_of(source, endpoint) else { return placed };
    let (first, second) = Templates::places(&key, Side::NEW);
    let (Some(first), Some(second)) = (Templates::bucket(first), Templates::bucket(second)) else {
        return placed;
    };
    let now = clock::now();
    record::step(Step::TemplateMade, Placed(placed).dest() as u64, 0);
    let value = value(Placed(placed).dest(), NONE, now.after(record.persistence), record.rearm);
    for bucket in [first, second] {
        let hit = find(bucket, &key);
        if !hit.is_miss() && bucket::retake(bucket, hit, &key, value, now) {
            return placed | Placed::CONTROLLED;
        }
    }
    let before = store(first, second, &key, value, now);
    if before.is_locked() {
        count::event(Event::NoTemplate);
        return placed;
    }
    if before.is_flow() {
        if !before.expiry().is_past(now) {
            count::event(Event::Evicted);
        }
        count::ended(before, now);
    }
    placed | Placed::CONTROLLED
}

/// A connection to `dest` was established: of the template, if that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn template_assure(source: *const Source, endpoint: u64, side: u32, dest: u32) -> u64 {
    let Some((key, _)) = key_of(source, endpoint) else { return 0 };
    let (first, second) = Templates::places(&key, Side(side));
    for index in [first, second] {
        let Some(bucket) = Templates::bucket(index) else { break };
        let hit = find(bucket, &key);
        if !hit.is_miss() && hit.value.dest() == dest {
            let assured = hit.value.moved_to(ASSURED, hit.value.expiry());
            return bucket.value(hit.slot).cas(hit.value.0, assured.0) as u64;
        }
    }
    0
}

#[inline(always)]
fn key_of(source: *const Source, endpoint: u64) -> Option<(WideKey, &'static Service)> {
    // SAFETY: callers pass a reference; the verifier wants the check for null.
    let source = unsafe { source.as_ref() }?;
    let endpoint = Endpoint(endpoint);
    let record = SERVICES.get(endpoint.service() as u32)?;
    let owner = Owner::new(record.flags, endpoint.service(), endpoint.id());
    Some((key(secret(), source.0, record.mask, owner), record))
}

/// Whether new connections may still be led to a template's destination. Its overload mark does not matter.
#[inline(always)]
fn holds(service: &Service, dest: u32) -> bool {
    let Some(record) = DESTS.get(dest) else { return false };
    record.flags & (dest::flag::RETIRED | dest::flag::OUT | dest::flag::USED) == dest::flag::USED
        && !(service.flags & service::flag::EXPIRE_QUIESCENT != 0 && record.weight == 0)
}
