//! The table of endpoints: a map, with room for all that there may be, whatever addresses and ports they have.

use std::collections::BTreeMap;

use lb_common::{
    endpoint::{
        Endpoint,
        table::{Bucket, Full, Key, buckets, remove, set},
    },
    protocol,
};
use proptest::prelude::*;

use crate::{capacity::Plain, population::Random};

struct Table(Vec<Bucket<Plain>>);

impl Table {
    fn for_entries(entries: u32) -> Self {
        Self((0..buckets(entries)).map(|_| Bucket::free(Plain::default)).collect())
    }

    fn candidates(&self, key: Key) -> [&Bucket<Plain>; 2] {
        let mask = self.0.len() as u32 - 1;
        [key.first(mask), key.second(mask)].map(|index| &self.0[index as usize])
    }

    fn set(&self, key: Key, endpoint: Endpoint) -> Result<(), Full> {
        set(self.candidates(key), key, endpoint)
    }

    /// As the program looks.
    fn find(&self, key: Key) -> Endpoint {
        let [first, second] = self.candidates(key);
        match first.find(key) {
            Endpoint(0) => second.find(key),
            found => found,
        }
    }
}

fn v4(address: u32) -> [u64; 2] {
    [u32::from_ne_bytes(address.to_be_bytes()).into(), 0]
}

fn v6(host: u64) -> [u64; 2] {
    [0x2001_0db8u64.to_be(), host.to_be()]
}

/// The `n`th key of a table that somebody may want, ports as loaded.
type Population = (&'static str, fn(u64) -> Key);

const POPULATIONS: &[Population] = &[
    ("one address, ports in order", |n| Key::new(v4(0x0a00_0001), false, (n as u16).to_be(), protocol::TCP)),
    ("addresses in order, one port", |n| {
        Key::new(v4(0x0a00_0000 + n as u32), false, 3306u16.to_be(), protocol::TCP)
    }),
    ("addresses in order, an endpoint and the address's entry", |n| {
        let (port, protocol) = if n & 1 == 0 { (443, protocol::TCP) } else { (0, 0) };
        Key::new(v4(0xac12_0e00 + (n >> 1) as u32), false, u16::to_be(port), protocol)
    }),
    ("TCP and UDP, 16 ports of each address", |n| {
        let protocol = if n & 1 == 0 { protocol::TCP } else { protocol::UDP };
        Key::new(v4(0xc0a8_0000 + (n >> 5) as u32), false, (5000 + (n >> 1 & 15) as u16).to_be(), protocol)
    }),
    ("IPv6 hosts in order, one port", |n| Key::new(v6(n), true, 443u16.to_be(), protocol::TCP)),
    ("IPv4 and IPv6 by turns, port by port", |n| {
        let address = if n & 1 == 0 { v4(0x0a00_0001 + (n >> 9) as u32) } else { v6(1 + (n >> 9)) };
        Key::new(address, n & 1 != 0, (8000 + (n >> 1 & 255) as u16).to_be(), protocol::TCP)
    }),
];

#[test]
fn there_is_room_for_all_that_there_may_be() {
    for entries in [2, 64, 1000, 8192, 60_000] {
        for (name, key) in POPULATIONS {
            let table = Table::for_entries(entries);
            for n in 0..u64::from(entries) {
                assert_eq!(table.set(key(n), Endpoint(n + 1)), Ok(()), "{name}: key {n} of {entries}");
            }
            let mut fullest = BTreeMap::<usize, u32>::new();
            for bucket in &table.0 {
                *fullest.entry(bucket.entries().count()).or_default() += 1;
            }
            println!("{name}: {entries} entries, buckets by keys {fullest:?}");
            for n in 0..u64::from(entries) {
                assert_eq!(table.find(key(n)), Endpoint(n + 1), "{name}: key {n} of {entries}");
            }
        }
    }
}

/// Comes and goes for years, full to the limit.
#[test]
fn there_is_room_under_churn() {
    const ENTRIES: u64 = 512;
    for (name, key) in POPULATIONS {
        let table = Table::for_entries(ENTRIES as u32);
        let mut there: Vec<u64> = (0..ENTRIES).collect();
        for n in &there {
            assert_eq!(table.set(key(*n), Endpoint(n + 1)), Ok(()), "{name}");
        }
        let mut random = Random(7);
        for n in ENTRIES..ENTRIES * 30 {
            // Ports have 16 bits: a key that comes back is another one's place.
            let n = n % 4096;
            let at = random.below(ENTRIES) as usize;
            if there.contains(&n) {
                continue;
            }
            remove(table.candidates(key(there[at])), key(there[at]));
            there[at] = n;
            assert_eq!(table.set(key(n), Endpoint(n + 1)), Ok(()), "{name}: key {n}");
        }
        for n in &there {
            assert_eq!(table.find(key(*n)), Endpoint(n + 1), "{name}: key {n}");
        }
    }
}

/// Few addresses, ports and protocols, so that keys are alike in all but one.
fn keys() -> impl Strategy<Value = Key> {
    (0..3u32, any::<bool>(), 0..4u16, prop_oneof![Just(0), Just(protocol::TCP), Just(protocol::UDP)])
        .prop_map(|(address, is_ipv6, port, protocol)| Key::new([address.into(), 0], is_ipv6, port, protocol))
}

proptest! {
    #[test]
    fn it_is_a_map(steps in prop::collection::vec((keys(), 0..3u64), 0..100), entries in 1..64u32) {
        let table = Table::for_entries(entries);
        let mut map = BTreeMap::new();
        let name = |key: Key| (key.what, key.address);
        for (key, endpoint) in steps {
            if endpoint == 0 {
                remove(table.candidates(key), key);
                map.remove(&name(key));
            } else {
                match table.set(key, Endpoint(endpoint)) {
                    Ok(()) => {
                        map.insert(name(key), endpoint);
                    }
                    Err(Full) => prop_assert!(!map.contains_key(&name(key)) && map.len() > entries as usize),
                }
            }
            prop_assert_eq!(table.find(key).0, map.get(&name(key)).copied().unwrap_or(0));
        }
        let found: BTreeMap<_, _> =
            table.0.iter().flat_map(Bucket::entries).map(|(key, endpoint)| (name(key), endpoint.0)).collect();
        prop_assert_eq!(found, map);
    }

    #[test]
    fn a_key_says_what_it_was_made_of(address: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) {
        let key = Key::new(address, is_ipv6, port, protocol);
        prop_assert_eq!((key.address, key.is_ipv6(), key.port(), key.protocol()), (address, is_ipv6, port, protocol));
        prop_assert!(key.what != 0);
    }
}
