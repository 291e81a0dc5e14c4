//! Flow tables that are nearly full: what is unfinished and idle gives way early.

use lb_common::tick;

use super::Agent;
use crate::{
    clock::monotonic,
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
        for (table, (pressure, gone), round, used, rated) in tables {
            *gone += round.pruned;
            match pressure.look(now, used, rated.into()) {
                Some(Turn::On) => tracing::warn!(
                    table,
                    used,
                    rated,
                    "the flow table is nearly full: half-open and closing connections that are idle for {IDLE} s give way"
                ),
                Some(Turn::Off) => {
                    tracing::info!(table, used, rated, gave_way = *gone, "the flow table has room again");
                }
                None => {}
            }
            round.idle = pressure.is_on().then_some(idle);
        }
    }
}
