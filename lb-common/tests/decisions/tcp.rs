//! The TCP state machine against the table of what IPVS does with the packets that a director sees
//! (`ip_vs_proto_tcp.c`, INPUT-ONLY rows), written down as text, as a reader would compare it.

use lb_common::tcp::{State, flag, next, opens};
use proptest::prelude::*;

const STATES: [(&str, State); 6] = [
    ("NO", State::NONE),
    ("ES", State::ESTABLISHED),
    ("SR", State::SYN_RECV),
    ("FW", State::FIN_WAIT),
    ("TW", State::TIME_WAIT),
    ("CL", State::CLOSE),
];

/// IPVS's whole table, with its states that a director in Direct Routing never comes to: SS, CW, LA, LI, SA.
const TABLE: &str = "
    event  NO ES SS SR FW TW CL CW LA LI SA
    syn    SR ES ES SR SR SR SR SR SR SR SR
    fin    CL FW SS TW FW TW CL CW LA LI TW
    ack    ES ES SS ES FW TW CL CW CL LI ES
    rst    CL CL CL SR CL CL CL CL LA LI CL
";

/// Seconds, with the names of `ipvsadm -Lc`.
const TIMEOUTS: [(State, &str, u32); 7] = [
    (State::NONE, "NONE", 2),
    (State::ESTABLISHED, "ESTABLISHED", 900),
    (State::SYN_RECV, "SYN_RECV", 60),
    (State::FIN_WAIT, "FIN_WAIT", 120),
    (State::TIME_WAIT, "TIME_WAIT", 120),
    (State::CLOSE, "CLOSE", 10),
    (State::UDP, "UDP", 300),
];

/// Priority: rst, syn, fin, ack.
fn event(flags: u8) -> Option<&'static str> {
    [(flag::RST, "rst"), (flag::SYN, "syn"), (flag::FIN, "fin"), (flag::ACK, "ack")]
        .into_iter()
        .find(|(bit, _)| flags & bit != 0)
        .map(|(_, event)| event)
}

fn line(event: &str) -> impl Iterator<Item = &'static str> {
    let row = TABLE.lines().map(str::trim).find(|line| line.starts_with(event)).expect("a row");
    row.split_whitespace().skip(1)
}

/// There is a state for each cell: none leads out of ours.
fn in_table(event: &str, name: &str) -> State {
    let column = line("event").position(|column| column == name).expect("a column");
    let cell = line(event).nth(column).expect("a cell");
    STATES.iter().find(|(name, _)| *name == cell).expect("a state").1
}

#[test]
fn every_cell_for_all_flags() {
    for (name, state) in STATES {
        for flags in 0..=u8::MAX {
            let expected = event(flags).map_or(State::CLOSE, |event| in_table(event, name));
            assert_eq!(next(state, flags), expected, "{name} with flags {flags:#04x}");
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
    assert_eq!(active, ["ES", "SR"]);
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
