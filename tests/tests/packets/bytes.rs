//! Maps, byte by byte: what a packet leaves in them, or does not.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, DevMap, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key};
use lb::dataplane::Mapped;
use lb_tests::xdp::Director;

/// What stands in a map.
#[derive(PartialEq, Eq)]
pub enum Content {
    Words(Vec<u64>),
    Bytes(Vec<u8>),
}

/// `BPF_F_MMAPABLE` (`include/uapi/linux/bpf.h`): such a map is read without a system call for each value.
const MMAPABLE: u32 = 1 << 10;

/// Of every map in which a client's packets leave something of its service, or that says where they go.
pub fn of_services(director: &Director) -> Vec<Content> {
    const NAMES: [&str; 7] =
        ["FLOWS4_0", "FLOWSW_0", "ROTATIONS", "CONNS", "SERVICES", "SERVICE_COUNTERS", "DEST_COUNTERS"];
    let pinned =
        |name| MapData::from_pin(director.layout().map(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    NAMES.iter().map(|name| read(name, pinned(name))).collect()
}

/// Of all the maps with these ids, by name and id; none is left out here. The name is the kernel's, 15 bytes long.
pub fn of_maps(ids: &BTreeSet<u32>) -> BTreeMap<(String, u32), Content> {
    let of = |id: u32| {
        let data = MapData::from_id(id).unwrap_or_else(|error| panic!("map {id}: {error}"));
        let info = data.info().expect("its description");
        let name = info.name_as_str().expect("a name").to_owned();
        let bytes = read(&name, data);
        ((name, id), bytes)
    };
    ids.iter().map(|id| of(*id)).collect()
}

/// Values are read as arrays of bytes, whose length the compiler has to know: `$body` with `$N` as one of these, or a
/// panic that asks for another one.
macro_rules! sized {
    ($name:expr, $size:expr, $N:ident in [$($n:literal)*] => $body:expr) => {
        match $size {
            $($n => { const $N: usize = $n; $body })*
            size => panic!("{}: keys or values of {size} bytes are in no list of `read`", $name),
        }
    };
}

/// All of a map, in an order that does not depend on when it was written.
fn read(name: &str, data: MapData) -> Content {
    let info = data.info().expect("its description");
    let (key, value) = (info.key_size(), info.value_size());
    if info.map_flags() & MMAPABLE != 0 {
        return sized!(name, value, N in [8 16 40 48 64 128 168 192 256] => {
            Content::Words(Mapped::<[u8; N]>::open(&data).expect(name).all_words())
        });
    }
    let map = Map::from_map_data(data).expect("a map");
    Content::Bytes(match map {
        Map::Array(_) => sized!(name, value, N in [184 776] => {
            let map = Array::<_, [u8; N]>::try_from(map).expect(name);
            map.iter().flat_map(|value| value.expect("read")).collect()
        }),
        Map::PerCpuArray(_) => sized!(name, value, N in [4 8 24 40 64] => {
            let map = PerCpuArray::<_, [u8; N]>::try_from(map).expect(name);
            map.iter().flat_map(|values| values.expect("read").concat()).collect()
        }),
        Map::HashMap(_) | Map::LruHashMap(_) => sized!(name, key, K in [8 16 40] => {
            sized!(name, value, V in [1 16] => {
                let map = HashMap::<_, [u8; K], [u8; V]>::try_from(map).expect(name);
                sorted(map.iter().map(|entry| entry.expect("read")).map(|(key, value)| [&key[..], &value].concat()))
            })
        }),
        // A key begins with the length of its prefix.
        Map::LpmTrie(_) => sized!(name, key, K in [12 28] => {
            let map = LpmTrie::<_, [u8; K - 4], [u8; 8]>::try_from(map).expect(name);
            let bytes = |key: Key<[u8; K - 4]>, value: [u8; 8]| {
                [&key.prefix_len().to_ne_bytes()[..], &key.data(), &value].concat()
            };
            sorted(map.iter().map(|entry| entry.expect("read")).map(|(key, value)| bytes(key, value)))
        }),
        Map::DevMap(_) => {
            let map = DevMap::try_from(map).expect(name);
            // An empty entry is an error.
            let entries = map.iter().map(|entry| entry.map_or(0, |entry| entry.if_index));
            entries.flat_map(u32::to_ne_bytes).collect()
        }
        other => panic!("{name} is of a kind that `read` does not know: {other:?}"),
    })
}

fn sorted(entries: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries.concat()
}
