//! The TCP state machine as the director sees it (the client's half), and what counts as active.

use lb::plan::Desired;
use lb_common::tcp::{State, flag::*};
use lb_tests::xdp::Director;

use crate::world::*;

/// State of the only flow, and the counts of backend 1: active, inactive.
fn now(director: &Director) -> (&'static str, u64, u64) {
    let flows = director.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let value = flows[0].value;
    let counts = director.maps().conn_counts(value.dest());
    (value.state().name(), counts.active, counts.inactive)
}

#[test]
fn tcp_goes_through_its_states() {
    const ACTIVE: (u64, u64) = (1, 0);
    const INACTIVE: (u64, u64) = (0, 1);
    /// Flags, the state after them, and how it counts.
    type Step = (u8, State, (u64, u64));
    let lives: [&[Step]; 6] = [
        // The usual way: after the client's FIN everything stays in FIN_WAIT until it times out.
        &[
            (SYN, State::SYN_RECV, ACTIVE),
            (SYN, State::SYN_RECV, ACTIVE),
            (ACK, State::ESTABLISHED, ACTIVE),
            (ACK, State::ESTABLISHED, ACTIVE),
            (FIN | ACK, State::FIN_WAIT, INACTIVE),
            (ACK, State::FIN_WAIT, INACTIVE),
            (RST, State::CLOSE, INACTIVE),
        ],
        &[(SYN, State::SYN_RECV, ACTIVE), (RST, State::SYN_RECV, ACTIVE), (ACK, State::ESTABLISHED, ACTIVE)],
        &[
            (SYN, State::SYN_RECV, ACTIVE),
            (ACK, State::ESTABLISHED, ACTIVE),
            (RST | ACK, State::CLOSE, INACTIVE),
            (ACK, State::CLOSE, INACTIVE),
        ],
        &[
            (SYN, State::SYN_RECV, ACTIVE),
            (ACK, State::ESTABLISHED, ACTIVE),
            // A SYN on an established connection changes nothing.
            (SYN, State::ESTABLISHED, ACTIVE),
            // A segment with none of the four flags closes, as IPVS has it.
            (0, State::CLOSE, INACTIVE),
        ],
        // A FIN in the handshake, then a new connection on what is over.
        &[
            (SYN, State::SYN_RECV, ACTIVE),
            (FIN | ACK, State::TIME_WAIT, INACTIVE),
            (ACK, State::TIME_WAIT, INACTIVE),
            (SYN, State::SYN_RECV, ACTIVE),
        ],
        // A SYN while the old connection is still ending goes on with it.
        &[
            (SYN, State::SYN_RECV, ACTIVE),
            (ACK, State::ESTABLISHED, ACTIVE),
            (FIN | ACK, State::FIN_WAIT, INACTIVE),
            (SYN, State::SYN_RECV, ACTIVE),
        ],
    ];
    for kind in [TCP4, TCP6] {
        for life in lives {
            let mut director = director(&Desired { services: vec![kind.service(PORT, &[1])], ..lab() });
            for (step, (flags, state, (active, inactive))) in life.iter().enumerate() {
                assert_eq!(send(&mut director, &kind.open().flags(*flags)), Ok(1));
                let expected = (state.name(), *active, *inactive);
                assert_eq!(now(&director), expected, "{} after step {step} of {life:?}", kind.name);
            }
        }
    }
}

#[test]
fn a_udp_flow_has_one_state_and_is_never_active() {
    for kind in [UDP4, UDP6] {
        let mut director = director(&Desired { services: vec![kind.service(PORT, &[1])], ..lab() });
        for _ in 0..3 {
            assert_eq!(send(&mut director, &kind.open()), Ok(1));
            assert_eq!(now(&director), ("UDP", 0, 1), "{}", kind.name);
        }
    }
}

#[test]
fn a_syn_on_a_finished_connection_is_scheduled_anew() {
    for kind in [TCP4, TCP6] {
        // CLOSE by a RST, TIME_WAIT by a FIN in the handshake.
        for end in [[ACK, RST], [FIN | ACK, ACK]] {
            let mut director = director(&Desired { services: vec![kind.service(PORT, &[1, 2])], ..lab() });
            let packet = kind.open();
            for (expected, flags) in [(1, SYN), (1, end[0]), (1, end[1]), (2, SYN), (2, ACK)] {
                assert_eq!(send(&mut director, &packet.flags(flags)), Ok(expected), "{} {end:?}", kind.name);
            }
            assert_eq!(director.flows().len(), 1, "the old entry was taken over");
            let counts: Vec<(u64, u64)> = director
                .maps()
                .snapshot()
                .expect("a snapshot")
                .dests
                .keys()
                .map(|id| director.maps().conn_counts(*id))
                .map(|counts| (counts.active, counts.inactive))
                .collect();
            assert_eq!(counts, [(0, 0), (1, 0)], "{}", kind.name);
        }
    }
}
