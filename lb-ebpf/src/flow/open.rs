//! The first packet of a connection: its destination is scheduled, its flow stored.

use lb_common::{
    bucket::{self, Bucket, Candidate, Claim, candidate, claim, find},
    endpoint::{Endpoint, flag},
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey},
    guard::Guard,
    record::Step,
    service::{Rotation, Service},
    tcp::State,
    tick::Tick,
    value::{self, Value},
    verdict::{Event, Verdict},
};

use super::{
    Flow, Outcome, Segment,
    follow::{by_hash, is_over, timeout},
    is_wide, narrow_key, source, wide_key,
};
use crate::{
    clock, count,
    maps::{REFRESH, ROTATIONS, SERVICES},
    packet::Packet,
    record,
    schedule::{addresses, schedule_by_hash, schedule_next},
    table::{Side, Table},
    template::{Source, assure_template, find_template, template_store},
    word::{KernelWord, compare_and_swap},
};

/// Schedules a new connection and stores its flow. `again`: there is an entry of it that is over. Three calls one
/// after the other, not one within the other: the stack is short.
#[inline(always)]
pub fn open_under(
    packet: &Packet,
    segment: Segment,
    endpoint: Endpoint,
    again: bool,
) -> Result<Flow, Verdict> {
    let service = endpoint.service() as u32;
    if endpoint.has(flag::RULED) {
        source::admit(packet, segment, service)?;
    }
    let addresses = addresses(packet.source, packet.dest);
    let port = u16::from_be(packet.source_port()) as u32;
    let source = Source(packet.source);
    let persistent = endpoint.has(flag::PERSISTENT);
    let mut placed = if persistent { find_template(&source, endpoint) } else { 0 };
    if placed != 0 {
        placed |= flow_guard(service, segment.0);
    } else {
        placed = flow_schedule(service, segment.0, addresses, port);
        if Placed(placed).dest() == 0 {
            return Err(Verdict::DroppedNoBackend);
        }
        if persistent && !Placed(placed).is_held() {
            placed = template_store(&source, endpoint.0, placed);
        }
    }
    placed |= if again { Placed::AGAIN } else { 0 };
    let mut outcome = if Placed(placed).is_held() && !again {
        // Nothing to look for, nothing to store.
        Outcome::NO_ROOM.0
    } else if is_wide(packet, endpoint) {
        flow_open_wide(&wide_key(packet, endpoint), segment.0, service, placed)
    } else {
        flow_open_narrow(narrow_key(packet, endpoint).0, segment.0, service, placed)
    };
    if outcome & Outcome::ASSURES != 0 {
        assure_template(&source, endpoint, outcome as u32);
    } else if outcome == Outcome::NO_ROOM.0 {
        // Its destination has to be the same for every packet of the flow: as a template's is, and a hash's.
        if !Placed(placed).is_lasting() {
            placed = placed & Placed::HELD | schedule_by_hash(service, addresses, port) as u64;
        }
        outcome = flow_without_entry(service, segment.0, placed);
    }
    Outcome(outcome).end(endpoint).unwrap_or(Err(Verdict::DroppedNoBackend))
}

/// The destination of a new connection, and how it was found.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Placed(pub u64);

impl Placed {
    const BY_HASH: u64 = 1 << 32;
    /// A persistence template has it too.
    pub const CONTROLLED: u64 = 1 << 33;
    /// Flows come too fast: no entry is made for it.
    const HELD: u64 = 1 << 34;
    /// There is an entry of it that is over.
    const AGAIN: u64 = 1 << 35;

    #[inline(always)]
    pub fn dest(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn is_controlled(self) -> bool {
        self.0 & Self::CONTROLLED != 0
    }

    #[inline(always)]
    fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    #[inline(always)]
    fn is_again(self) -> bool {
        self.0 & Self::AGAIN != 0
    }

    #[inline(always)]
    fn is_by_hash(self) -> bool {
        self.0 & Self::BY_HASH != 0
    }

    /// Whether it is the same for every packet of the flow.
    #[inline(always)]
    fn is_lasting(self) -> bool {
        self.0 & (Self::BY_HASH | Self::CONTROLLED) != 0
    }
}

/// A new connection: stores its flow.
#[inline(always)]
fn open<B: Table>(key: &B::Key, segment: Segment, service: u32, placed: Placed) -> Outcome {
    let (first, second) = B::places(key, Side::NEW);
    let (Some(first), Some(second), Some(record)) =
        (B::bucket(first), B::bucket(second), SERVICES.get(service))
    else {
        return Outcome::MISS;
    };
    if segment.is_one_packet(record) {
        return Outcome::opened(placed.dest());
    }
    let now = clock::now();
    let value = first_value(placed, segment, record, now);
    if !record::is_dry() {
        B::sweep(now);
    }
    let mut before = Value::FREE;
    if placed.is_again() {
        // The flow's old entry, expired or closed, takes the new connection.
        before = retake(first, key, value, segment, record, now);
        if before.is_free() {
            before = retake(second, key, value, segment, record, now);
        }
    }
    if before.is_free() {
        if placed.is_held() {
            return Outcome::NO_ROOM;
        }
        before = store(first, second, key, value, now);
    }
    if before.is_locked() {
        return Outcome::NO_ROOM;
    }
    record::step(Step::Opened, value.0, before.0);
    if before.is_flow() {
        if !is_over(before, segment, record, now) {
            count::event(Event::Evicted);
        }
        count::ended(before, now);
    }
    count::opened(value);
    // Taken up in its middle, it is established.
    let assures = if placed.is_controlled() && value.state().is_established() { Outcome::ASSURES } else { 0 };
    // A connection that was placed by hash counted with its SYN.
    let outcome = if goes_on(placed, segment, record) {
        Outcome::known(placed.dest())
    } else {
        Outcome::opened(placed.dest())
    };
    Outcome(outcome.0 | assures)
}

/// Gives a flow's finished entry in `bucket` to its new connection; what it held, or
/// [`Value::FREE`] if there is none.
#[inline(always)]
fn retake<B: Bucket>(
    bucket: &B,
    key: &B::Key,
    value: Value,
    segment: Segment,
    service: &Service,
    now: Tick,
) -> Value {
    let hit = find(bucket, key);
    if !hit.is_miss()
        && is_over(hit.value, segment, service, now)
        && bucket::retake(bucket, hit, key, value, now)
    {
        hit.value
    } else {
        Value::FREE
    }
}

/// The value that a new flow begins with.
#[inline(always)]
pub fn first_value(placed: Placed, segment: Segment, service: &Service, now: Tick) -> Value {
    // One that went on by hash counts as half-open until a later packet.
    let goes_on = goes_on(placed, segment, service);
    let state = if goes_on { segment.hashed_state() } else { segment.next(State::NONE) };
    let hashed = if goes_on || placed.is_by_hash() { value::flag::HASHED } else { 0 };
    let controlled = if placed.is_controlled() { value::flag::CONTROLLED } else { 0 };
    let flags = hashed | controlled;
    Value::new(placed.dest(), state, flags, now.after(timeout(service, state)))
}

/// Whether the packet is one in the middle of a connection without an entry. One of a persistent client went where its
/// template says, and goes on like those that were placed by hash.
#[inline(always)]
fn goes_on(placed: Placed, segment: Segment, service: &Service) -> bool {
    !segment.begins() && (placed.is_by_hash() || !segment.is_taken_up(service))
}

/// Takes the slot of the two buckets that yields most readily; the value it held, or
/// a locked value if none yields.
#[inline(always)]
pub fn store<B: Bucket>(first: &B, second: &B, key: &B::Key, value: Value, now: Tick) -> Value {
    for _ in 0..2 {
        let (a, b): (Candidate, Candidate) = (candidate(first, now), candidate(second, now));
        let claimed =
            if b.beats(&a) { claim(second, b, key, value, now) } else { claim(first, a, key, value, now) };
        match claimed {
            Claim::Stored(before) => return before,
            Claim::Full => return Value::locked(now),
            Claim::Lost => {}
        }
    }
    Value::locked(now)
}

/// No room, or none is given: an established flow is never evicted, so the new one is placed by hash, and for a
/// while so is every packet of the service whose flow is not known. `placed`: see [`Placed`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_without_entry(service: u32, segment: u32, placed: u64) -> u64 {
    match SERVICES.get(service) {
        Some(record) if Placed(placed).dest() != 0 => {
            without_entry(service, Placed(placed), Segment(segment), record, clock::now()).0
        }
        _ => Outcome::NO_BACKEND.0,
    }
}

#[inline(always)]
fn without_entry(service: u32, placed: Placed, segment: Segment, record: &Service, now: Tick) -> Outcome {
    let dest = placed.dest();
    // As long as packets come that find no room: theirs are connections that go on.
    let state = if segment.is_udp() { State::UDP } else { segment.hashed_state() };
    let until = now.after(timeout(record, state));
    record::step(Step::WithoutEntry, dest as u64, 0);
    if !record::is_dry()
        && let Some(rotation) = ROTATIONS.get_ptr_mut(service)
    {
        // SAFETY: an aligned word of the map's value, read and stored whole; the latest writer wins.
        unsafe {
            let word = &raw mut (*rotation).hashed_until;
            let before = word.read_volatile();
            if !Rotation::places_by_hash(before, now)
                || until.until(Tick(before as u32)) >= REFRESH.load() as i32
            {
                word.write_volatile(Rotation::until(until));
            }
        }
    }
    if !segment.begins() {
        return Outcome::known(dest);
    }
    count::event(if placed.is_held() { Event::Guarded } else { Event::PlacedByHash });
    // Of datagrams without an entry nobody knows which one begins something.
    if segment.is_udp() { Outcome::known(dest) } else { Outcome::opened(dest) }
}

// Verified once, by themselves (see `flow`).

/// The guard, of a connection that a template leads.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_guard(service: u32, segment: u32) -> u64 {
    match SERVICES.get(service) {
        Some(record) => guard(service, record, Segment(segment)),
        None => 0,
    }
}

/// Where a connection goes that no template leads; also whether the guard holds it, in the same call, since calls are
/// what a flood costs most. See [`Placed`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_schedule(service: u32, segment: u32, addresses: u64, port: u32) -> u64 {
    let Some(record) = SERVICES.get(service) else { return 0 };
    let segment = Segment(segment);
    let held = guard(service, record, segment);
    let is_hashed = !segment.is_one_packet(record) && (held != 0 || by_hash(service, segment, clock::now()));
    let placed = if is_hashed {
        schedule_by_hash(service, addresses, port) as u64 | Placed::BY_HASH | held
    } else {
        schedule_next(service, addresses, port) as u64
    };
    record::step(Step::Scheduled, Placed(placed).dest() as u64, is_hashed as u64);
    placed
}

/// Whether the service's new flows come too fast for this one to get an entry: [`Placed::HELD`] or 0. A connection
/// whose handshake is complete has a rate of its own, so that a flood of SYNs does not keep it from its entry.
#[inline(always)]
fn guard(service: u32, record: &Service, segment: Segment) -> u64 {
    if record.guard == 0 || segment.is_one_packet(record) {
        return 0;
    }
    let Some(rotation) = ROTATIONS.get_ptr_mut(service) else { return 0 };
    // SAFETY: only the address of a word of the map's value is taken.
    let word = unsafe {
        if segment.begins() { &raw mut (*rotation).beginning } else { &raw mut (*rotation).completing }
    };
    let now = clock::now();
    // SAFETY: an aligned word of the map's value.
    let before = Guard(unsafe { word.read_volatile() });
    let after = before.take(now, record.guard);
    if after == before {
        record::step(Step::Guard, service as u64, 0);
        return Placed::HELD;
    }
    // Lost to another CPU: one flow more than the rate.
    compare_and_swap(word, before.0, after.0);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
#[cfg_attr(feature = "lru", expect(unreachable_code, reason = "what a bench compares with"))]
extern "C" fn flow_open_narrow(key: u64, segment: u32, service: u32, placed: u64) -> u64 {
    #[cfg(feature = "lru")]
    return super::instead::open(NarrowKey(key), Segment(segment), service, Placed(placed)).0;
    open::<NarrowBucket<KernelWord>>(&NarrowKey(key), Segment(segment), service, Placed(placed)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
#[cfg_attr(feature = "lru", expect(unreachable_code, reason = "what a bench compares with"))]
extern "C" fn flow_open_wide(key: *const WideKey, segment: u32, service: u32, placed: u64) -> u64 {
    // SAFETY: callers pass a reference; the verifier wants the check for null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    #[cfg(feature = "lru")]
    return super::instead::open_wide(key, Segment(segment), service, Placed(placed)).0;
    open::<WideBucket<KernelWord>>(key, Segment(segment), service, Placed(placed)).0
}
