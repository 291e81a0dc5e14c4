//! The TCP state machine against the table of what IPVS does with the packets that a director sees
//! (`ip_vs_proto_tcp.c`, INPUT-ONLY rows), written down as text, as a reader would compare it.

use lb_common::tcp::{State, flag, next, opens};
use proptest::prelude::*;

const STATES: [(&str, State); 11] = [
    ("NO", State::NONE),
    ("ES", State::ESTABLISHED),
    ("SS", State::SYN_SENT),
    ("SR", State::SYN_RECV),
    ("FW", State::FIN_WAIT),
    ("TW", State::TIME_WAIT),
    ("CL", State::CLOSE),
    ("CW", State::CLOSE_WAIT),
    ("LA", State::LAST_ACK),
    ("LI", State::LISTEN),
    ("SA", State::SYNACK),
];

const TABLE: &str = "
    event  NO ES SS SR FW TW CL CW LA LI SA
    syn    SR ES ES SR SR SR SR SR SR SR SR
    fin    CL FW SS TW FW TW CL CW LA LI TW
    ack    ES ES SS ES FW TW CL CW CL LI ES
    rst    CL CL CL SR CL CL CL CL LA LI CL
";

/// Seconds, with the names of `ipvsadm -Lc`.
const TIMEOUTS: [(&str, u32); 12] = [
    ("NONE", 2),
    ("ESTABLISHED", 900),
    ("SYN_SENT", 120),
    ("SYN_RECV", 60),
    ("FIN_WAIT", 120),
    ("TIME_WAIT", 120),
    ("CLOSE", 10),
    ("CLOSE_WAIT", 60),
    ("LAST_ACK", 30),
    ("LISTEN", 120),
    ("SYNACK", 120),
    ("UDP", 300),
];

/// Priority: rst, syn, fin, ack.
fn event(flags: u8) -> Option<&'static str> {
    [(flag::RST, "rst"), (flag::SYN, "syn"), (flag::FIN, "fin"), (flag::ACK, "ack")]
        .into_iter()
        .find(|(bit, _)| flags & bit != 0)
        .map(|(_, event)| event)
}

fn in_table(event: &str, state: State) -> State {
    let row = TABLE.lines().map(str::trim).find(|line| line.starts_with(event)).expect("a row");
    let column = STATES.iter().position(|(_, s)| *s == state).expect("a column");
    let cell = row.split_whitespace().nth(column + 1).expect("a cell");
    STATES.iter().find(|(name, _)| *name == cell).expect("a state").1
}

#[test]
fn every_cell_for_all_flags() {
    let header = TABLE.lines().map(str::trim).find(|line| line.starts_with("event")).expect("a header");
    assert!(header.split_whitespace().skip(1).eq(STATES.iter().map(|(name, _)| *name)));
    for (name, state) in STATES {
        for flags in 0..=u8::MAX {
            let expected = event(flags).map_or(State::CLOSE, |event| in_table(event, state));
            assert_eq!(next(state, flags), expected, "{name} with flags {flags:#04x}");
        }
    }
}

#[test]
fn names_and_timeouts() {
    for ((name, seconds), number) in TIMEOUTS.into_iter().zip(0..) {
        assert_eq!((State(number).name(), State(number).default_timeout()), (name, seconds));
    }
}

#[test]
fn only_a_first_syn_opens() {
    for flags in 0..=u8::MAX {
        let has = |bit| flags & bit != 0;
        assert_eq!(opens(flags), has(flag::SYN) && !has(flag::ACK) && !has(flag::RST), "{flags:#04x}");
    }
}

#[test]
fn active_are_established_and_what_becomes_so() {
    let active: Vec<&str> =
        STATES.iter().filter(|(_, state)| state.is_active()).map(|(name, _)| *name).collect();
    assert_eq!(active, ["ES", "SS", "SR", "SA"]);
    assert!(!State::UDP.is_active());
}

#[test]
fn a_state_is_closing_or_half_open_or_live() {
    for number in 0..State::COUNT as u8 {
        assert!(!(State(number).is_closing() && State(number).is_half_open()), "state {number}");
        if State(number).is_reusable() {
            assert!(State(number).is_closing(), "state {number}");
        }
    }
    assert!(!State::ESTABLISHED.is_closing() && !State::ESTABLISHED.is_half_open());
    assert!(!State::UDP.is_closing() && !State::UDP.is_half_open());
}

proptest! {
    #[test]
    fn no_run_of_segments_leads_back_to_none_or_out_of_the_states(
        segments in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut state = State::NONE;
        for flags in segments {
            state = next(state, flags);
            prop_assert!(STATES.iter().skip(1).any(|(_, s)| *s == state), "{:?}", state);
        }
    }

    #[test]
    fn after_the_clients_fin_only_rst_or_syn_leave_fin_wait(
        segments in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let state = segments.iter().filter(|flags| *flags & (flag::RST | flag::SYN) == 0)
            .filter(|flags| *flags & (flag::FIN | flag::ACK) != 0)
            .fold(next(State::ESTABLISHED, flag::FIN), |state, flags| next(state, *flags));
        prop_assert_eq!(state, State::FIN_WAIT);
    }
}
