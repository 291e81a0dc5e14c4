//! Persistence templates: which backend the connections of a client (or of its network) go to.
//!
//! A template is a slot of the wide flow table, under the client's masked address and the service, or one of
//! its endpoints if each of them has templates of its own. New connections refresh it; packets of connections that exist do not. When it runs out, it is armed again
//! for [`REARM`] as long as it controls connections (`ip_vs_conn_expire` in `ip_vs_conn.c`): the sweeper
//! looks for those. So that it can, the slot outlives the template by that time.
//!
//! A template that no connection of has been established is the first to give way when buckets are full:
//! its slot is in the state of a half-open flow, later in that of an established one.

use crate::{
    flow::{Secret, WideKey},
    service::flag,
    tcp::State,
    tick::Tick,
    value::{self, Value},
};

/// Seconds for which a template that still controls connections is armed again.
pub const REARM: u32 = 60;

/// IPVS's names of a template's states.
pub const NONE: State = State::SYN_RECV;
pub const ASSURED: State = State::ESTABLISHED;

/// What a flow's key never has in its third word.
const MARK: u64 = 1 << 63;
/// The template is of a service, and not of an endpoint.
const OF_SERVICE: u64 = 1 << 62;

/// What a template belongs to: the third word of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Owner(u64);

impl Owner {
    /// The service, or its endpoint if it keeps them apart. An endpoint's number alone would not do: ranges of ports have that
    /// of their address's port 0, and may be another service's.
    #[inline(always)]
    pub const fn new(service_flags: u32, service: u16, endpoint: u16) -> Self {
        if service_flags & flag::APART == 0 {
            Self(MARK | OF_SERVICE | service as u64)
        } else {
            Self(MARK | (service as u64) << u16::BITS | endpoint as u64)
        }
    }

    /// The endpoint that a template is of, from the third word of its key; none if it is a service's.
    pub const fn endpoint(word: u64) -> Option<u16> {
        if word & OF_SERVICE == 0 { Some(word as u16) } else { None }
    }
}

/// The key of the template of `source`, an address as loaded from a packet.
#[inline(always)]
pub fn key(secret: Secret, source: [u64; 2], mask: [u64; 2], owner: Owner) -> WideKey {
    let words = words(source, mask, owner);
    WideKey { words, fingerprint: secret.wide(&words) }
}

/// The key's words.
#[inline(always)]
pub const fn words(source: [u64; 2], mask: [u64; 2], owner: Owner) -> [u64; 3] {
    [source[0] & mask[0], source[1] & mask[1], owner.0]
}

/// A template's word until `expiry`; `rearm` as in the service's record.
#[inline(always)]
pub const fn value(dest: u32, state: State, expiry: Tick, rearm: u32) -> Value {
    Value::new(dest, state, value::flag::TEMPLATE, expiry.after(rearm))
}

/// When a template runs out.
#[inline(always)]
pub const fn expiry(value: Value, rearm: u32) -> Tick {
    Tick(value.expiry().0.wrapping_sub(rearm))
}

/// A template whose time a new connection begins anew: `timeout` is its service's, but one that was armed again
/// is given [`REARM`] from then on (`ip_vs_conn_expire` overwrites the timeout).
#[inline(always)]
pub const fn renewed(value: Value, timeout: u32, rearm: u32, now: Tick) -> Value {
    let time = if value.flags() & value::flag::ARMED_AGAIN != 0 { rearm } else { timeout };
    value.moved_to(value.state(), now.after(time).after(rearm))
}

/// What becomes of a template that has run out: armed again, from now, if it controls connections.
pub const fn at_end(value: Value, rearm: u32, controls: bool, now: Tick) -> Option<Value> {
    if !controls {
        return None;
    }
    let flags = value.flags() | value::flag::ARMED_AGAIN;
    Some(Value::new(value.dest(), value.state(), flags, now.after(rearm).after(rearm)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_a_network_share_a_key_that_no_flow_has() {
        let secret = Secret::from_random(7, 9);
        let source = |last: u8| [u64::from(u32::from_ne_bytes([10, 1, 2, last])), 0];
        let mask = |last: u8| [u64::from(u32::from_ne_bytes([255, 255, 255, last])), 0];
        for owner in [Owner::new(0, 5, 7), Owner::new(flag::APART, 5, 7)] {
            assert_eq!(key(secret, source(3), mask(0), owner), key(secret, source(4), mask(0), owner));
            assert_ne!(key(secret, source(3), mask(255), owner), key(secret, source(4), mask(255), owner));
            for id in [5, 7] {
                let flow = WideKey::new(secret, source(0), 0, 0, id);
                assert_ne!(key(secret, source(3), mask(0), owner).words, flow.words);
            }
        }
    }

    #[test]
    fn a_template_is_of_the_service_unless_its_endpoints_are_kept_apart() {
        let words = |flags, service, endpoint| words([1, 0], [!0, !0], Owner::new(flags, service, endpoint));
        assert_eq!(words(0, 5, 7), words(0, 5, 8), "one for all endpoints");
        assert_ne!(words(0, 5, 7), words(0, 6, 7));
        assert_ne!(words(flag::APART, 5, 7), words(flag::APART, 5, 8));
        // Ranges of another service than their address's port 0.
        assert_ne!(words(flag::APART, 5, 7), words(flag::APART, 6, 7));
        // An endpoint and a service may have the same number.
        assert_ne!(words(0, 7, 7), words(flag::APART, 7, 7));
        assert_eq!(Owner::endpoint(words(flag::APART, 5, 7)[2]), Some(7));
        assert_eq!(Owner::endpoint(words(0, 5, 7)[2]), None);
    }

    #[test]
    fn at_its_end_it_goes_on_while_it_controls_connections() {
        let template = value(3, ASSURED, Tick(1000), 60);
        assert_eq!(expiry(template, 60), Tick(1000));
        assert_eq!(at_end(template, 60, false, Tick(1001)), None);
        let armed = at_end(template, 60, true, Tick(1002)).expect("it controls some");
        assert_eq!(expiry(armed, 60), Tick(1062));
        assert_eq!((armed.dest(), armed.state(), armed.is_template()), (3, ASSURED, true));
        assert_eq!(at_end(armed, 60, true, Tick(1063)).map(|again| expiry(again, 60)), Some(Tick(1123)));
    }

    #[test]
    fn once_armed_again_it_is_renewed_for_that_time() {
        let template = value(3, NONE, Tick(1000), 60);
        assert_eq!(expiry(renewed(template, 300, 60, Tick(900)), 60), Tick(1200));
        let armed = at_end(template, 60, true, Tick(1002)).expect("it controls some");
        let renewed = renewed(armed, 300, 60, Tick(1010));
        assert_eq!((expiry(renewed, 60), renewed.is_template()), (Tick(1070), true));
    }

    /// Persistence 15, `--set 13 5 13`, a tick a second: the template counts down by itself, whatever its connection
    /// sends, and outlives it by less than the time for which it is armed again.
    #[test]
    fn the_walk_through_of_the_notes() {
        const TCP: u32 = 13;
        const FIN: u32 = 5;
        let mut template = Some(value(1, ASSURED, Tick(0).after(15), REARM));
        let mut connection = Tick(0).after(TCP);
        let (mut armed, mut left) = (Vec::new(), Vec::new());
        for now in (1..200).map(Tick) {
            match now.0 {
                101 => connection = now.after(FIN),
                second if second < 101 && second % 10 == 0 => connection = now.after(TCP),
                _ => {}
            }
            let Some(held) = template else { break };
            if expiry(held, REARM).is_past(now) {
                template = at_end(held, REARM, !connection.is_past(now), now);
                armed.push(now.0);
            }
            left.extend(template.map(|held| expiry(held, REARM).until(now)));
        }
        // Its last connection ended at 106.
        let [first, second, end] = armed[..] else { panic!("{armed:?}") };
        assert!((15..=16).contains(&first) && (75..=77).contains(&second), "{armed:?}");
        assert!((135..=138).contains(&end) && template.is_none(), "{armed:?}");
        assert_eq!(left[..14], [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(left[first as usize - 1], 60);
    }
}
