//! When a flow table is so full that what is unfinished and idle gives way early, as IPVS's `drop_entry` 1 and
//! `secure_tcp` 1 switch themselves on when memory is short. PURE.
//!
//! The data path needs no help to keep what is established: a new connection takes the slot of one that is closing or
//! half-open, and never an established one's. But it takes whichever stands in its two buckets, that of a client in
//! the middle of its handshake, too. So from some fill on, those go first that nobody has used for a while.

use std::time::Duration;

use lb_common::{
    tick::Tick,
    value::{Value, flag},
};

/// Percent of the rated capacity, with a quarter of the slots used. At twice of it half of the slots are used, and new
/// connections begin to meet two full buckets: full, here, is that. Pressure begins at nine tenths of full,
const BEGIN: u64 = 180;
/// and ends when the table has been less than eight tenths full for as long as a half-open entry lives: what made it
/// full would have made it full again by then.
const END: u64 = 160;
const HOLD: Duration = Duration::from_secs(60);

/// Seconds for which an entry is idle that gives way. A client that gets no answer repeats its SYN after 1, 2, 4 and 8
/// seconds (RFC 6298), and so keeps its own.
pub const IDLE: u32 = 10;

/// Of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    is_on: bool,
    /// Since when it has been less full than [`END`], while it is on.
    below: Option<Duration>,
}

/// What a look at a table has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    On,
    Off,
}

impl Pressure {
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// `used` entries of a table for `rated`, at the time `now`.
    pub fn look(&mut self, now: Duration, used: u64, rated: u64) -> Option<Turn> {
        let is_above = |percent: u64| used.saturating_mul(100) >= rated.saturating_mul(percent);
        if !self.is_on {
            if !is_above(BEGIN) {
                return None;
            }
            *self = Self { is_on: true, below: None };
            return Some(Turn::On);
        }
        if is_above(END) {
            self.below = None;
            return None;
        }
        let since = *self.below.get_or_insert(now);
        if now.saturating_sub(since) < HOLD {
            return None;
        }
        *self = Self::default();
        Some(Turn::Off)
    }
}

/// Whether a flow gives way under pressure, whose state has this timeout, when it has been idle for `idle` (ticks). One
/// that was placed by hash does not: it may be established, though it waits as half-open. A template without an
/// established connection ([`lb_common::template::NONE`]) is as half-open as that connection.
pub fn gives_way(value: Value, timeout: u32, idle: u32, now: Tick) -> bool {
    let state = value.state();
    let is_unfinished = state.is_closing() || (state.is_half_open() && value.flags() & flag::HASHED == 0);
    let left = value.expiry().until(now).max(0) as u32;
    is_unfinished && timeout.saturating_sub(left) >= idle
}

#[cfg(test)]
mod tests {
    use lb_common::{tcp::State, template};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_begins_at_nine_tenths_and_ends_a_minute_below_eight() {
        let mut pressure = Pressure::default();
        let looks = [
            (0, 1799, None),
            (2, 1800, Some(Turn::On)),
            (4, 4000, None),
            (6, 1599, None),
            (64, 0, None),
            // Once more full, it counts anew.
            (65, 1600, None),
            (70, 1000, None),
            (129, 1000, None),
            (130, 1000, Some(Turn::Off)),
            (131, 1799, None),
            (132, 1800, Some(Turn::On)),
        ];
        for (at, used, turn) in looks {
            assert_eq!(pressure.look(s(at), used, 1000), turn, "{used} at {at} s");
        }
        assert_eq!(
            Pressure::default().look(s(0), 1 << 26, 1 << 26),
            None,
            "the rated capacity is no pressure"
        );
    }

    #[test]
    fn only_what_is_unfinished_and_idle_gives_way() {
        let now = Tick(u32::MAX - 3);
        let value = |state, flags, left: u32| Value::new(7, state, flags, now.after(left));
        // Eight ticks a second: idle for ten seconds of sixty, and a tick less.
        for (left, gives) in [(400, true), (401, false), (0, true)] {
            assert_eq!(gives_way(value(State::SYN_RECV, 0, left), 480, 80, now), gives, "{left}");
            assert_eq!(gives_way(value(State::FIN_WAIT, 0, left), 480, 80, now), gives, "{left}");
        }
        for state in [State::ESTABLISHED, State::UDP, State::SCTP_ESTABLISHED] {
            assert!(!gives_way(value(state, 0, 0), 480, 80, now), "{}", state.name());
        }
        assert!(!gives_way(value(State::SYN_RECV, flag::HASHED, 0), 480, 80, now));
        assert!(gives_way(value(template::NONE, flag::TEMPLATE, 400), 480, 80, now));
        assert!(!gives_way(value(template::ASSURED, flag::TEMPLATE, 0), 480, 80, now));
        // A timeout that is made shorter is no reason.
        assert!(!gives_way(value(State::SYN_RECV, 0, 400), 40, 80, now));
    }

    proptest! {
        /// Fills between the two borders change nothing, and turns are a minute apart.
        #[test]
        fn it_does_not_flap(steps in vec((0..20u64, 1400..2000u64), 1..300)) {
            let (mut pressure, mut now, mut last_on) = (Pressure::default(), 0, None);
            for (passed, used) in steps {
                now += passed;
                let was = pressure.is_on();
                match pressure.look(s(now), used, 1000) {
                    Some(Turn::On) => {
                        prop_assert!(!was && used >= 1800);
                        last_on = Some(now);
                    }
                    Some(Turn::Off) => {
                        prop_assert!(was && used < 1600);
                        prop_assert!(last_on.is_some_and(|on| now - on >= 60));
                    }
                    None => prop_assert_eq!(was, pressure.is_on()),
                }
            }
        }
    }
}
