//! The filter before the table of endpoints: it may say "perhaps" to anybody, but never "no" to an address
//! that has an endpoint.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::endpoint::filter::{ANY, WILDCARD, WORDS, position};
use proptest::prelude::*;

/// Addresses as the program loads them: IPv4 in the first word.
fn addresses() -> impl Strategy<Value = [u64; 2]> {
    prop_oneof![
        any::<u32>().prop_map(|v4| [u64::from(v4), 0]),
        any::<[u64; 2]>(),
        // Neighbours in one network.
        any::<u8>().prop_map(|last| [u64::from(u32::from_ne_bytes([192, 0, 2, last])), 0]),
        any::<u8>()
            .prop_map(|last| [u64::from_ne_bytes([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]), u64::from(last) << 56]),
    ]
}

fn bits(filter: &BTreeMap<u32, u64>, address: [u64; 2]) -> u64 {
    let (word, shift) = position(address);
    filter.get(&word).copied().unwrap_or(0) >> shift
}

proptest! {
    #[test]
    fn no_address_with_an_endpoint_is_turned_away(
        endpoints in prop::collection::vec((addresses(), any::<bool>()), 0..300),
        stranger in addresses(),
    ) {
        let mut filter: BTreeMap<u32, u64> = BTreeMap::new();
        for (address, wildcard) in &endpoints {
            let (word, shift) = position(*address);
            prop_assert!(word < WORDS && shift <= 62);
            *filter.entry(word).or_default() |= (ANY | if *wildcard { WILDCARD } else { 0 }) << shift;
        }
        for (address, wildcard) in &endpoints {
            prop_assert!(bits(&filter, *address) & ANY != 0);
            prop_assert!(!*wildcard || bits(&filter, *address) & WILDCARD != 0);
        }
        // And it is of use: who shares a place with nobody is turned away.
        let taken: BTreeSet<(u32, u32)> = endpoints.iter().map(|(address, _)| position(*address)).collect();
        prop_assert_eq!(bits(&filter, stranger) & (ANY | WILDCARD) != 0, taken.contains(&position(stranger)));
    }
}

#[test]
fn a_network_full_of_addresses_does_not_share_places() {
    // 65,536 places: 256 random addresses share half a place on average.
    for network in [[10u8, 0, 0], [192, 168, 1], [172, 18, 14], [203, 0, 113]] {
        let places: BTreeSet<(u32, u32)> = (0..=255)
            .map(|last| {
                let [a, b, c] = network;
                position([u64::from(u32::from_ne_bytes([a, b, c, last])), 0])
            })
            .collect();
        assert!(places.len() >= 250, "{network:?}: only {} places", places.len());
    }
}
