//! The pinned maps, byte by byte: what a packet leaves in them, or does not.

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use lb::plan::Snapshot;
use lb_common::{
    counters::{ConnCounts, Counters, DestCounters},
    flow::{NarrowBucket, WideBucket},
    fragment,
    service::{Rotation, Service},
    source,
    tick::Reading,
};
use lb_tests::xdp::Director;

/// Of every map in which a client's packets leave something of its service, or that says where they go.
pub fn of_services(director: &Director) -> Vec<Vec<u8>> {
    vec![
        array::<{ size_of::<NarrowBucket<u64>>() }>(director, "FLOWS4_0"),
        array::<{ size_of::<WideBucket<u64>>() }>(director, "FLOWSW_0"),
        array::<{ size_of::<Rotation>() }>(director, "ROTATIONS"),
        array::<{ size_of::<ConnCounts>() }>(director, "CONNS"),
        array::<{ size_of::<Service>() }>(director, "SERVICES"),
        per_cpu::<{ size_of::<Counters>() }>(director, "SERVICE_COUNTERS"),
        per_cpu::<{ size_of::<DestCounters>() }>(director, "DEST_COUNTERS"),
    ]
}

/// Of all maps: those that the program writes as bytes, those that only the agent writes as it reads them.
pub fn of_all(director: &Director) -> (Vec<Vec<u8>>, Snapshot) {
    let mut bytes = of_services(director);
    bytes.push(per_cpu::<8>(director, "VERDICTS"));
    bytes.push(array::<{ size_of::<source::Set<u64>>() }>(director, "SOURCES"));
    bytes.push(array::<{ size_of::<Reading>() }>(director, "CLOCK"));
    bytes.push(fragments(director));
    (bytes, director.maps().snapshot().expect("a snapshot"))
}

fn pinned(director: &Director, name: &str) -> Map {
    let data =
        MapData::from_pin(director.layout().map(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Map::from_map_data(data).expect("a map")
}

fn array<const N: usize>(director: &Director, name: &str) -> Vec<u8> {
    let map = Array::<_, [u8; N]>::try_from(pinned(director, name)).expect(name);
    map.iter().flat_map(|value| value.expect("read")).collect()
}

fn per_cpu<const N: usize>(director: &Director, name: &str) -> Vec<u8> {
    let map = PerCpuArray::<_, [u8; N]>::try_from(pinned(director, name)).expect(name);
    map.iter().flat_map(|values| values.expect("read").concat()).collect()
}

fn fragments(director: &Director) -> Vec<u8> {
    const KEY: usize = size_of::<fragment::Key>();
    const PLACE: usize = size_of::<fragment::Place>();
    let map =
        HashMap::<_, [u8; KEY], [u8; PLACE]>::try_from(pinned(director, "FRAGMENTS")).expect("FRAGMENTS");
    let mut entries: Vec<_> = map.iter().map(|entry| entry.expect("read")).collect();
    entries.sort_unstable();
    entries.iter().flat_map(|(key, place)| [&key[..], &place[..]].concat()).collect()
}
