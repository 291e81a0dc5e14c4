//! Persistence templates: which backend the connections of a client (or of its network) go to.
//!
//! A template is a slot of the wide flow table, under the client's masked address and the endpoint. New
//! connections refresh it; packets of connections that exist do not. When it runs out, it is armed again
//! for [`REARM`] as long as it controls connections (`ip_vs_conn_expire` in `ip_vs_conn.c`): the sweeper
//! looks for those. So that it can, the slot outlives the template by that time.
//!
//! A template that no connection of has been established is the first to give way when buckets are full:
//! its slot is in the state of a half-open flow, later in that of an established one.

use crate::{
    flow::{Secret, WideKey},
    tcp::State,
    tick::Tick,
    value::{Value, flag},
};

/// Seconds for which a template that still controls connections is armed again.
pub const REARM: u32 = 60;

/// IPVS's names of a template's states.
pub const NONE: State = State::SYN_RECV;
pub const ASSURED: State = State::ESTABLISHED;

/// What a flow's key never has in its third word.
const MARK: u64 = 1 << 63;

/// The key of the template of `source`, an address as loaded from a packet.
#[inline(always)]
pub fn key(secret: Secret, source: [u64; 2], mask: [u64; 2], endpoint: u16) -> WideKey {
    let words = words(source, mask, endpoint);
    WideKey { words, fingerprint: secret.wide(&words) }
}

/// The key's words.
#[inline(always)]
pub const fn words(source: [u64; 2], mask: [u64; 2], endpoint: u16) -> [u64; 3] {
    [source[0] & mask[0], source[1] & mask[1], MARK | endpoint as u64]
}

/// A template's word until `expiry`; `rearm` as in the service's record.
#[inline(always)]
pub const fn value(dest: u32, state: State, expiry: Tick, rearm: u32) -> Value {
    Value::new(dest, state, flag::TEMPLATE, expiry.after(rearm))
}

/// When a template runs out.
#[inline(always)]
pub const fn expiry(value: Value, rearm: u32) -> Tick {
    Tick(value.expiry().0.wrapping_sub(rearm))
}

/// What becomes of a template that has run out: its next expiry if it controls connections.
pub const fn at_end(value: Value, rearm: u32, controls: bool, now: Tick) -> Option<Value> {
    if !controls {
        return None;
    }
    let mut next = expiry(value, rearm);
    // A step takes 60 s; the sweeper comes each second, unless there was no agent for a while.
    while next.is_past(now) {
        next = next.after(if rearm == 0 { 1 } else { rearm });
    }
    Some(value.moved_to(value.state(), next.after(rearm)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_a_network_share_a_key_that_no_flow_has() {
        let secret = Secret::from_random(7, 9);
        let source = |last: u8| [u64::from(u32::from_ne_bytes([10, 1, 2, last])), 0];
        let mask = |last: u8| [u64::from(u32::from_ne_bytes([255, 255, 255, last])), 0];
        assert_eq!(key(secret, source(3), mask(0), 5), key(secret, source(4), mask(0), 5));
        assert_ne!(key(secret, source(3), mask(255), 5), key(secret, source(4), mask(255), 5));
        assert_ne!(key(secret, source(3), mask(0), 5).words, WideKey::new(secret, source(0), 0, 0, 5).words);
    }

    #[test]
    fn at_its_end_it_goes_on_in_steps_while_it_controls_connections() {
        let template = value(3, ASSURED, Tick(1000), 60);
        assert_eq!(expiry(template, 60), Tick(1000));
        assert_eq!(at_end(template, 60, false, Tick(1001)), None);
        for (now, next) in [(1000, 1060), (1059, 1060), (1060, 1120), (2000, 2020)] {
            let armed = at_end(template, 60, true, Tick(now)).expect("it controls some");
            assert_eq!(expiry(armed, 60), Tick(next), "at {now}");
            assert_eq!((armed.dest(), armed.state(), armed.is_template()), (3, ASSURED, true));
        }
    }
}
