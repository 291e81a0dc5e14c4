//! Step 2: which service's endpoint a packet is for.

use lb_common::{
    endpoint::{Endpoint, Key6, filter, flag, key4},
    protocol,
    verdict::Verdict,
};

use crate::{
    maps::{ENDPOINTS4, ENDPOINTS6, FILTER},
    packet::Packet,
};

/// The endpoints that may serve a packet, the exact one first.
pub struct Endpoints {
    pub exact: Option<Endpoint>,
    pub wildcard: Option<Endpoint>,
}

/// Finds them, or says why the packet is none of ours.
#[inline(always)]
pub fn find(packet: &Packet) -> Result<Endpoints, Verdict> {
    let (word, shift) = filter::position(packet.dest);
    let bits = FILTER.get(word).copied().unwrap_or(0) >> shift;
    if bits & (filter::ANY | filter::WILDCARD) == 0 {
        return Err(Verdict::PassedNoService);
    }
    let exact = lookup(packet.dest, packet.is_ipv6, packet.dest_port, packet.protocol);
    let wildcard = if bits & filter::WILDCARD != 0 && packet.dest_port != 0 {
        lookup(packet.dest, packet.is_ipv6, 0, packet.protocol)
    } else {
        None
    };
    if exact.is_none() && wildcard.is_none() {
        return Err(Verdict::PassedNoService);
    }
    Ok(Endpoints { exact, wildcard })
}

#[inline(always)]
fn lookup(dest: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> Option<Endpoint> {
    let word = if is_ipv6 {
        // SAFETY: a copy of one word; the element may be replaced, never torn.
        unsafe { ENDPOINTS6.get(Key6::new(dest, port, protocol)) }
    } else {
        // SAFETY: as above.
        unsafe { ENDPOINTS4.get(key4(dest[0] as u32, port, protocol)) }
    };
    word.map(|word| Endpoint(*word))
}

/// The endpoints of a port, the exact one first, as [`find`] finds them; no endpoint is 0.
#[inline(always)]
pub fn of_port(dest: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> [Endpoint; 2] {
    let or_none = |endpoint: Option<Endpoint>| endpoint.unwrap_or(Endpoint(0));
    [or_none(lookup(dest, is_ipv6, port, protocol)), or_none(lookup(dest, is_ipv6, 0, protocol))]
}

/// Whether a packet without ports to this address, a later fragment, may be for one of its services: it must not
/// reach the local stack then, which owns the VIP too. The address as loaded.
#[inline(always)]
pub fn may_be_ours(dest: [u64; 2], is_ipv6: bool, protocol: u8) -> bool {
    let has = match protocol {
        protocol::TCP => flag::HAS_TCP,
        protocol::UDP => flag::HAS_UDP,
        // An extension header of the first fragment's.
        _ => flag::HAS_TCP | flag::HAS_UDP,
    };
    lookup(dest, is_ipv6, 0, 0).is_some_and(|address| address.has(has))
}
