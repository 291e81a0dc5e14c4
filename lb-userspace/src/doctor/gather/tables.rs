//! The flow tables, as the agent counts them.

use lb_common::verdict::Event;

use crate::{
    api::types::Stats,
    doctor::judge::tables::{Facts, Table},
};

/// Without an agent nobody knows how full they are, nor what happens now rather than since they were made.
pub fn gather(stats: Option<&Stats>) -> Facts {
    let Some(stats) = stats else { return Facts::default() };
    let rate =
        |event: Event| stats.verdicts.iter().find(|it| it.name == event.name()).map_or(0.0, |it| it.rate);
    let tables =
        stats.flows.iter().map(|it| Table { name: it.table.clone(), used: it.used, rated: it.rated });
    Facts {
        tables: tables.collect(),
        placed_by_hash: rate(Event::PlacedByHash),
        evicted: rate(Event::Evicted),
    }
}
