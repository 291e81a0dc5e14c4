//! Step 3: the flow a packet belongs to, found or opened. Either way it names a destination.

mod follow;
#[cfg(feature = "lru")]
#[path = "flow/lru.rs"]
mod instead;
#[cfg(feature = "stub")]
#[path = "flow/stub.rs"]
mod instead;
pub mod open;
pub mod peek;
mod source;

use lb_common::{
    bucket::{Word, find},
    endpoint::{Endpoint, flag},
    flow::{NarrowBucket, NarrowKey, WideBucket, WideKey},
    protocol, sctp,
    service::{self, Service},
    tcp::{self, State},
    value::Value,
    verdict::Verdict,
};

use self::{
    follow::{follow, in_table, steady},
    open::open_under,
};
use crate::{
    clock,
    endpoint::Endpoints,
    packet::Packet,
    table::{Side, Table, is_migrating, on_both_sides, secret},
    template::{Source, assure_template},
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
    let segment = Segment::new(packet.protocol(), packet.flags());
    // Numbers, not an Option: its payload would be undefined where there is none, and the verifier sees it copied.
    let (mut takes_new, mut opener, mut again) = (false, Endpoint(0), false);
    if let Some(endpoint) = endpoints.exact {
        takes_new = endpoint.has(flag::OPEN);
        let outcome = if is_wide(packet, endpoint) {
            wide(packet, segment, endpoint)
        } else {
            narrow(packet, segment, endpoint)
        };
        // Nearly every packet: nothing of its outcome is left to be taken apart.
        if outcome.is_plain() {
            return Ok(Flow { dest: outcome.0 as u32, service: endpoint.service() as u32, opened: false });
        }
        if outcome.may_open() {
            (opener, again) = (endpoint, outcome.is_again());
        } else if let Some(end) = outcome.end(endpoint) {
            assure(packet, endpoint, outcome);
            return end;
        }
    }
    if let Some(endpoint) = endpoints.wildcard {
        takes_new = takes_new || endpoint.has(flag::OPEN);
        let outcome = any_port(packet, segment, endpoint);
        if !outcome.may_open() {
            if let Some(end) = outcome.end(endpoint) {
                assure(packet, endpoint, outcome);
                return end;
            }
        } else if opener.0 == 0 {
            (opener, again) = (endpoint, outcome.is_again());
        }
    }
    if opener.0 != 0 {
        let opened = open_under(packet, segment, opener, again);
        if again && opened.is_err() {
            // IPVS ends what is over before it schedules (`ip_vs_in`, conn_reuse_mode).
            forget_at(packet, opener, Side::NEW);
        }
        if is_migrating() {
            forget_at(packet, opener, Side::OLD);
        }
        let end = opened?;
        forget_finished(packet, endpoints);
        return Ok(end);
    }
    // A deleted service without flows is no service.
    Err(if takes_new { Verdict::DroppedNoFlow } else { Verdict::PassedNoService })
}

/// A template whose connection was established is not given up for a new one.
#[inline(always)]
fn assure(packet: &Packet, endpoint: Endpoint, outcome: Outcome) {
    if outcome.0 & Outcome::ASSURES != 0 {
        assure_template(&Source(packet.source), endpoint, outcome.0 as u32);
    }
}

/// A finished flow of a deleted service may be left, and would be found before the one that has begun.
#[inline(always)]
fn forget_finished(packet: &Packet, endpoints: &Endpoints) {
    if let Some(deleted) = endpoints.exact.filter(|exact| !exact.has(flag::OPEN)) {
        forget_at(packet, deleted, Side::NEW);
        if is_migrating() {
            forget_at(packet, deleted, Side::OLD);
        }
    }
}

#[inline(always)]
fn forget_at(packet: &Packet, endpoint: Endpoint, side: Side) {
    if is_wide(packet, endpoint) {
        flow_forget_wide(&wide_key(packet, endpoint), side.0);
    } else {
        flow_forget_narrow(narrow_key(packet, endpoint).0, side.0);
    }
}

/// What the state machine needs of a packet: protocol, and flags ([`sctp`] has its events in those of TCP).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Segment(pub u32);

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
    fn is_sctp(self) -> bool {
        self.0 >> 8 == protocol::SCTP as u32
    }

    #[inline(always)]
    fn flags(self) -> u8 {
        self.0 as u8
    }

    /// Whether it begins something: it may open a flow.
    #[inline(always)]
    fn begins(self) -> bool {
        self.is_udp() || tcp::opens(self.flags())
    }

    /// Whether each of its kind is scheduled by itself.
    #[inline(always)]
    fn is_one_packet(self, service: &Service) -> bool {
        service.flags & service::flag::ONE_PACKET != 0 && self.is_udp()
    }

    /// Whether it is scheduled anew where its flow's destination was removed.
    #[inline(always)]
    fn is_rescheduled(self, service: &Service) -> bool {
        let flag = if self.is_udp() { service::flag::RESCHEDULE_UDP } else { service::flag::RESCHEDULE };
        service.flags & flag != 0 && self.begins()
    }

    /// Whether the service takes up a connection in its middle with it.
    #[inline(always)]
    fn is_taken_up(self, service: &Service) -> bool {
        let flag = if self.is_sctp() { service::flag::SLOPPY_SCTP } else { service::flag::SLOPPY_TCP };
        service.flags & flag != 0 && self.flags() & tcp::flag::RST == 0
    }

    #[inline(always)]
    fn next(self, state: State) -> State {
        if self.0 >> 8 == protocol::TCP as u32 {
            tcp::next(state, self.flags())
        } else if self.is_udp() {
            State::UDP
        } else {
            sctp::next(state, self.flags())
        }
    }

    /// The state of a flow that was placed by hash and is stored in its middle: half-open until a later packet. Its
    /// timeout is also how long hash placement goes on.
    #[inline(always)]
    fn hashed_state(self) -> State {
        if self.is_sctp() { State::SCTP_NONE } else { State::SYN_RECV }
    }
}

/// A destination, a verdict, or nothing, in one register: BPF functions return no more.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(pub u64);

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
    /// Another CPU moved the flow on meanwhile.
    const LOST: Self = Self(1 << 37);
    /// A controlled connection has just been established.
    const ASSURES: u64 = 1 << 36;
    /// With [`Outcome::TO_OPEN`]: there is an entry of the flow that is over.
    const AGAIN: u64 = 1 << 38;

    /// Whether it says where the packet goes.
    #[inline(always)]
    fn is_found(outcome: u64) -> bool {
        outcome != Self::MISS.0 && outcome & Self::TO_OPEN.0 == 0
    }

    /// Whether it is a destination and says nothing else.
    #[inline(always)]
    fn is_plain(self) -> bool {
        self.0 != 0 && self.0 >> 32 == 0
    }

    #[inline(always)]
    fn may_open(self) -> bool {
        self.0 & Self::TO_OPEN.0 != 0
    }

    #[inline(always)]
    fn is_again(self) -> bool {
        self.0 & Self::AGAIN != 0
    }

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

/// IPv4 and an exact port: the hot path. Most packets change nothing of their flow.
#[inline(always)]
#[cfg_attr(
    any(feature = "lru", feature = "stub"),
    expect(unreachable_code, reason = "what a bench compares with")
)]
fn narrow(packet: &Packet, segment: Segment, endpoint: Endpoint) -> Outcome {
    let key = narrow_key(packet, endpoint);
    #[cfg(any(feature = "lru", feature = "stub"))]
    return instead::find(key, segment, endpoint);
    match steady::<NarrowBucket<KernelWord>>(&key, segment, endpoint) {
        Outcome::MISS => Outcome(on_both_sides(
            |side| flow_in_narrow(key.0, segment.0, endpoint.0, side.0),
            Outcome::is_found,
        )),
        known => known,
    }
}

/// IPv6, whose packets mostly change nothing either.
#[inline(always)]
#[cfg_attr(feature = "lru", expect(unreachable_code, reason = "what a bench compares with"))]
fn wide(packet: &Packet, segment: Segment, endpoint: Endpoint) -> Outcome {
    let key = wide_key(packet, endpoint);
    #[cfg(feature = "lru")]
    return instead::find_wide(&key, segment, endpoint);
    match steady::<WideBucket<KernelWord>>(&key, segment, endpoint) {
        Outcome::MISS => in_wide(&key, segment, endpoint),
        known => known,
    }
}

/// Any port of an address.
#[inline(always)]
fn any_port(packet: &Packet, segment: Segment, endpoint: Endpoint) -> Outcome {
    in_wide(&wide_key(packet, endpoint), segment, endpoint)
}

#[inline(always)]
fn in_wide(key: &WideKey, segment: Segment, endpoint: Endpoint) -> Outcome {
    Outcome(on_both_sides(|side| flow_in_wide(key, segment.0, endpoint.0, side.0), Outcome::is_found))
}

/// Which table has the endpoint's flows. A packet to port 0 has the wildcard for its exact endpoint.
#[inline(always)]
fn is_wide(packet: &Packet, endpoint: Endpoint) -> bool {
    packet.is_ipv6 || endpoint.has(flag::WILDCARD)
}

#[inline(always)]
fn narrow_key(packet: &Packet, endpoint: Endpoint) -> NarrowKey {
    NarrowKey::new(packet.source[0] as u32, packet.source_port(), endpoint.id())
}

#[inline(always)]
fn wide_key(packet: &Packet, endpoint: Endpoint) -> WideKey {
    WideKey::new(secret(), packet.source, packet.source_port(), packet.dest_port(), endpoint.id())
}

/// Lets a flow expire now.
#[inline(always)]
fn forget<B: Table>(key: &B::Key, side: Side) -> u32 {
    let (first, second) = B::places(key, side);
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
extern "C" fn flow_in_narrow(key: u64, segment: u32, endpoint: u64, side: u32) -> u64 {
    let (segment, endpoint) = (Segment(segment), Endpoint(endpoint));
    in_table::<NarrowBucket<KernelWord>>(&NarrowKey(key), segment, endpoint, Side(side)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_follow_narrow(place: u32, value: u64, segment: u32, service: u32) -> u64 {
    follow::<NarrowBucket<KernelWord>>(place, Value(value), Segment(segment), service).0
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_follow_wide(place: u32, value: u64, segment: u32, service: u32) -> u64 {
    follow::<WideBucket<KernelWord>>(place, Value(value), Segment(segment), service).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_in_wide(key: *const WideKey, segment: u32, endpoint: u64, side: u32) -> u64 {
    let (segment, endpoint) = (Segment(segment), Endpoint(endpoint));
    // SAFETY: as above.
    match unsafe { key.as_ref() } {
        Some(key) => in_table::<WideBucket<KernelWord>>(key, segment, endpoint, Side(side)).0,
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_forget_narrow(key: u64, side: u32) -> u32 {
    forget::<NarrowBucket<KernelWord>>(&NarrowKey(key), Side(side))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_forget_wide(key: *const WideKey, side: u32) -> u32 {
    // SAFETY: as above.
    match unsafe { key.as_ref() } {
        Some(key) => forget::<WideBucket<KernelWord>>(key, Side(side)),
        None => 0,
    }
}
