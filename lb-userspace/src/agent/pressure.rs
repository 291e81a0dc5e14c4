//! Flow tables that are nearly full: what is unfinished and idle gives way early.

use lb_common::tick;

use super::Agent;
use crate::{
    clock::monotonic,
    events::{Draft, Kind},
    pressure::{IDLE, Pressure, Turn},
};

/// Of each table, with what has given way since the agent began.
#[derive(Debug, Default)]
pub struct Tables {
    pub narrow: (Pressure, u64),
    pub wide: (Pressure, u64),
}

impl Agent {
    /// After a round of the sweeper: what the next one does.
    pub(super) fn look_at_fill(&mut self) {
        let now = monotonic();
        let (meta, sweep) = (&self.pins.meta, &mut self.sweep);
        let idle = tick::ticks(IDLE, meta.hz);
        let tables = [
            ("ipv4", &mut self.pressure.narrow, &mut sweep.narrow, sweep.narrow_live, meta.narrow_buckets),
            ("wide", &mut self.pressure.wide, &mut sweep.wide, sweep.wide_live, meta.wide_buckets),
        ];
        let mut drafts = Vec::new();
        for (table, (pressure, gone), round, used, rated) in tables {
            *gone += round.pruned;
            match pressure.look(now, used, rated.into()) {
                Some(Turn::On) => drafts.push(Draft::new(Kind::TableFull).because(format!(
                    "{table}, {used} of {rated}: half-open and closing connections that are idle for {IDLE} s give way"
                ))),
                Some(Turn::Off) => drafts.push(
                    Draft::new(Kind::TableRoom).because(format!("{table}, {used} of {rated}: {gone} gave way")),
                ),
                None => {}
            }
            round.idle = pressure.is_on().then_some(idle);
        }
        self.events.say(drafts);
    }
}
