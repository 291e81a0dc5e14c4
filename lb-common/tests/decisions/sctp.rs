//! The SCTP state machine against the table of what IPVS does with the packets that a director sees
//! (`ip_vs_proto_sctp.c`, INPUT-ONLY rows), written down as text, as a reader would compare it.

use lb_common::{
    sctp::{chunk, flags, next},
    tcp::State,
};
use proptest::prelude::*;

const STATES: [(&str, State); 7] = [
    ("NO", State::NONE),
    ("I1", State::SCTP_INIT1),
    ("IN", State::SCTP_INIT),
    ("CE", State::SCTP_COOKIE_ECHOED),
    ("ES", State::SCTP_ESTABLISHED),
    ("SR", State::SCTP_SHUTDOWN_RECEIVED),
    ("CL", State::SCTP_CLOSED),
];

/// By chunk type (RFC 9260 section 3.2); every other one is as `0`. Of IPVS's columns those that a director in Direct
/// Routing comes to.
const TABLE: &str = "
    type   NO I1 IN CE ES SR CL
    0      ES I1 IN CE ES SR CL
    1      I1 IN IN CE ES SR IN
    2      CE CE CE CE ES SR CL
    6      CL CL CL CL CL CL CL
    7      SR I1 IN CE SR SR CL
    8      CL IN IN CE CL SR CL
    9      CL I1 IN CE ES SR CL
    10     ES ES ES CE ES SR CL
    11     ES I1 IN ES ES SR CL
    14     CL CL CL CE ES CL CL
";

/// Seconds, with the names of `ipvsadm -Lc`.
const TIMEOUTS: [(State, &str, u32); 7] = [
    (State::SCTP_NONE, "NONE", 61),
    (State::SCTP_INIT1, "INIT1", 4),
    (State::SCTP_INIT, "INIT", 61),
    (State::SCTP_COOKIE_ECHOED, "C-ECHOED", 61),
    (State::SCTP_ESTABLISHED, "ESTABLISHED", 900),
    (State::SCTP_SHUTDOWN_RECEIVED, "S-RECEIVED", 61),
    (State::SCTP_CLOSED, "CLOSED", 61),
];

fn cells(row: &str) -> Option<Vec<&'static str>> {
    TABLE
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|cells| cells.first() == Some(&row))
        .map(|cells| cells[1..].to_vec())
}

#[test]
fn every_cell_for_all_chunk_types() {
    assert!(cells("type").expect("a header").into_iter().eq(STATES.iter().map(|(name, _)| *name)));
    for first in 0..=u8::MAX {
        let row = cells(&first.to_string()).or_else(|| cells("0")).expect("a row");
        for ((name, state), cell) in STATES.into_iter().zip(row) {
            let expected = STATES.iter().find(|(name, _)| *name == cell).expect("a state").1;
            assert_eq!(next(state, flags(first)), expected, "{name} with a chunk of type {first}");
        }
    }
}

#[test]
fn names_and_timeouts() {
    for (state, name, seconds) in TIMEOUTS {
        assert_eq!((state.name(), state.default_timeout()), (name, seconds));
    }
}

#[test]
fn what_each_state_counts_as() {
    let among = |is: fn(State) -> bool| {
        let all = STATES.iter().filter(|(_, state)| is(*state));
        all.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    };
    // IPVS counts every state but this one as inactive (`set_sctp_state`).
    assert_eq!(among(State::is_active), "ES");
    assert_eq!(among(State::is_established), "ES");
    assert_eq!(among(State::is_half_open), "NO I1 IN CE");
    assert_eq!(among(State::is_closing), "SR CL");
    // `is_new_conn_expected`.
    assert_eq!(among(State::is_reusable), "CL");
    assert!(State::SCTP_NONE.is_half_open() && !State::SCTP_NONE.is_active());
}

proptest! {
    #[test]
    fn no_run_of_packets_leads_back_to_none_or_out_of_the_states(
        chunks in prop::collection::vec(0u8..20, 1..40),
    ) {
        let mut state = State::NONE;
        for first in chunks {
            state = next(state, flags(first));
            prop_assert!(STATES.iter().skip(1).any(|(_, s)| *s == state), "{:?}", state);
        }
    }

    #[test]
    fn nothing_but_an_end_leaves_established(chunks in prop::collection::vec(any::<u8>(), 0..40)) {
        let ends = [chunk::ABORT, chunk::SHUTDOWN, chunk::SHUTDOWN_ACK];
        let state = chunks.into_iter().filter(|first| !ends.contains(first))
            .fold(State::SCTP_ESTABLISHED, |state, first| next(state, flags(first)));
        prop_assert_eq!(state, State::SCTP_ESTABLISHED);
    }
}
