//! Accelerated time: it passes for what stands in the maps, without being waited for.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::{
    bucket::SLOTS,
    flow::{NarrowBucket, WideBucket},
    service::Rotation,
    tick::{self, Tick},
    value::Value,
};

use super::Director;

/// Words of a bucket of either table.
const NARROW: usize = size_of::<NarrowBucket<u64>>() / 8;
const WIDE: usize = size_of::<WideBucket<u64>>() / 8;

impl Director {
    /// So many seconds pass, for flows, templates, guards and what is placed by hash; not for limits of sources and of
    /// answers, nor for fragments. A template that the sweeper has found to be over is looked at again.
    pub fn pass(&mut self, seconds: u32) -> Result<()> {
        let ticks = tick::ticks(seconds, self.clock.hz());
        for pin in self.tables("FLOWS4") {
            age_flows::<NARROW>(pin, ticks)?;
        }
        for pin in self.tables("FLOWSW") {
            age_flows::<WIDE>(pin, ticks)?;
        }
        let mut rotations = self.rotations()?;
        for id in 0..rotations.len() {
            let before = rotations.get(&id, 0)?;
            let after = aged(before, ticks);
            if after != before {
                rotations.set(id, after, 0)?;
            }
        }
        self.last_sweep.forget_places();
        Ok(())
    }

    /// What the program keeps of a service between packets.
    pub fn rotation(&self, service: u16) -> Result<Rotation> {
        Ok(self.rotations()?.get(&service.into(), 0)?)
    }

    /// Changes it.
    pub fn change_rotation(&self, service: u16, change: impl FnOnce(&mut Rotation)) -> Result<()> {
        let mut rotations = self.rotations()?;
        let mut rotation = rotations.get(&service.into(), 0)?;
        change(&mut rotation);
        Ok(rotations.set(service.into(), rotation, 0)?)
    }

    fn rotations(&self) -> Result<Array<MapData, Rotation>> {
        open(self.layout().map("ROTATIONS"))
    }

    /// The pins of a flow table; that of the one before, too, while its flows are moved.
    pub fn tables(&self, name: &str) -> Vec<PathBuf> {
        let meta = self.meta();
        let (generation, old) = match name {
            "FLOWS4" => (meta.narrow_generation, meta.old_narrow_buckets),
            _ => (meta.wide_generation, meta.old_wide_buckets),
        };
        let before = (old != 0).then(|| generation.wrapping_sub(1));
        [generation].into_iter().chain(before).map(|number| self.layout().flows(name, number)).collect()
    }
}

/// Each bucket begins with tag and value of each slot.
fn age_flows<const N: usize>(pin: PathBuf, ticks: u32) -> Result<()> {
    let mut buckets: Array<_, [u64; N]> = open(pin)?;
    for index in 0..buckets.len() {
        let mut bucket = buckets.get(&index, 0)?;
        let mut is_empty = true;
        for value in (0..SLOTS).map(|slot| 2 * slot + 1) {
            let flow = Value(bucket[value]);
            if flow.is_flow() {
                bucket[value] = flow.moved_to(flow.state(), before(flow.expiry(), ticks)).0;
                is_empty = false;
            }
        }
        if !is_empty {
            buckets.set(index, bucket, 0)?;
        }
    }
    Ok(())
}

/// What has never happened stays so.
fn aged(rotation: Rotation, ticks: u32) -> Rotation {
    let low = |word: u64| word & !u64::from(u32::MAX) | u64::from(before(Tick(word as u32), ticks).0);
    let high =
        |word: u64| word & u64::from(u32::MAX) | u64::from(before(Tick((word >> 32) as u32), ticks).0) << 32;
    let if_any = |word: u64, age: &dyn Fn(u64) -> u64| if word == 0 { 0 } else { age(word) };
    Rotation {
        hashed_until: if_any(rotation.hashed_until, &low),
        locality: if_any(rotation.locality, &low),
        beginning: if_any(rotation.beginning, &high),
        completing: if_any(rotation.completing, &high),
        ..rotation
    }
}

fn before(tick: Tick, ticks: u32) -> Tick {
    Tick(tick.0.wrapping_sub(ticks))
}

fn open<V: aya::Pod>(pin: PathBuf) -> Result<Array<MapData, V>> {
    let map = Map::from_map_data(MapData::from_pin(&pin).with_context(|| format!("{}", pin.display()))?)?;
    Ok(Array::try_from(map)?)
}
