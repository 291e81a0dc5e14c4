//! Step 3: the flow a packet belongs to, found or opened. Either way it names a destination.

use lb_common::{
    bucket::{self, Bucket, Candidate, Claim, Hit, Word, candidate, claim, find},
    endpoint::{Endpoint, flag},
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey, candidates},
    service::{self, Rotation, Service},
    tick::Tick,
    value::{self, Value},
    verdict::{Event, Verdict},
};

use crate::{
    clock, count,
    endpoint::Endpoints,
    maps::{REFRESH, ROTATIONS, SERVICES},
    packet::Packet,
    schedule::{schedule_by_hash, schedule_next},
    segment::{
        Segment, by_hash, is_abandoned, is_over, is_retired, segment_first_value, segment_goes_on, timeout,
    },
    table::{Table, secret},
    word::KernelWord,
};

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Flow {
    pub dest: u32,
    pub service: u32,
    /// The packet opened it.
    pub opened: bool,
}

/// Finds the packet's flow under its endpoints, the exact one first, or opens one in that order. What
/// is known goes first, so that a service that is added to a port leaves the wildcard's flows alone.
#[inline(always)]
pub fn find_or_open(packet: &Packet, endpoints: &Endpoints) -> Result<Flow, Verdict> {
    let segment = Segment::new(packet.protocol, packet.flags);
    let (mut takes_new, mut opener) = (false, None);
    if let Some(endpoint) = endpoints.exact {
        takes_new = endpoint.has(flag::OPEN);
        let outcome = if is_wide(packet, endpoint) {
            wide(packet, segment, endpoint)
        } else {
            narrow(packet, segment, endpoint)
        };
        if outcome.0 == Outcome::TO_OPEN.0 {
            opener = Some(endpoint);
        } else if let Some(end) = outcome.end(endpoint) {
            return end;
        }
    }
    if let Some(endpoint) = endpoints.wildcard {
        takes_new = takes_new || endpoint.has(flag::OPEN);
        let outcome = wide(packet, segment, endpoint);
        if outcome.0 != Outcome::TO_OPEN.0 {
            if let Some(end) = outcome.end(endpoint) {
                return end;
            }
        } else if opener.is_none() {
            opener = Some(endpoint);
        }
    }
    if let Some(endpoint) = opener {
        let outcome = if is_wide(packet, endpoint) {
            Outcome(flow_open_wide(&wide_key(packet, endpoint), segment.0, endpoint.0))
        } else {
            Outcome(flow_open_narrow(narrow_key(packet, endpoint).0, segment.0, endpoint.0))
        };
        if let Some(end) = outcome.end(endpoint) {
            if end.is_ok() {
                forget_finished(packet, endpoints);
            }
            return end;
        }
    }
    // A deleted service without flows is no service.
    Err(if takes_new { Verdict::DroppedNoFlow } else { Verdict::PassedNoService })
}

/// A finished flow of a deleted service may be left, and would be found before the one that has begun.
#[inline(always)]
fn forget_finished(packet: &Packet, endpoints: &Endpoints) {
    if let Some(deleted) = endpoints.exact.filter(|exact| !exact.has(flag::OPEN)) {
        if is_wide(packet, deleted) {
            flow_forget_wide(&wide_key(packet, deleted));
        } else {
            flow_forget_narrow(narrow_key(packet, deleted).0);
        }
    }
}

/// A destination, a verdict, or nothing, in one register: BPF functions return no more.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Outcome(u64);

impl Outcome {
    const MISS: Self = Self(0);
    const OPENED: u64 = 1 << 32;
    const REFUSED: u64 = 1 << 33;
    /// The only refusal there is.
    const NO_BACKEND: Self = Self(Self::REFUSED);
    /// Not found, and may be opened. Returned rather than done at once: the stack is short.
    const TO_OPEN: Self = Self(1 << 34);

    #[inline(always)]
    fn known(dest: u32) -> Self {
        Self(dest as u64)
    }

    #[inline(always)]
    fn opened(dest: u32) -> Self {
        Self(dest as u64 | Self::OPENED)
    }

    #[inline(always)]
    fn end(self, endpoint: Endpoint) -> Option<Result<Flow, Verdict>> {
        if self.0 == 0 {
            None
        } else if self.0 & Self::REFUSED != 0 {
            Some(Err(Verdict::DroppedNoBackend))
        } else {
            Some(Ok(Flow {
                dest: self.0 as u32,
                service: endpoint.service() as u32,
                opened: self.0 & Self::OPENED != 0,
            }))
        }
    }
}

/// IPv4 and an exact port: the hot path.
#[inline(always)]
fn narrow(packet: &Packet, segment: Segment, endpoint: Endpoint) -> Outcome {
    in_table::<NarrowBucket<KernelWord>>(&narrow_key(packet, endpoint), segment, endpoint)
}

/// IPv6, and any port of an address.
#[inline(always)]
fn wide(packet: &Packet, segment: Segment, endpoint: Endpoint) -> Outcome {
    Outcome(flow_in_wide(&wide_key(packet, endpoint), segment.0, endpoint.0))
}

/// Which table has the endpoint's flows. A packet to port 0 has the wildcard for its exact endpoint.
#[inline(always)]
fn is_wide(packet: &Packet, endpoint: Endpoint) -> bool {
    packet.is_ipv6 || endpoint.has(flag::WILDCARD)
}

#[inline(always)]
fn narrow_key(packet: &Packet, endpoint: Endpoint) -> NarrowKey {
    NarrowKey::new(packet.source[0] as u32, packet.source_port, endpoint.id())
}

#[inline(always)]
fn wide_key(packet: &Packet, endpoint: Endpoint) -> WideKey {
    WideKey::new(secret(), packet.source, packet.source_port, packet.dest_port, endpoint.id())
}

#[inline(always)]
fn in_table<B: Table>(key: &B::Key, segment: Segment, endpoint: Endpoint) -> Outcome {
    let (first, second) = candidates(B::hash(key), B::mask());
    let service = endpoint.service() as u32;
    let (Some(mut bucket), Some(record)) = (B::bucket(first), SERVICES.get(service)) else {
        return Outcome::MISS;
    };
    // Lookup order is what decides if one flow stands in both buckets.
    let mut hit = find(bucket, key);
    if hit.is_miss() {
        let Some(other) = B::bucket(second) else { return Outcome::MISS };
        (bucket, hit) = (other, find(other, key));
    }
    let now = clock::now();
    if !hit.is_miss() && !is_abandoned(hit.value, service, segment) {
        let outcome = follow(bucket, hit, key, segment, record, now);
        if outcome.0 != 0 {
            return outcome;
        }
    }
    if endpoint.has(flag::OPEN) && (segment.begins() || segment_goes_on(service, segment.0) != 0) {
        Outcome::TO_OPEN
    } else {
        Outcome::MISS
    }
}

/// Moves a found flow on. A miss if it has expired, or if the packet starts a new connection on it.
#[inline(always)]
fn follow<B: Bucket>(
    bucket: &B,
    hit: Hit,
    key: &B::Key,
    segment: Segment,
    service: &Service,
    now: Tick,
) -> Outcome {
    let (mut slot, mut value) = (hit.slot, hit.value);
    for _ in 0..2 {
        let (dest, state) = (value.dest(), value.state());
        if is_over(value, segment, now) {
            return Outcome::MISS;
        }
        let next = segment.next(state);
        let expiry = now.after(timeout(service, next));
        let gained = expiry.until(value.expiry());
        // A packet that changes nothing must not write to shared memory.
        if next == state && !is_worth_a_write(gained) {
            return Outcome::known(dest);
        }
        // A removed backend's packets are dropped, and must not keep the flow alive: it ends, and the
        // client's next one goes elsewhere.
        if is_retired(dest) {
            return Outcome::known(dest);
        }
        if bucket.value(slot).cas(value.0, value.moved_to(next, expiry).0) {
            count::moved(dest, state, next);
            return Outcome::known(dest);
        }
        // Another CPU moved it: look again, once, so that a FIN is not lost to a refresh.
        let again = find(bucket, key);
        if again.is_miss() {
            return Outcome::known(dest);
        }
        (slot, value) = (again.slot, again.value);
    }
    Outcome::known(value.dest())
}

/// Whether an expiry that moves by so many ticks does: backwards, where a timeout was made shorter.
#[inline(always)]
fn is_worth_a_write(gained: i32) -> bool {
    let refresh = REFRESH.load();
    // One comparison for both bounds.
    (gained as u32).wrapping_add(refresh) >= 2 * refresh
}

/// A new connection: chooses its destination and stores the flow, if the service remembers them.
#[inline(always)]
fn open<B: Table>(key: &B::Key, segment: Segment, endpoint: Endpoint) -> Outcome {
    let service = endpoint.service() as u32;
    if SERVICES.get(service).is_some_and(|record| record.flags & service::flag::ONE_PACKET != 0) {
        let dest = schedule_next(service);
        return if dest == 0 { Outcome::NO_BACKEND } else { Outcome::opened(dest) };
    }
    let hash = B::hash(key);
    let (first, second) = candidates(hash, B::mask());
    let (Some(first), Some(second)) = (B::bucket(first), B::bucket(second)) else { return Outcome::MISS };
    let now = clock::now();
    let hashed = by_hash(service, segment, now);
    let dest = if hashed { schedule_by_hash(service, hash) } else { schedule_next(service) };
    if dest == 0 {
        return Outcome::NO_BACKEND;
    }
    let value = Value(segment_first_value(dest, service, segment.0, hashed as u32));
    B::sweep(now);
    // The flow's old entry, expired, closed or abandoned, takes the new connection.
    let mut before = retake(first, key, value, service, segment, now);
    if before.is_free() {
        before = retake(second, key, value, service, segment, now);
    }
    if before.is_free() {
        before = store(first, second, key, value, now);
        if before.is_locked() {
            return without_entry(service, hash, segment, now);
        }
        if before.is_flow() && !is_over(before, segment, now) {
            count::event(Event::Evicted);
        }
    }
    if before.is_flow() {
        count::ended(before);
    }
    Outcome(flow_stored(value.0, segment.0))
}

/// Gives a flow's finished entry in `bucket` to its new connection; what it held, or
/// [`Value::FREE`] if there is none.
#[inline(always)]
fn retake<B: Bucket>(
    bucket: &B,
    key: &B::Key,
    value: Value,
    service: u32,
    segment: Segment,
    now: Tick,
) -> Value {
    let hit = find(bucket, key);
    if !hit.is_miss()
        && (is_over(hit.value, segment, now) || is_abandoned(hit.value, service, segment))
        && bucket::retake(bucket, hit, key, value, now)
    {
        hit.value
    } else {
        Value::FREE
    }
}

/// Takes the slot of the two buckets that yields most readily; the value it held, or
/// a locked value if none yields.
#[inline(always)]
fn store<B: Bucket>(first: &B, second: &B, key: &B::Key, value: Value, now: Tick) -> Value {
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

/// No room: an established flow is never evicted, so the new one is placed by hash, and for a while
/// so is every packet of the service whose flow is not known.
#[inline(always)]
fn without_entry(service: u32, hash: u64, segment: Segment, now: Tick) -> Outcome {
    let dest = schedule_by_hash(service, hash);
    if dest == 0 {
        return Outcome::NO_BACKEND;
    }
    // As long as packets come that find no room: theirs are connections that go on.
    let until = Value(segment_first_value(dest, service, segment.0, 1)).expiry();
    if let Some(rotation) = ROTATIONS.get_ptr_mut(service) {
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
    count::event(Event::PlacedByHash);
    // Of datagrams without an entry nobody knows which one begins something.
    if segment.is_udp() { Outcome::known(dest) } else { Outcome::opened(dest) }
}

/// Lets a flow expire now.
#[inline(always)]
fn forget<B: Table>(key: &B::Key) -> u32 {
    let (first, second) = candidates(B::hash(key), B::mask());
    let mut forgotten = 0;
    for index in [first, second] {
        let Some(bucket) = B::bucket(index) else { break };
        let hit = find(bucket, key);
        let expired = hit.value.moved_to(hit.value.state(), clock::now());
        if !hit.is_miss() && bucket.value(hit.slot).cas(hit.value.0, expired.0) {
            forgotten += 1;
        }
    }
    forgotten
}

// Functions with numbers (and a pointer that they check) for arguments: the kernel verifies each
// once, by itself, instead of anew for every way that leads to a call.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open_narrow(key: u64, segment: u32, endpoint: u64) -> u64 {
    open::<NarrowBucket<KernelWord>>(&NarrowKey(key), Segment(segment), Endpoint(endpoint)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open_wide(key: *const WideKey, segment: u32, endpoint: u64) -> u64 {
    // SAFETY: callers pass a reference; the verifier wants the check for null.
    match unsafe { key.as_ref() } {
        Some(key) => open::<WideBucket<KernelWord>>(key, Segment(segment), Endpoint(endpoint)).0,
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_in_wide(key: *const WideKey, segment: u32, endpoint: u64) -> u64 {
    // SAFETY: as above.
    match unsafe { key.as_ref() } {
        Some(key) => in_table::<WideBucket<KernelWord>>(key, Segment(segment), Endpoint(endpoint)).0,
        None => 0,
    }
}

/// Counts the flow that was stored; where its packet goes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_stored(value: u64, segment: u32) -> u64 {
    let (value, segment) = (Value(value), Segment(segment));
    count::opened(value);
    // A connection that was placed by hash counted with its SYN.
    let goes_on = value.flags() & value::flag::HASHED != 0 && !segment.begins();
    if goes_on { Outcome::known(value.dest()).0 } else { Outcome::opened(value.dest()).0 }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_forget_narrow(key: u64) -> u32 {
    forget::<NarrowBucket<KernelWord>>(&NarrowKey(key))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_forget_wide(key: *const WideKey) -> u32 {
    // SAFETY: as above.
    match unsafe { key.as_ref() } {
        Some(key) => forget::<WideBucket<KernelWord>>(key),
        None => 0,
    }
}
