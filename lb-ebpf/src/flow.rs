//! Step 3: the flow a packet belongs to, found or opened. Either way it names a destination.

mod open;

use lb_common::{
    bucket::{Bucket, Hit, Word, find},
    dest,
    endpoint::{Endpoint, flag},
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey, candidates},
    protocol,
    service::{Rotation, Service},
    tcp::{self, State},
    tick::Tick,
    value::Value,
    verdict::Verdict,
};

use self::open::open_under;
use crate::{
    clock, count,
    endpoint::Endpoints,
    maps::{DESTS, REFRESH, ROTATIONS, SERVICES},
    packet::Packet,
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
        let end = open_under(packet, segment, endpoint)?;
        forget_finished(packet, endpoints);
        return Ok(end);
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

/// What the state machine needs of a packet: protocol, and TCP flags.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Segment(u32);

impl Segment {
    #[inline(always)]
    fn new(protocol: u8, flags: u8) -> Self {
        Self((protocol as u32) << 8 | flags as u32)
    }

    #[inline(always)]
    fn is_udp(self) -> bool {
        self.0 >> 8 == protocol::UDP as u32
    }

    #[inline(always)]
    fn flags(self) -> u8 {
        self.0 as u8
    }

    /// Whether it may open a flow.
    #[inline(always)]
    fn opens(self) -> bool {
        self.is_udp() || tcp::opens(self.flags())
    }

    #[inline(always)]
    fn next(self, state: State) -> State {
        if self.is_udp() { State::UDP } else { tcp::next(state, self.flags()) }
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
    /// Not found, and may be opened.
    const TO_OPEN: Self = Self(1 << 34);
    /// Neither bucket has a slot that yields.
    const NO_ROOM: Self = Self(1 << 35);

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
    if !hit.is_miss() {
        let outcome = follow(bucket, hit, key, segment, record, now);
        if outcome.0 != 0 {
            return outcome;
        }
    }
    if endpoint.has(flag::OPEN) && (segment.opens() || by_hash(service, segment, now)) {
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
        if next == state && gained < REFRESH.load() as i32 {
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

#[inline(always)]
fn is_retired(dest: u32) -> bool {
    DESTS.get(dest).is_some_and(|record| record.flags & dest::flag::RETIRED != 0)
}

/// Whether a stored flow is none to this packet.
#[inline(always)]
fn is_over(value: Value, segment: Segment, now: Tick) -> bool {
    value.expiry().is_past(now) || (value.state().is_reusable() && tcp::opens(segment.flags()))
}

#[inline(always)]
fn timeout(service: &Service, state: State) -> u32 {
    service.timeouts[state.0 as usize & (State::COUNT - 1)]
}

/// Whether a packet of no known flow may belong to a connection that was placed by hash. A datagram
/// always may: it does not say whether it begins something.
#[inline(always)]
fn by_hash(service: u32, segment: Segment, now: Tick) -> bool {
    if !segment.is_udp() && segment.flags() & (tcp::flag::ACK | tcp::flag::RST) != tcp::flag::ACK {
        return false;
    }
    match ROTATIONS.get(service) {
        Some(rotation) => Rotation::places_by_hash(rotation.hashed_until, now),
        None => false,
    }
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
extern "C" fn flow_in_wide(key: *const WideKey, segment: u32, endpoint: u64) -> u64 {
    // SAFETY: as above.
    match unsafe { key.as_ref() } {
        Some(key) => in_table::<WideBucket<KernelWord>>(key, Segment(segment), Endpoint(endpoint)).0,
        None => 0,
    }
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
