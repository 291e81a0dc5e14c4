//! Step 3: the flow a packet belongs to, found or opened. Either way it names a destination.

use lb_common::{
    bucket::{Bucket, Candidate, Claim, Hit, SLOTS, Word, candidate, claim, expire, find},
    endpoint::{Endpoint, flag},
    flow::{NarrowBucket, NarrowKey, Secret, WideBucket, WideKey, candidates},
    protocol,
    service::{Rotation, Service},
    tcp::{self, State},
    tick::Tick,
    value::{self, Value},
    verdict::{Event, Verdict},
};

use crate::{
    clock, count,
    endpoint::Endpoints,
    maps::{
        FLOWS4, FLOWS4_MASK, FLOWSW, FLOWSW_MASK, REFRESH, ROTATIONS, SECRET_A, SECRET_B, SERVICES, SWEEP,
    },
    packet::Packet,
    schedule,
    word::KernelWord,
};

/// State of a flow that was placed by hash; its timeout is also how long hash placement goes on.
const HASHED_STATE: State = State::SYN_RECV;

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Flow {
    pub dest: u32,
    pub service: u32,
    /// The packet opened it.
    pub opened: bool,
}

/// Finds the packet's flow under its endpoints, the exact one first, or opens one.
#[inline(always)]
pub fn find_or_open(packet: &Packet, endpoints: &Endpoints) -> Result<Flow, Verdict> {
    let opens = packet.protocol == protocol::UDP || tcp::opens(packet.flags);
    let mut open = false;
    if let Some(endpoint) = endpoints.exact {
        open = endpoint.has(flag::OPEN);
        let outcome = if packet.is_ipv6 || endpoint.has(flag::WILDCARD) {
            wide(packet, endpoint.0, opens)
        } else {
            narrow(packet, endpoint, opens)
        };
        if let Some(end) = outcome.end(endpoint) {
            return end;
        }
    }
    if let Some(endpoint) = endpoints.wildcard {
        open = open || endpoint.has(flag::OPEN);
        if let Some(end) = wide(packet, endpoint.0, opens).end(endpoint) {
            return end;
        }
    }
    // A deleted service without flows is no service.
    Err(if open { Verdict::DroppedNoFlow } else { Verdict::PassedNoService })
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

#[inline(always)]
fn secret() -> Secret {
    Secret { a: SECRET_A.load(), b: SECRET_B.load() }
}

/// IPv4 and an exact port: the hot path.
#[inline(always)]
fn narrow(packet: &Packet, endpoint: Endpoint, opens: bool) -> Outcome {
    let key = NarrowKey::new(packet.source[0] as u32, packet.source_port, endpoint.id());
    let hash = secret().mix(key.0);
    let (first, second) = candidates(hash, FLOWS4_MASK.load());
    in_table(FLOWS4.get(first), || FLOWS4.get(second), &key, hash, packet, endpoint, opens)
}

/// IPv6, and any port of an address. A function of its own, called for both kinds of endpoint.
#[inline(never)]
fn wide(packet: &Packet, endpoint: u64, opens: bool) -> Outcome {
    let endpoint = Endpoint(endpoint);
    let key = WideKey::new(secret(), packet.source, packet.source_port, packet.dest_port, endpoint.id());
    let (first, second) = candidates(key.fingerprint, FLOWSW_MASK.load());
    in_table(FLOWSW.get(first), || FLOWSW.get(second), &key, key.fingerprint, packet, endpoint, opens)
}

#[inline(always)]
fn in_table<'a, B: Table + 'a>(
    first: Option<&'a B>,
    second: impl Fn() -> Option<&'a B>,
    key: &B::Key,
    hash: u64,
    packet: &Packet,
    endpoint: Endpoint,
    opens: bool,
) -> Outcome {
    let Some(first) = first else { return Outcome::MISS };
    let service = endpoint.service() as u32;
    let Some(record) = SERVICES.get(service) else { return Outcome::MISS };
    let now = clock::now();
    // Lookup order is what decides if one flow stands in both buckets.
    let (mut bucket, mut hit) = (first, find(first, key));
    if hit.is_miss() {
        let Some(second) = second() else { return Outcome::MISS };
        (bucket, hit) = (second, find(second, key));
    }
    if !hit.is_miss() {
        let outcome = follow(bucket, hit, key, packet, record, now);
        if outcome.0 != 0 {
            return outcome;
        }
    }
    if !endpoint.has(flag::OPEN) || !(opens || by_hash(service, packet, now)) {
        return Outcome::MISS;
    }
    let Some(second) = second() else { return Outcome::MISS };
    let dest = if opens { schedule::next(service) } else { schedule::by_hash(service, hash) };
    if dest == 0 {
        return Outcome::NO_BACKEND;
    }
    let value = first_value(dest, packet, record, now, opens);
    // The flow's old entry, expired or closed, takes the new connection.
    let before = if !hit.is_miss() && bucket.value(hit.slot).cas(hit.value.0, value.0) {
        hit.value
    } else {
        B::sweep(now);
        store(first, second, key, value, now)
    };
    if before.is_locked() {
        return without_entry(service, hash, record, now, opens);
    }
    if before.is_flow() {
        if !before.expiry().is_past(now) && !before.state().is_reusable() {
            count::event(Event::Evicted);
        }
        count::ended(before);
    }
    count::opened(value);
    Outcome::opened(dest)
}

/// Moves a found flow on. A miss if it has expired, or if the packet starts a new connection on it.
#[inline(always)]
fn follow<B: Bucket>(
    bucket: &B,
    hit: Hit,
    key: &B::Key,
    packet: &Packet,
    service: &Service,
    now: Tick,
) -> Outcome {
    let (mut slot, mut value) = (hit.slot, hit.value);
    for _ in 0..2 {
        let (dest, state) = (value.dest(), value.state());
        if value.expiry().is_past(now) || (state.is_reusable() && tcp::opens(packet.flags)) {
            return Outcome::MISS;
        }
        let next = if packet.protocol == protocol::TCP { tcp::next(state, packet.flags) } else { state };
        let expiry = now.after(timeout(service, next));
        let gained = expiry.until(value.expiry());
        // A packet that changes nothing must not write to shared memory.
        if next == state && gained < REFRESH.load() as i32 {
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

#[inline(always)]
fn timeout(service: &Service, state: State) -> u32 {
    service.timeouts[state.0 as usize & (State::COUNT - 1)]
}

/// Whether a packet of no known flow may belong to a connection that was placed by hash.
#[inline(always)]
fn by_hash(service: u32, packet: &Packet, now: Tick) -> bool {
    if packet.flags & (tcp::flag::ACK | tcp::flag::RST) != tcp::flag::ACK {
        return false;
    }
    match ROTATIONS.get(service) {
        Some(rotation) => Rotation::places_by_hash(rotation.hashed_until, now),
        None => false,
    }
}

/// The value that a new flow begins with.
#[inline(always)]
fn first_value(dest: u32, packet: &Packet, service: &Service, now: Tick, opens: bool) -> Value {
    let state = if packet.protocol == protocol::UDP {
        State::UDP
    } else if opens {
        tcp::next(State::NONE, packet.flags)
    } else {
        // Its handshake was not seen: it counts as half-open until a later packet.
        HASHED_STATE
    };
    let flags = if opens { 0 } else { value::flag::HASHED };
    Value::new(dest, state, flags, now.after(timeout(service, state)))
}

/// Takes the slot of the two buckets that yields most readily; the value it held, or
/// [`Value::LOCKED`] if none yields.
#[inline(always)]
fn store<B: Bucket>(first: &B, second: &B, key: &B::Key, value: Value, now: Tick) -> Value {
    for _ in 0..2 {
        let (a, b): (Candidate, Candidate) = (candidate(first, now), candidate(second, now));
        let claimed = if b.beats(&a) { claim(second, b, key, value) } else { claim(first, a, key, value) };
        match claimed {
            Claim::Stored(before) => return before,
            Claim::Full => return Value::LOCKED,
            Claim::Lost => {}
        }
    }
    Value::LOCKED
}

/// No room: an established flow is never evicted, so the new one is placed by hash, and for a while
/// so is every packet of the service whose flow is not known.
#[inline(always)]
fn without_entry(service: u32, hash: u64, record: &Service, now: Tick, opens: bool) -> Outcome {
    let dest = schedule::by_hash(service, hash);
    if dest == 0 {
        return Outcome::NO_BACKEND;
    }
    if opens {
        count::event(Event::PlacedByHash);
        if let Some(rotation) = ROTATIONS.get_ptr_mut(service) {
            let until = Rotation::until(now.after(timeout(record, HASHED_STATE)));
            // SAFETY: an aligned word of the map's value, stored whole; the latest writer wins.
            unsafe { (&raw mut (*rotation).hashed_until).write_volatile(until) };
        }
    }
    Outcome::opened(dest)
}

/// What differs between the two tables when a CPU does its share of the sweeping.
trait Table: Bucket {
    /// Frees what has expired in the next bucket of this CPU's round, counts included, so that
    /// nothing depends on the agent being alive.
    fn sweep(now: Tick);
}

impl Table for NarrowBucket<KernelWord> {
    #[inline(always)]
    fn sweep(now: Tick) {
        if let Some(bucket) = turn(0).and_then(|turn| FLOWS4.get(turn & FLOWS4_MASK.load())) {
            sweep_bucket(bucket, now);
        }
    }
}

impl Table for WideBucket<KernelWord> {
    #[inline(always)]
    fn sweep(now: Tick) {
        if let Some(bucket) = turn(1).and_then(|turn| FLOWSW.get(turn & FLOWSW_MASK.load())) {
            sweep_bucket(bucket, now);
        }
    }
}

#[inline(always)]
fn turn(table: u32) -> Option<u32> {
    let turn = SWEEP.get_ptr_mut(table)?;
    // SAFETY: this CPU's own copy.
    unsafe {
        *turn = (*turn).wrapping_add(1);
        Some(*turn)
    }
}

#[inline(always)]
fn sweep_bucket<B: Bucket>(bucket: &B, now: Tick) {
    for slot in 0..SLOTS {
        if let Some(value) = expire(bucket, slot, now, Value::LOCKED) {
            count::event(Event::Expired);
            count::ended(value);
        }
    }
}
