//! Clients as they come: keys whose fields are anything but random.

use std::net::Ipv4Addr;

use lb_common::flow::{NarrowKey, Secret, WideKey};

/// A name, and what makes the `n`th client's key.
type Narrow = (&'static str, fn(u64) -> NarrowKey);
type Wide = (&'static str, fn(Secret, u64) -> WideKey);

pub const NARROW: &[Narrow] = &[
    ("one client, all its ports", |n| narrow(0x0a00_0001 + (n >> 16) as u32, n as u16, 1)),
    ("a /8 in order, one port", |n| narrow(0x0a00_0000 + n as u32, 40000, 1)),
    ("addresses 256 apart, one port", |n| narrow((n as u32) << 8, 40000, 1)),
    ("a /16, ports as systems give them out", |n| {
        narrow(0xac10_0000 + (n % 65536) as u32, 32768 + (n / 65536) as u16, 1)
    }),
    ("four proxies, even ports, eight services", |n| {
        narrow(0xc0a8_0001 + (n & 3) as u32, ((n >> 2) as u16 & 0x7fff) * 2, 1 + (n >> 17) as u16)
    }),
    ("one client and port, all services", |n| narrow(0x0a00_0001 + (n >> 16) as u32, 5000, n as u16)),
];

fn narrow(address: u32, port: u16, endpoint: u16) -> NarrowKey {
    // As loaded from a packet.
    NarrowKey::new(u32::from_ne_bytes(Ipv4Addr::from(address).octets()), port.to_be(), endpoint)
}

pub const WIDE: &[Wide] = &[
    ("IPv6 hosts of one /64, one port", |secret, n| wide(secret, 0x2001_0db8 << 32, n, 40000)),
    ("one IPv6 host of each /64, one port", |secret, n| wide(secret, (0x2001_0db8 << 32) + n, 1, 40000)),
    ("IPv6 hosts, all their ports", |secret, n| wide(secret, 0x2001_0db8 << 32, n >> 16, n as u16)),
];

fn wide(secret: Secret, network: u64, host: u64, port: u16) -> WideKey {
    WideKey::new(secret, [network.to_be(), host.to_be()], port.to_be(), 443u16.to_be(), 1)
}

/// Seeded secrets: results do not change from run to run.
pub fn secrets() -> impl Iterator<Item = Secret> {
    let mut random = Random(0x5eed);
    (0..4).map(move |_| Secret::from_random(random.next(), random.next()))
}

/// splitmix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
