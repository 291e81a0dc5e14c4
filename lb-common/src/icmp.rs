//! ICMP messages that the director builds or passes on (RFC 792, RFC 1191, RFC 4443).

/// IP protocol numbers (IANA).
pub const ICMPV4: u8 = 1;
pub const ICMPV6: u8 = 58;

/// Bytes of an ICMP header.
pub const HEADER_LEN: usize = 8;

/// Type and code of an error, for either family: as their two bytes are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    pub v4: u16,
    pub v6: u16,
}

/// The TTL or hop limit ran out in transit.
pub const TIME_EXCEEDED: Error = Error { v4: 11, v6: 3 };
/// Fragmentation needed and DF set, or packet too big.
pub const TOO_BIG: Error = Error { v4: 3 | 4 << 8, v6: 2 };
/// Port unreachable.
pub const PORT_UNREACHABLE: Error = Error { v4: 3 | 3 << 8, v6: 1 | 4 << 8 };
/// Protocol unreachable; of IPv6 a parameter problem, an unrecognized next header.
pub const PROTOCOL_UNREACHABLE: Error = Error { v4: 3 | 2 << 8, v6: 4 | 1 << 8 };

impl Error {
    #[inline(always)]
    pub const fn of(self, is_ipv6: bool) -> u16 {
        if is_ipv6 { self.v6 } else { self.v4 }
    }
}

/// Whether a message of this type quotes the packet it is about: destination unreachable, source quench, time
/// exceeded, parameter problem; every ICMPv6 type below 128.
#[inline(always)]
pub const fn is_error(is_ipv6: bool, kind: u8) -> bool {
    if is_ipv6 { kind >= 1 && kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// Whether a message of this type answers a ping.
#[inline(always)]
pub const fn is_echo_reply(is_ipv6: bool, kind: u8) -> bool {
    kind == if is_ipv6 { 129 } else { 0 }
}

/// Whether a source address that begins with this word, as loaded, is that of one host, which alone is answered: none of
/// all zeros, loopback, multicast, broadcast or class E (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)). Of IPv6
/// nothing that begins with four bytes of zeros is routed (RFC 4291 sections 2.5 and 4).
#[inline(always)]
pub const fn is_one_host(is_ipv6: bool, word: u32) -> bool {
    match (is_ipv6, word.to_ne_bytes()[0]) {
        (false, first) => !matches!(first, 0 | 127 | 224..),
        (true, first) => first != 0xff && word != 0,
    }
}

/// The second half of an error's header, as loaded: the MTU of the next hop (RFC 1191 section 4, RFC 4443
/// section 3.2).
#[inline(always)]
pub const fn next_mtu(is_ipv6: bool, mtu: u16) -> u32 {
    if is_ipv6 { (mtu as u32).to_be() } else { (mtu.to_be() as u32) << 16 }
}

/// The second half of [`PROTOCOL_UNREACHABLE`], as loaded: where the IPv6 header names what follows it (RFC 4443
/// section 3.4).
#[inline(always)]
pub const fn next_header(is_ipv6: bool) -> u32 {
    if is_ipv6 { 6u32.to_be() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_queries() {
        for (is_ipv6, error, query) in
            [(false, [3, 4, 11, 12], [0, 8, 5, 13]), (true, [1, 2, 3, 127], [0, 128, 135, 255])]
        {
            assert!(error.iter().all(|kind| is_error(is_ipv6, *kind)));
            assert!(!query.iter().any(|kind| is_error(is_ipv6, *kind)));
        }
    }

    #[test]
    fn who_is_one_host_may_be_answered() {
        let v4 = |address: [u8; 4]| is_one_host(false, u32::from_ne_bytes(address));
        for address in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(!v4(address), "{address:?}");
        }
        for address in [[1, 0, 0, 1], [10, 1, 2, 3], [126, 0, 0, 1], [128, 0, 0, 1], [223, 255, 255, 255]] {
            assert!(v4(address), "{address:?}");
        }
        let v6 = |address: &str| {
            let [a, b, c, d, ..] = address.parse::<core::net::Ipv6Addr>().expect("an address").octets();
            is_one_host(true, u32::from_ne_bytes([a, b, c, d]))
        };
        for address in ["::", "::1", "::ffff:10.1.2.3", "ff02::1", "ff0e::1:3"] {
            assert!(!v6(address), "{address}");
        }
        for address in ["fd00::1", "fe80::1", "2001:db8::1", "64:ff9b::10.1.2.3"] {
            assert!(v6(address), "{address}");
        }
    }

    #[test]
    fn the_mtu_stands_in_network_order() {
        assert_eq!(next_mtu(false, 1400).to_ne_bytes(), [0, 0, 5, 0x78]);
        assert_eq!(next_mtu(true, 1400).to_ne_bytes(), [0, 0, 5, 0x78]);
    }
}
