//! Connection states and the input-only TCP state machine: what a director sees in Direct Routing,
//! the client's packets and never the server's (`net/netfilter/ipvs/ip_vs_proto_tcp.c`,
//! `tcp_states` rows INPUT-ONLY).

/// State of a connection, as in a flow's value (4 bits). TCP's order is IPVS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(pub u8);

impl State {
    pub const NONE: Self = Self(0);
    pub const ESTABLISHED: Self = Self(1);
    pub const SYN_SENT: Self = Self(2);
    pub const SYN_RECV: Self = Self(3);
    pub const FIN_WAIT: Self = Self(4);
    pub const TIME_WAIT: Self = Self(5);
    pub const CLOSE: Self = Self(6);
    pub const CLOSE_WAIT: Self = Self(7);
    pub const LAST_ACK: Self = Self(8);
    pub const LISTEN: Self = Self(9);
    pub const SYNACK: Self = Self(10);
    /// The one state of a UDP flow.
    pub const UDP: Self = Self(11);
    /// How many values the four bits have; the last one means a locked slot (see `value`).
    pub const COUNT: usize = 16;

    /// Counted as ActiveConn (`tcp_state_active_table`); UDP is never active.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        const ACTIVE: u16 = 1 << State::ESTABLISHED.0
            | 1 << State::SYN_SENT.0
            | 1 << State::SYN_RECV.0
            | 1 << State::SYNACK.0;
        ACTIVE >> self.0 & 1 != 0
    }

    /// The handshake has not been completed: may be evicted last of all.
    #[inline(always)]
    pub const fn is_half_open(self) -> bool {
        const HALF_OPEN: u16 =
            1 << State::NONE.0 | 1 << State::SYN_SENT.0 | 1 << State::SYN_RECV.0 | 1 << State::SYNACK.0;
        HALF_OPEN >> self.0 & 1 != 0
    }

    /// An end has been seen: may be evicted before half-open ones.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        const CLOSING: u16 = 1 << State::FIN_WAIT.0
            | 1 << State::TIME_WAIT.0
            | 1 << State::CLOSE.0
            | 1 << State::CLOSE_WAIT.0
            | 1 << State::LAST_ACK.0;
        CLOSING >> self.0 & 1 != 0
    }

    /// A SYN on such a flow starts a new connection (`conn_reuse_mode` 1, IPVS's default).
    #[inline(always)]
    pub const fn is_reusable(self) -> bool {
        matches!(self, Self::TIME_WAIT | Self::CLOSE)
    }

    /// The name that `ipvsadm -Lc` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NONE => "NONE",
            Self::ESTABLISHED => "ESTABLISHED",
            Self::SYN_SENT => "SYN_SENT",
            Self::SYN_RECV => "SYN_RECV",
            Self::FIN_WAIT => "FIN_WAIT",
            Self::TIME_WAIT => "TIME_WAIT",
            Self::CLOSE => "CLOSE",
            Self::CLOSE_WAIT => "CLOSE_WAIT",
            Self::LAST_ACK => "LAST_ACK",
            Self::LISTEN => "LISTEN",
            Self::SYNACK => "SYNACK",
            Self::UDP => "UDP",
            _ => "?",
        }
    }

    /// Idle timeout in seconds that IPVS gives the state by default (`tcp_timeouts`, `udp_timeouts`).
    pub const fn default_timeout(self) -> u32 {
        match self {
            Self::NONE => 2,
            Self::ESTABLISHED => 900,
            Self::SYN_SENT | Self::FIN_WAIT | Self::TIME_WAIT | Self::LISTEN | Self::SYNACK => 120,
            Self::SYN_RECV | Self::CLOSE_WAIT => 60,
            Self::CLOSE => 10,
            Self::LAST_ACK => 30,
            Self::UDP => 300,
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
    flags & flag::RST != 0 && state.0 != State::CLOSE.0
}

/// Whether a client's segment begins again what has begun already: it heard no answer.
#[inline(always)]
pub const fn retransmits_syn(state: State, flags: u8) -> bool {
    opens(flags) && state.0 == State::SYN_RECV.0
}

/// The state after a client's segment with `flags`.
#[inline(always)]
pub const fn next(state: State, flags: u8) -> State {
    // Four bits a state, state 0 in the lowest; rows are events in their order of priority.
    // A segment with none of the four flags closes, as IPVS's `set_tcp_state` does.
    const fn row(states: [State; 11]) -> u64 {
        let (mut word, mut i) = (0, 0);
        while i < states.len() {
            word |= (states[i].0 as u64) << (4 * i);
            i += 1;
        }
        word
    }
    const ES: State = State::ESTABLISHED;
    const SS: State = State::SYN_SENT;
    const SR: State = State::SYN_RECV;
    const FW: State = State::FIN_WAIT;
    const TW: State = State::TIME_WAIT;
    const CL: State = State::CLOSE;
    const CW: State = State::CLOSE_WAIT;
    const LA: State = State::LAST_ACK;
    const LI: State = State::LISTEN;
    //                        NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    const RST: u64 = row([CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL]);
    const SYN: u64 = row([SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR]);
    const FIN: u64 = row([CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW]);
    const ACK: u64 = row([ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES]);
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
    State((row >> (4 * (state.0 as u32 & 15))) as u8 & 15)
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
