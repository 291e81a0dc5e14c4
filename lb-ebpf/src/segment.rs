//! What a packet means to a flow: the state machine's input, and what its service has done with it.

use lb_common::{
    dest, protocol,
    service::{self, Rotation, Service},
    tcp::{self, State},
    tick::Tick,
    value::{self, Value},
};

use crate::{
    clock,
    maps::{DESTS, ROTATIONS, SERVICES},
};

/// State of a flow that was placed by hash; its timeout is also how long hash placement goes on.
const HASHED_STATE: State = State::SYN_RECV;

/// What the state machine needs of a packet: protocol, and TCP flags.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Segment(pub u32);

impl Segment {
    #[inline(always)]
    pub fn new(protocol: u8, flags: u8) -> Self {
        Self((protocol as u32) << 8 | flags as u32)
    }

    #[inline(always)]
    pub fn is_udp(self) -> bool {
        self.0 >> 8 == protocol::UDP as u32
    }

    #[inline(always)]
    pub fn flags(self) -> u8 {
        self.0 as u8
    }

    /// Whether it begins something: it may open a flow.
    #[inline(always)]
    pub fn begins(self) -> bool {
        self.is_udp() || tcp::opens(self.flags())
    }

    /// Whether the service takes up a connection in its middle with it.
    #[inline(always)]
    fn is_taken_up(self, service: &Service) -> bool {
        service.flags & service::flag::SLOPPY_TCP != 0 && self.flags() & tcp::flag::RST == 0
    }

    #[inline(always)]
    pub fn next(self, state: State) -> State {
        if self.is_udp() { State::UDP } else { tcp::next(state, self.flags()) }
    }
}

/// Whether the destination was removed, and its flows with it.
#[inline(always)]
pub fn is_retired(dest: u32) -> bool {
    segment_is_retired(dest) != 0
}

/// Whether a stored flow is none to this packet.
#[inline(always)]
pub fn is_over(value: Value, segment: Segment, now: Tick) -> bool {
    value.expiry().is_past(now) || (value.state().is_reusable() && tcp::opens(segment.flags()))
}

/// Whether a flow's destination was removed, and the packet, which begins something, shall go to
/// another one.
#[inline(always)]
pub fn is_abandoned(value: Value, service: u32, segment: Segment) -> bool {
    segment.begins() && segment_is_abandoned(value.dest(), service) != 0
}

/// Idle timeout of a state, in ticks.
#[inline(always)]
pub fn timeout(service: &Service, state: State) -> u32 {
    service.timeouts[state.0 as usize & (State::COUNT - 1)]
}

/// Whether a packet of no known flow may belong to a connection that was placed by hash. A datagram
/// always may: it does not say whether it begins something.
#[inline(always)]
pub fn by_hash(service: u32, segment: Segment, now: Tick) -> bool {
    if !segment.is_udp() && segment.flags() & (tcp::flag::ACK | tcp::flag::RST) != tcp::flag::ACK {
        return false;
    }
    match ROTATIONS.get(service) {
        Some(rotation) => Rotation::places_by_hash(rotation.hashed_until, now),
        None => false,
    }
}

// Verified once each, as they take numbers (see `flow`).

/// The value that a new flow begins with; 0 if there is no such service.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_first_value(dest: u32, service: u32, segment: u32, hashed: u32) -> u64 {
    let Some(record) = SERVICES.get(service) else { return 0 };
    let segment = Segment(segment);
    // What went on by hash counts as half-open until a later packet.
    let state = if hashed != 0 && !segment.begins() { HASHED_STATE } else { segment.next(State::NONE) };
    let flags = if hashed != 0 { value::flag::HASHED } else { 0 };
    Value::new(dest, state, flags, clock::now().after(timeout(record, state))).0
}

/// See [`is_retired`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_is_retired(dest: u32) -> u32 {
    DESTS.get(dest).is_some_and(|record| record.flags & dest::flag::RETIRED != 0) as u32
}

/// 1 if the destination was removed and its service has its connections scheduled anew.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_is_abandoned(dest: u32, service: u32) -> u32 {
    let reschedules = |record: &Service| record.flags & service::flag::RESCHEDULE != 0;
    (SERVICES.get(service).is_some_and(reschedules) && is_retired(dest)) as u32
}

/// 1 if a segment of no known flow is taken for the middle of a connection that goes on.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_goes_on(service: u32, segment: u32) -> u32 {
    let segment = Segment(segment);
    let taken_up = SERVICES.get(service).is_some_and(|record| segment.is_taken_up(record));
    (taken_up || by_hash(service, segment, clock::now())) as u32
}
