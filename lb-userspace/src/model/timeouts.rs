//! Idle timeouts of connection states: IPVS's three that `ipvsadm --set` takes, and the others that a
//! director in Direct Routing can come to.

use lb_common::tcp::State;
use serde::{Deserialize, Serialize};

/// Longest timeout, in seconds: what IPVS allows for persistence, and far below the wrap of a flow's
/// 32-bit expiry.
pub const MAX_TIMEOUT: u32 = 31 * 86400;

/// One `T` for each state whose timeout can be set: every state that is stored, since the input-only
/// machine (`lb_common::tcp::next`) never comes to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerState<T> {
    /// ESTABLISHED (`ipvsadm --set` first figure).
    pub tcp: T,
    /// FIN_WAIT (`ipvsadm --set` second figure).
    pub tcp_fin: T,
    /// SYN_RECV.
    pub tcp_syn: T,
    /// TIME_WAIT.
    pub tcp_time_wait: T,
    /// CLOSE.
    pub tcp_close: T,
    /// UDP (`ipvsadm --set` third figure).
    pub udp: T,
    /// ESTABLISHED of SCTP.
    pub sctp: T,
    /// INIT1.
    pub sctp_init1: T,
    /// INIT.
    pub sctp_init: T,
    /// C-ECHOED.
    pub sctp_echoed: T,
    /// S-RECEIVED.
    pub sctp_shutdown: T,
    /// CLOSED.
    pub sctp_closed: T,
}

/// Idle timeouts, in seconds.
pub type Timeouts = PerState<u32>;
/// Some of them, in seconds: what a service has of its own, or what a command sets.
pub type PartialTimeouts = PerState<Option<u32>>;

/// What each is called in the file, on the command line and in the API.
pub const NAMES: PerState<&str> = PerState {
    tcp: "tcp",
    tcp_fin: "tcp_fin",
    tcp_syn: "tcp_syn",
    tcp_time_wait: "tcp_time_wait",
    tcp_close: "tcp_close",
    udp: "udp",
    sctp: "sctp",
    sctp_init1: "sctp_init1",
    sctp_init: "sctp_init",
    sctp_echoed: "sctp_echoed",
    sctp_shutdown: "sctp_shutdown",
    sctp_closed: "sctp_closed",
};

/// Whose timeout each is.
pub const STATES: PerState<State> = PerState {
    tcp: State::ESTABLISHED,
    tcp_fin: State::FIN_WAIT,
    tcp_syn: State::SYN_RECV,
    tcp_time_wait: State::TIME_WAIT,
    tcp_close: State::CLOSE,
    udp: State::UDP,
    sctp: State::SCTP_ESTABLISHED,
    sctp_init1: State::SCTP_INIT1,
    sctp_init: State::SCTP_INIT,
    sctp_echoed: State::SCTP_COOKIE_ECHOED,
    sctp_shutdown: State::SCTP_SHUTDOWN_RECEIVED,
    sctp_closed: State::SCTP_CLOSED,
};

impl<T> PerState<T> {
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerState<U> {
        PerState {
            tcp: f(self.tcp),
            tcp_fin: f(self.tcp_fin),
            tcp_syn: f(self.tcp_syn),
            tcp_time_wait: f(self.tcp_time_wait),
            tcp_close: f(self.tcp_close),
            udp: f(self.udp),
            sctp: f(self.sctp),
            sctp_init1: f(self.sctp_init1),
            sctp_init: f(self.sctp_init),
            sctp_echoed: f(self.sctp_echoed),
            sctp_shutdown: f(self.sctp_shutdown),
            sctp_closed: f(self.sctp_closed),
        }
    }

    pub fn zip<U>(self, other: PerState<U>) -> PerState<(T, U)> {
        PerState {
            tcp: (self.tcp, other.tcp),
            tcp_fin: (self.tcp_fin, other.tcp_fin),
            tcp_syn: (self.tcp_syn, other.tcp_syn),
            tcp_time_wait: (self.tcp_time_wait, other.tcp_time_wait),
            tcp_close: (self.tcp_close, other.tcp_close),
            udp: (self.udp, other.udp),
            sctp: (self.sctp, other.sctp),
            sctp_init1: (self.sctp_init1, other.sctp_init1),
            sctp_init: (self.sctp_init, other.sctp_init),
            sctp_echoed: (self.sctp_echoed, other.sctp_echoed),
            sctp_shutdown: (self.sctp_shutdown, other.sctp_shutdown),
            sctp_closed: (self.sctp_closed, other.sctp_closed),
        }
    }

    /// All of them, in the order in which they are shown.
    pub fn all(self) -> [T; 12] {
        [
            self.tcp,
            self.tcp_fin,
            self.tcp_syn,
            self.tcp_time_wait,
            self.tcp_close,
            self.udp,
            self.sctp,
            self.sctp_init1,
            self.sctp_init,
            self.sctp_echoed,
            self.sctp_shutdown,
            self.sctp_closed,
        ]
    }

    /// With their names.
    pub fn named(self) -> [(&'static str, T); 12] {
        NAMES.zip(self).all()
    }
}

impl<T: Copy> PerState<T> {
    /// That of a connection state; `None` for a state that no stored connection is in.
    pub fn of_state(self, state: State) -> Option<T> {
        STATES.zip(self).all().into_iter().find(|(of, _)| *of == state).map(|(_, value)| value)
    }
}

/// IPVS's (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `ip_vs_proto_udp.c`, `ip_vs_proto_sctp.c`).
impl Default for Timeouts {
    fn default() -> Self {
        STATES.map(State::default_timeout)
    }
}

impl Timeouts {
    /// Of a connection state, in seconds.
    pub fn of(self, state: State) -> u32 {
        match state {
            // What will become of it is not known, only that it is half-open.
            State::SCTP_NONE => self.sctp_init,
            _ => self.of_state(state).unwrap_or(state.default_timeout()),
        }
    }

    /// With those that are given in the place of these.
    pub fn with(self, given: PartialTimeouts) -> Self {
        self.zip(given).map(|(own, given)| given.unwrap_or(own))
    }
}

/// None.
impl Default for PartialTimeouts {
    fn default() -> Self {
        NAMES.map(|_| None)
    }
}

impl PartialTimeouts {
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those that are given, with their names.
    pub fn given(self) -> impl Iterator<Item = (&'static str, u32)> {
        self.named().into_iter().filter_map(|(name, seconds)| Some((name, seconds?)))
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        sctp,
        tcp::{flag, next},
    };

    use super::*;

    /// All states that `first` and `after` lead to.
    fn all_from(first: impl Iterator<Item = State>, after: impl Fn(State) -> Vec<State>) -> Vec<State> {
        let mut reached: Vec<State> = first.collect();
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            for next in after(state) {
                if !reached.contains(&next) {
                    reached.push(next);
                }
            }
            at += 1;
        }
        reached
    }

    /// What can be set is what a stored flow can be in, whatever the client sends, sloppy or not.
    #[test]
    fn every_state_that_is_reached_has_its_timeout_and_no_other() {
        let all_flags = || {
            (0..16u8).map(|bits| {
                [flag::FIN, flag::SYN, flag::RST, flag::ACK]
                    .into_iter()
                    .enumerate()
                    .filter(|(i, _)| bits >> i & 1 != 0)
                    .map(|(_, flag)| flag)
                    .sum::<u8>()
            })
        };
        let opening = all_flags().filter(|flags| flags & flag::RST == 0);
        let mut reached = all_from(opening.map(|flags| next(State::NONE, flags)), |state| {
            all_flags().map(|flags| next(state, flags)).collect()
        });
        let chunks = || 0..=u8::MAX;
        let opening = chunks().filter(|first| *first != sctp::chunk::ABORT);
        reached.extend(all_from(opening.map(|first| sctp::next(State::NONE, sctp::flags(first))), |state| {
            chunks().map(|first| sctp::next(state, sctp::flags(first))).collect()
        }));
        reached.push(State::UDP);
        for state in (0..16).map(State) {
            assert_eq!(STATES.of_state(state).is_some(), reached.contains(&state), "{}", state.name());
        }
    }

    #[test]
    fn the_defaults_are_ipvss() {
        let Timeouts { tcp, tcp_fin, udp, .. } = Timeouts::default();
        assert_eq!((tcp, tcp_fin, udp), (900, 120, 300));
        assert_eq!(Timeouts::default().of(State::TIME_WAIT), 120);
    }

    #[test]
    fn what_is_not_given_stays() {
        let given = PartialTimeouts { udp: Some(7), ..PartialTimeouts::default() };
        assert_eq!(Timeouts::default().with(given), Timeouts { udp: 7, ..Timeouts::default() });
        assert_eq!(given.given().collect::<Vec<_>>(), [("udp", 7)]);
    }
}
