//! Handles to all pinned maps of an instance.

use std::{path::Path, sync::atomic::AtomicU64};

use anyhow::{Context, Result};
use aya::maps::{DevMap, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use lb_common::{
    counters::{ConnCounts, Counters, DestCounters},
    dest::Dest,
    endpoint::{
        range::{Data4, Data6},
        table,
    },
    flow::{NarrowBucket, WideBucket},
    generation::{PIECE_WORDS, Piece},
    host::Host,
    link::Link,
    meta::Meta,
    probe::Probes,
    service::{Rotation, Service},
    source,
    tick::Reading,
};

use super::{layout::Layout, mapped::Mapped, object::flow_tables, pins::read_meta};

/// Open maps. Configuration is written by [`Maps::apply`] alone, flow slots are freed by
/// [`Maps::sweep`] alone.
pub struct Maps {
    pub(super) filter: Mapped<u64>,
    pub(super) endpoints: Mapped<table::Bucket<u64>>,
    pub(super) ranges4: LpmTrie<MapData, Data4, u64>,
    pub(super) ranges6: LpmTrie<MapData, Data6, u64>,
    /// How many ids there are, 0 included.
    pub(super) endpoint_ids: u32,
    pub(super) rules4: LpmTrie<MapData, source::Data4, u64>,
    pub(super) rules6: LpmTrie<MapData, source::Data6, u64>,
    pub(super) services: Mapped<Service>,
    pub(super) arena: Mapped<Piece>,
    pub(super) dests: Mapped<Dest>,
    pub(super) hosts: Mapped<Host>,
    pub(super) links: Mapped<Link>,
    pub(super) tags: HashMap<MapData, u64, u8>,
    pub(super) macs: HashMap<MapData, u64, u8>,
    pub(super) probes: HashMap<MapData, [u64; 2], Probes>,
    pub(super) devices: DevMap<MapData>,
    pub(super) narrow: Mapped<NarrowBucket<u64>>,
    pub(super) wide: Mapped<WideBucket<u64>>,
    /// The tables before, while their flows are moved.
    pub(super) old_narrow: Option<Mapped<NarrowBucket<u64>>>,
    pub(super) old_wide: Option<Mapped<WideBucket<u64>>>,
    pub(super) rotations: Mapped<Rotation>,
    pub(super) conns: Mapped<ConnCounts>,
    pub(super) service_counters: PerCpuArray<MapData, Counters>,
    pub(super) dest_counters: PerCpuArray<MapData, DestCounters>,
    pub(super) verdicts: PerCpuArray<MapData, u64>,
    pub(super) clock: Mapped<Reading>,
    /// Destination ids from here on have never been used since the maps were made: nothing has to be cleared.
    pub(super) unused_dests: u32,
}

impl Maps {
    /// Those of an instance that is there.
    pub fn pinned(layout: &Layout) -> Result<Self> {
        let meta = read_meta(layout)?.with_context(|| format!("{} is not there", layout.meta().display()))?;
        Self::open(layout, &meta)
    }

    pub(super) fn open(layout: &Layout, meta: &Meta) -> Result<Self> {
        Ok(Self {
            filter: mapped(layout, "FILTER")?,
            endpoints: mapped(layout, "ENDPOINTS")?,
            ranges4: typed(layout, "RANGES4")?,
            ranges6: typed(layout, "RANGES6")?,
            endpoint_ids: meta.endpoints,
            rules4: typed(layout, "RULES4")?,
            rules6: typed(layout, "RULES6")?,
            services: mapped(layout, "SERVICES")?,
            arena: mapped(layout, "ARENA")?,
            dests: mapped(layout, "DESTS")?,
            hosts: mapped(layout, "HOSTS")?,
            links: mapped(layout, "LINKS")?,
            tags: typed(layout, "TAGS")?,
            macs: typed(layout, "MACS")?,
            probes: typed(layout, "PROBES")?,
            devices: typed(layout, "DEVICES")?,
            narrow: flow_table(layout, meta, "FLOWS4")?.context("no FLOWS4")?,
            wide: flow_table(layout, meta, "FLOWSW")?.context("no FLOWSW")?,
            old_narrow: flow_table(layout, meta, "FLOWS4_OLD")?,
            old_wide: flow_table(layout, meta, "FLOWSW_OLD")?,
            rotations: mapped(layout, "ROTATIONS")?,
            conns: mapped(layout, "CONNS")?,
            service_counters: typed(layout, "SERVICE_COUNTERS")?,
            dest_counters: typed(layout, "DEST_COUNTERS")?,
            verdicts: typed(layout, "VERDICTS")?,
            clock: mapped(layout, "CLOCK")?,
            unused_dests: u32::MAX,
        })
    }

    pub(super) fn arena_word(&self, index: u32) -> Option<&AtomicU64> {
        self.arena.words(index / PIECE_WORDS)?.get((index % PIECE_WORDS) as usize)
    }
}

fn open(layout: &Layout, name: &str) -> Result<MapData> {
    open_pin(&layout.map(name))
}

fn open_pin(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("opening the pinned map {}", path.display()))
}

fn mapped<T>(layout: &Layout, name: &str) -> Result<Mapped<T>> {
    Mapped::open(&open(layout, name)?).with_context(|| format!("mapping {name}"))
}

/// None: there is none of this name now.
fn flow_table<T>(layout: &Layout, meta: &Meta, name: &str) -> Result<Option<Mapped<T>>> {
    let table = flow_tables(layout, meta).into_iter().find(|table| table.name == name);
    table
        .map(|table| Mapped::open(&open_pin(&table.pin)?).with_context(|| format!("mapping {name}")))
        .transpose()
}

fn typed<T>(layout: &Layout, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = Map::from_map_data(open(layout, name)?).with_context(|| format!("map {name}"))?;
    T::try_from(map).with_context(|| format!("the pinned map {name} is of another kind"))
}
