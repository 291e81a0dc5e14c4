//! Reads the counters for the estimator, whose rates `lb stats --rate` shows.

use std::time::Duration;

use anyhow::Result;
use lb_common::counters::Counters;

use crate::{dataplane::Maps, estimator::Estimator, plan::Snapshot};

/// What has a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// By its name; its packets alone.
    Verdict(&'static str),
    Service(u16),
    Dest(u32),
}

/// Reads what is due.
pub fn read(rates: &mut Estimator<Counted>, maps: &Maps, snapshot: &Snapshot, now: Duration) -> Result<()> {
    let verdicts = maps.verdicts()?;
    let there = verdicts
        .iter()
        .map(|count| Counted::Verdict(count.name))
        .chain(snapshot.services.keys().map(|id| Counted::Service(*id)))
        .chain(snapshot.dests.keys().map(|id| Counted::Dest(*id)));
    for key in rates.due(now, there) {
        let counters = match key {
            Counted::Service(id) => maps.service_counters(id)?,
            Counted::Dest(id) => maps.dest_counters(id)?.served,
            Counted::Verdict(name) => {
                let packets = verdicts.iter().find(|count| count.name == name).map_or(0, |c| c.packets);
                Counters { packets, ..Counters::default() }
            }
        };
        rates.read(key, now, counters);
    }
    Ok(())
}
