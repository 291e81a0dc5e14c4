//! Health checks through the VIP: they are made in a network namespace of the agent's, where the VIP is nobody's
//! own. What they send is delivered to a backend by its host record, and what comes back is given to them.

/// Map value of `PROBES`, whose key is an address of the director's own (two words as loaded, an IPv4 address is
/// `[address, 0]`) that checks come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// MAC of the checks' end in the low 48 bits, index in `LINKS` of the device that leads there above, as in
    /// [`crate::host::Route`].
    pub route: u64,
    /// The checks' own ports, from and to, which nobody else on the director has.
    pub first_port: u16,
    pub last_port: u16,
    /// See [`flag`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Probes>() == 16);

pub mod flag {
    /// The key is an IPv6 address.
    pub const IPV6: u32 = 1;
}

impl Probes {
    /// Whether checks own this port (host order).
    #[inline(always)]
    pub const fn has(&self, port: u16) -> bool {
        self.first_port <= port && port <= self.last_port
    }
}

/// Locally administered (IEEE 802: bit 1 of the first byte), and not likely to be anybody's.
const PREFIX: [u8; 3] = [0x02, b'l', b'b'];

/// The destination MAC, in the checks' namespace, of a frame to the host with this index in `HOSTS` (24 bits).
#[inline(always)]
pub const fn mac_of(host: u32) -> [u8; 6] {
    let [a, b, c] = PREFIX;
    [a, b, c, (host >> 16) as u8, (host >> 8) as u8, host as u8]
}

/// The inverse of [`mac_of`]; none: no frame of a check.
#[inline(always)]
pub const fn host_of(mac: [u8; 6]) -> Option<u32> {
    let [a, b, c, x, y, z] = mac;
    if a != PREFIX[0] || b != PREFIX[1] || c != PREFIX[2] {
        return None;
    }
    Some((x as u32) << 16 | (y as u32) << 8 | z as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_again_by_its_mac() {
        for host in [0, 1, 255, 256, 0x1_0000, 262_144, 0xff_ffff] {
            assert_eq!(host_of(mac_of(host)), Some(host));
        }
        assert_eq!(host_of([0x02, b'l', 0, 0, 0, 1]), None);
        assert_eq!(host_of([0xff; 6]), None);
    }

    #[test]
    fn both_ends_of_the_range_are_in_it() {
        let probes = Probes { first_port: 61000, last_port: 61003, ..Probes::default() };
        let inside = [60999, 61000, 61003, 61004].map(|port| probes.has(port));
        assert_eq!(inside, [false, true, true, false]);
        assert!(!Probes { first_port: 1, ..Probes::default() }.has(0));
    }
}
