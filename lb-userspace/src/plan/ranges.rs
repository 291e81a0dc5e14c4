//! Port ranges as the kernel looks them up: cut into prefixes.

use std::net::IpAddr;

use crate::model::Protocol;

/// Key of either trie of ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeKey {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// Leading bits of `port` that count, 0 to 16.
    pub length: u8,
}

/// The fewest prefixes, at most 30, that are the ports from `first` to `last`.
pub fn prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    let mut prefixes = Vec::new();
    while next < end {
        // The largest block that begins here and ends in time.
        let aligned = next.trailing_zeros().min(16);
        let bits = aligned.min((end - next).ilog2());
        prefixes.push((next as u16, 16 - bits as u8));
        next += 1 << bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_known_ranges() {
        assert_eq!(prefixes(80, 80), [(80, 16)]);
        assert_eq!(prefixes(1024, 65535).len(), 6);
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
        assert_eq!(prefixes(1, 65534).len(), 30);
        assert_eq!(
            prefixes(5000, 5100),
            [(5000, 13), (5008, 12), (5024, 11), (5056, 11), (5088, 13), (5096, 14), (5100, 16)]
        );
    }

    proptest! {
        #[test]
        fn they_are_the_range_and_each_port_has_one(ends in (any::<u16>(), any::<u16>())) {
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let prefixes = prefixes(first, last);
            prop_assert!(prefixes.len() <= 30);
            let mut next = u32::from(first);
            for (port, length) in prefixes {
                let size = 1u32 << (16 - length);
                prop_assert_eq!(u32::from(port), next);
                prop_assert_eq!(next % size, 0, "aligned");
                next += size;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
