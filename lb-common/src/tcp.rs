//! Connection states and the input-only TCP state machine: what a director sees in Direct Routing,
//! the client's packets and never the server's (`net/netfilter/ipvs/ip_vs_proto_tcp.c`,
//! `tcp_states` rows INPUT-ONLY). Of IPVS's states SYN_SENT, CLOSE_WAIT, LAST_ACK, LISTEN and SYNACK are never come to
//! that way. SCTP's machine is in [`crate::sctp`].

/// State of a connection, as in a flow's value (4 bits): only those that a director in Direct Routing comes to, which
/// are so few that TCP's and SCTP's have different numbers, and a state says by itself which protocol it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(pub u8);

impl State {
    pub const NONE: Self = Self(0);
    pub const ESTABLISHED: Self = Self(1);
    pub const SYN_RECV: Self = Self(2);
    pub const FIN_WAIT: Self = Self(3);
    pub const TIME_WAIT: Self = Self(4);
    pub const CLOSE: Self = Self(5);
    /// The one state of a UDP flow.
    pub const UDP: Self = Self(6);
    /// First INIT seen.
    pub const SCTP_INIT1: Self = Self(7);
    /// A further INIT seen.
    pub const SCTP_INIT: Self = Self(8);
    pub const SCTP_COOKIE_ECHOED: Self = Self(9);
    pub const SCTP_ESTABLISHED: Self = Self(10);
    pub const SCTP_SHUTDOWN_RECEIVED: Self = Self(11);
    pub const SCTP_CLOSED: Self = Self(12);
    /// An association that was placed by hash, until a later packet says what it is in: it goes on as from NONE,
    /// which no stored flow is in.
    pub const SCTP_NONE: Self = Self(13);
    /// How many values the four bits have; the last one means a locked slot (see `value`).
    pub const COUNT: usize = 16;

    #[inline(always)]
    const fn is_among(self, states: &[State]) -> bool {
        let (mut mask, mut i) = (0u16, 0);
        while i < states.len() {
            mask |= 1 << states[i].0;
            i += 1;
        }
        mask >> self.0 & 1 != 0
    }

    /// Counted as ActiveConn (`tcp_state_active_table`; `set_sctp_state`); UDP is never active.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        self.is_among(const { &[Self::ESTABLISHED, Self::SYN_RECV, Self::SCTP_ESTABLISHED] })
    }

    /// Makes the template of a controlled connection hold (`ip_vs_control_assure_ct`).
    #[inline(always)]
    pub const fn is_established(self) -> bool {
        self.is_among(const { &[Self::ESTABLISHED, Self::SCTP_ESTABLISHED] })
    }

    /// The handshake has not been completed: may be evicted last of all.
    #[inline(always)]
    pub const fn is_half_open(self) -> bool {
        self.is_among(
            const {
                &[
                    Self::NONE,
                    Self::SYN_RECV,
                    Self::SCTP_NONE,
                    Self::SCTP_INIT1,
                    Self::SCTP_INIT,
                    Self::SCTP_COOKIE_ECHOED,
                ]
            },
        )
    }

    /// A handshake has begun, and is not known to go on: its client may begin again.
    #[inline(always)]
    pub const fn is_begun(self) -> bool {
        self.is_among(const { &[Self::SYN_RECV, Self::SCTP_INIT1, Self::SCTP_INIT] })
    }

    /// An end has been seen: may be evicted before half-open ones.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.is_among(
            const {
                &[
                    Self::FIN_WAIT,
                    Self::TIME_WAIT,
                    Self::CLOSE,
                    Self::SCTP_SHUTDOWN_RECEIVED,
                    Self::SCTP_CLOSED,
                ]
            },
        )
    }

    /// A SYN or INIT on such a flow starts a new connection (`is_new_conn_expected`, `conn_reuse_mode` 1, IPVS's
    /// default).
    #[inline(always)]
    pub const fn is_reusable(self) -> bool {
        self.is_among(const { &[Self::TIME_WAIT, Self::CLOSE, Self::SCTP_CLOSED] })
    }

    /// The name that `ipvsadm -Lc` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NONE | Self::SCTP_NONE => "NONE",
            Self::ESTABLISHED | Self::SCTP_ESTABLISHED => "ESTABLISHED",
            Self::SYN_RECV => "SYN_RECV",
            Self::FIN_WAIT => "FIN_WAIT",
            Self::TIME_WAIT => "TIME_WAIT",
            Self::CLOSE => "CLOSE",
            Self::UDP => "UDP",
            Self::SCTP_INIT1 => "INIT1",
            Self::SCTP_INIT => "INIT",
            Self::SCTP_COOKIE_ECHOED => "C-ECHOED",
            Self::SCTP_SHUTDOWN_RECEIVED => "S-RECEIVED",
            Self::SCTP_CLOSED => "CLOSED",
            _ => "?",
        }
    }

    /// Idle timeout in seconds that IPVS gives the state by default (`tcp_timeouts`, `udp_timeouts`, `sctp_timeouts`).
    pub const fn default_timeout(self) -> u32 {
        match self {
            Self::NONE => 2,
            Self::ESTABLISHED | Self::SCTP_ESTABLISHED => 900,
            Self::FIN_WAIT | Self::TIME_WAIT => 120,
            Self::SYN_RECV => 60,
            Self::CLOSE => 10,
            Self::UDP => 300,
            Self::SCTP_INIT1 => 4,
            Self::SCTP_NONE
            | Self::SCTP_INIT
            | Self::SCTP_COOKIE_ECHOED
            | Self::SCTP_SHUTDOWN_RECEIVED
            | Self::SCTP_CLOSED => 61,
            _ => 0,
        }
    }
}

/// TCP header flags (RFC 9293 section 3.1).
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Whether a segment may open a connection: SYN without RST or ACK.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (flag::SYN | flag::RST | flag::ACK) == flag::SYN
}

/// Whether a client's segment breaks off what is in `state`: any RST but a further one. One in the handshake moves
/// nothing, but it shows that the backend answered.
#[inline(always)]
pub const fn resets(state: State, flags: u8) -> bool {
    flags & flag::RST != 0 && state.0 != State::CLOSE.0 && state.0 != State::SCTP_CLOSED.0
}

/// Whether a client's segment begins again what has begun already: it heard no answer.
#[inline(always)]
pub const fn retransmits_syn(state: State, flags: u8) -> bool {
    opens(flags) && state.is_begun()
}

/// The state after a client's segment with `flags`.
#[inline(always)]
pub const fn next(state: State, flags: u8) -> State {
    // Rows are events in their order of priority. A segment with none of the four flags closes, as IPVS's
    // `set_tcp_state` does.
    const ES: State = State::ESTABLISHED;
    const SR: State = State::SYN_RECV;
    const FW: State = State::FIN_WAIT;
    const TW: State = State::TIME_WAIT;
    const CL: State = State::CLOSE;
    //                         NO  ES  SR  FW  TW  CL
    const RST: u64 = row(&[CL, CL, SR, CL, CL, CL]);
    const SYN: u64 = row(&[SR, ES, SR, SR, SR, SR]);
    const FIN: u64 = row(&[CL, FW, TW, FW, TW, CL]);
    const ACK: u64 = row(&[ES, ES, ES, FW, TW, CL]);
    let row = if flags & flag::RST != 0 {
        RST
    } else if flags & flag::SYN != 0 {
        SYN
    } else if flags & flag::FIN != 0 {
        FIN
    } else if flags & flag::ACK != 0 {
        ACK
    } else {
        return State::CLOSE;
    };
    in_row(row, state)
}

/// The states after an event, by the state before: four bits each, that of state 0 in the lowest.
pub(crate) const fn row(states: &[State]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < states.len() {
        word |= (states[i].0 as u64) << (4 * i);
        i += 1;
    }
    word
}

#[inline(always)]
pub(crate) const fn in_row(row: u64, before: State) -> State {
    State((row >> (4 * (before.0 as u32 & 15))) as u8 & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(flags: &[u8]) -> State {
        flags.iter().fold(State::NONE, |state, f| next(state, *f))
    }

    #[test]
    fn the_usual_way_through_direct_routing() {
        assert_eq!(walk(&[flag::SYN]), State::SYN_RECV);
        assert_eq!(walk(&[flag::SYN, flag::ACK]), State::ESTABLISHED);
        assert_eq!(walk(&[flag::SYN, flag::ACK, flag::FIN | flag::ACK]), State::FIN_WAIT);
        // Everything that follows a client's FIN stays in FIN_WAIT until the timeout.
        assert_eq!(walk(&[flag::SYN, flag::ACK, flag::FIN | flag::ACK, flag::ACK]), State::FIN_WAIT);
        assert_eq!(walk(&[flag::SYN, flag::ACK, flag::RST]), State::CLOSE);
        // An RST in SYN_RECV is ignored.
        assert_eq!(walk(&[flag::SYN, flag::RST]), State::SYN_RECV);
    }

    #[test]
    fn a_segment_without_flags_closes() {
        assert_eq!(next(State::ESTABLISHED, 0), State::CLOSE);
    }

    #[test]
    fn a_client_that_gives_up_differs_from_one_that_tries_again() {
        assert!(resets(State::ESTABLISHED, flag::RST) && resets(State::FIN_WAIT, flag::RST | flag::ACK));
        assert!(resets(State::SYN_RECV, flag::RST));
        assert!(!resets(State::CLOSE, flag::RST), "once a connection");
        assert!(!resets(State::ESTABLISHED, flag::FIN | flag::ACK));
        assert!(retransmits_syn(State::SYN_RECV, flag::SYN));
        assert!(!retransmits_syn(State::SYN_RECV, flag::SYN | flag::ACK));
        assert!(
            !retransmits_syn(State::ESTABLISHED, flag::SYN) && !retransmits_syn(State::FIN_WAIT, flag::SYN)
        );
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(flag::SYN));
        assert!(opens(flag::SYN | 0xc8), "ECN and PSH bits do not matter");
        assert!(!opens(flag::SYN | flag::ACK));
        assert!(!opens(flag::SYN | flag::RST));
        assert!(!opens(flag::ACK));
    }
}
