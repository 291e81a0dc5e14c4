//! A flow that is known: where it goes, and what the packet changes of it.

use lb_common::{
    bucket::{Hit, SLOTS, Word, find},
    dest,
    endpoint::{Endpoint, flag},
    record::{Step, followed},
    service::{Rotation, Service},
    tcp::{self, State},
    tick::Tick,
    value::{self, Value},
};

use super::{Outcome, Segment};
use crate::{
    clock, count,
    maps::{DESTS, REFRESH, ROTATIONS, SERVICES},
    record,
    table::{Side, Table, is_migrating},
};

/// A flow of which this packet changes nothing. A miss otherwise.
#[inline(always)]
pub fn steady<B: Table>(key: &B::Key, segment: Segment, endpoint: Endpoint) -> Outcome {
    // They change something, or are counted. Said first, it saves the tests for them further down. Steps are noted
    // by `follow`, which comes to the same end.
    if segment.flags() & (tcp::flag::SYN | tcp::flag::RST) != 0 || record::is_dry() {
        return Outcome::MISS;
    }
    let (first, second) = B::places(key, Side::NEW);
    let (Some(bucket), Some(record)) = (B::bucket(first), SERVICES.get(endpoint.service() as u32)) else {
        return Outcome::MISS;
    };
    // Lookup order is what decides if one flow stands in both buckets.
    let mut hit = find(bucket, key);
    if hit.is_miss() {
        let Some(other) = B::bucket(second) else { return Outcome::MISS };
        hit = find(other, key);
    }
    let now = clock::now();
    if hit.is_miss() || is_over(hit.value, segment, record, now) {
        return Outcome::MISS;
    }
    let next = segment.next(hit.value.state());
    if !changes(hit.value, next, now.after(timeout(record, next))) {
        if record::is_kept() {
            record::step(Step::Flow, hit.value.0, followed(hit.value.expiry().until(now), next.0, false));
        }
        return Outcome::known(hit.value.dest());
    }
    Outcome::MISS
}

/// The packet's flow, moved on; or whether one may be opened.
#[inline(always)]
pub fn in_table<B: Table>(key: &B::Key, segment: Segment, endpoint: Endpoint, side: Side) -> Outcome {
    let (first, second) = B::places(key, side);
    let service = endpoint.service() as u32;
    // Twice, so that a FIN is not lost to another CPU that refreshes the flow.
    let (mut dest, mut again) = (0, 0);
    for _ in 0..2 {
        let (mut index, mut hit) = (first, find_in::<B>(first, key));
        if hit.is_miss() {
            (index, hit) = (second, find_in::<B>(second, key));
        }
        if hit.is_miss() {
            if is_migrating() {
                // The agent has moved it: it is looked for in the other table.
                dest = 0;
            }
            break;
        }
        let outcome = B::follow(index << SLOT_BITS | hit.slot as u32, hit.value, segment, service);
        if outcome == Outcome::MISS {
            (dest, again) = (0, Outcome::AGAIN);
            break;
        }
        if outcome != Outcome::LOST {
            return outcome;
        }
        dest = hit.value.dest();
    }
    if dest != 0 {
        return Outcome::known(dest);
    }
    let Some(record) = SERVICES.get(service) else { return Outcome::MISS };
    let may_open = segment.begins() || segment.is_taken_up(record) || by_hash(service, segment, clock::now());
    if endpoint.has(flag::OPEN) && may_open { Outcome(Outcome::TO_OPEN.0 | again) } else { Outcome::MISS }
}

#[inline(always)]
fn find_in<B: Table>(index: u32, key: &B::Key) -> Hit {
    match B::bucket(index) {
        Some(bucket) => find(bucket, key),
        None => Hit::MISS,
    }
}

/// Bits of a slot's number within its bucket.
const SLOT_BITS: u32 = SLOTS.ilog2();

/// Moves on the flow that was found at `place` (bucket and slot) with `value`. A miss if it has expired, or if
/// the packet starts a new connection on it; lost if another CPU was quicker.
///
/// Its arguments are numbers: wherever the flow was found, the verifier walks this once.
#[inline(always)]
pub fn follow<B: Table>(place: u32, value: Value, segment: Segment, service: u32) -> Outcome {
    let (Some(bucket), Some(record)) = (B::bucket(place >> SLOT_BITS), SERVICES.get(service)) else {
        return Outcome::MISS;
    };
    let now = clock::now();
    let (dest, state) = (value.dest(), value.state());
    let (next, is_over) = (segment.next(state), is_over(value, segment, record, now));
    if record::is_kept() {
        record::step(Step::Flow, value.0, followed(value.expiry().until(now), next.0, is_over));
    }
    if is_over {
        return Outcome::MISS;
    }
    let expiry = now.after(timeout(record, next));
    // A removed backend's packets are dropped, and must not keep the flow alive: it ends, and the
    // client's next one goes elsewhere.
    if is_retired(dest) {
        return Outcome::known(dest);
    }
    let changes = changes(value, next, expiry);
    let slot = place as usize & (SLOTS - 1);
    if changes && !bucket.value(slot).cas(value.0, value.moved_to(next, expiry).0) {
        return Outcome::LOST;
    }
    count::heard(dest, state, segment.flags());
    if !changes {
        return Outcome::known(dest);
    }
    count::moved(dest, state, next);
    let controlled = value.flags() & value::flag::CONTROLLED != 0;
    if controlled && next.is_established() && state != next {
        Outcome(dest as u64 | Outcome::ASSURES)
    } else {
        Outcome::known(dest)
    }
}

#[inline(always)]
fn is_retired(dest: u32) -> bool {
    DESTS.get(dest).is_some_and(|record| record.flags & dest::flag::RETIRED != 0)
}

/// Whether a packet that takes its flow to `next` until `expiry` has to write that to shared memory. A timeout
/// that was made shorter has to be written, too.
#[inline(always)]
pub fn changes(value: Value, next: State, expiry: Tick) -> bool {
    next != value.state() || expiry.until(value.expiry()).unsigned_abs() >= REFRESH.load()
}

/// Whether a stored flow is none to this packet. A controlled connection's entry is not given to another
/// destination by a SYN (`conn_reuse_mode` in `ip_vs_core.c`).
#[inline(always)]
pub fn is_over(value: Value, segment: Segment, service: &Service, now: Tick) -> bool {
    value.expiry().is_past(now)
        || (value.state().is_reusable()
            && tcp::opens(segment.flags())
            && value.flags() & value::flag::CONTROLLED == 0)
        || (segment.is_rescheduled(service) && takes_nothing_new(value.dest(), segment))
}

/// Whether what begins on a flow goes to another destination: to a removed one nothing goes, to one of weight 0
/// no SYN and no INIT (`ip_vs_in_hook` under `expire_nodest_conn`).
#[inline(always)]
fn takes_nothing_new(dest: u32, segment: Segment) -> bool {
    DESTS.get(dest).is_some_and(|record| {
        record.flags & dest::flag::RETIRED != 0 || (!segment.is_udp() && record.weight == 0)
    })
}

#[inline(always)]
pub fn timeout(service: &Service, state: State) -> u32 {
    service.timeouts[state.0 as usize & (State::COUNT - 1)]
}

/// Whether a packet of no known flow may belong to a connection that was placed by hash: one in the middle, a SYN
/// that comes again, and any datagram, which does not say whether it begins something.
#[inline(always)]
pub fn by_hash(service: u32, segment: Segment, now: Tick) -> bool {
    let goes_on = segment.flags() & (tcp::flag::ACK | tcp::flag::RST) == tcp::flag::ACK;
    if !segment.begins() && !goes_on {
        return false;
    }
    match ROTATIONS.get(service) {
        Some(rotation) => Rotation::places_by_hash(rotation.hashed_until, now),
        None => false,
    }
}
