//! Reading counters, summed over the CPUs.

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray};
use lb_common::{
    counters::{ConnCounts, Counters},
    guard::Guard,
    service::Rotation,
    tick::Tick,
    verdict::{Event, Verdict},
};

use super::maps::Maps;

/// A verdict or event, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub name: &'static str,
    pub meaning: &'static str,
    pub packets: u64,
}

impl Maps {
    pub fn service_counters(&self, id: u16) -> Result<Counters> {
        sum(&self.service_counters, u32::from(id))
    }

    pub fn dest_counters(&self, id: u32) -> Result<Counters> {
        sum(&self.dest_counters, id)
    }

    pub fn conn_counts(&self, id: u32) -> ConnCounts {
        self.conns.get(id).unwrap_or_default()
    }

    /// Whether new flows of the service come faster than its guard allows, or did a few seconds ago.
    pub fn is_guarded(&self, id: u16, now: Tick) -> bool {
        let (service, rotation) = (self.services.get(u32::from(id)), self.rotations.get(u32::from(id)));
        service.zip(rotation).is_some_and(|(service, rotation)| {
            // A burst that had room is none.
            Rotation::places_by_hash(rotation.hashed_until, now)
                && [rotation.beginning, rotation.completing]
                    .into_iter()
                    .any(|word| Guard(word).is_high(now, service.guard))
        })
    }

    /// Every verdict and event, in their fixed order.
    pub fn verdicts(&self) -> Result<Vec<Count>> {
        let verdicts = Verdict::ALL.iter().map(|v| (*v as u32, v.name(), v.meaning()));
        let events = Event::ALL.iter().map(|e| (e.index(), e.name(), e.meaning()));
        verdicts
            .chain(events)
            .map(|(index, name, meaning)| {
                let values = self.verdicts.get(&index, 0).with_context(|| format!("counter {name}"))?;
                Ok(Count { name, meaning, packets: values.iter().sum() })
            })
            .collect()
    }

    /// Bytes of both flow tables.
    pub fn table_bytes(&self) -> (u64, u64) {
        (self.narrow.bytes(), self.wide.bytes())
    }
}

fn sum(counters: &PerCpuArray<MapData, Counters>, index: u32) -> Result<Counters> {
    let values = counters.get(&index, 0).with_context(|| format!("counter {index}"))?;
    Ok(values.iter().fold(Counters::default(), |sum, cpu| Counters {
        connections: sum.connections + cpu.connections,
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    }))
}
