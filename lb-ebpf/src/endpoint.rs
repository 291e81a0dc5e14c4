//! Step 2: which service's endpoint a packet is for.

use lb_common::{
    endpoint::{Endpoint, Key6, filter, flag, key4},
    protocol,
    verdict::Verdict,
};

use crate::{
    maps::{ENDPOINTS4, ENDPOINTS6, FILTER},
    packet::{Fragment, Packet},
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
    if packet.fragment as u32 != Fragment::Whole as u32 {
        return Err(fragment(packet));
    }
    let exact = lookup(packet, packet.dest_port, packet.protocol);
    let wildcard = if bits & filter::WILDCARD != 0 && packet.dest_port != 0 {
        lookup(packet, 0, packet.protocol)
    } else {
        None
    };
    if exact.is_none() && wildcard.is_none() {
        return Err(Verdict::PassedNoService);
    }
    Ok(Endpoints { exact, wildcard })
}

#[inline(always)]
fn lookup(packet: &Packet, port: u16, protocol: u8) -> Option<Endpoint> {
    let word = if packet.is_ipv6 {
        // SAFETY: a copy of one word; the element may be replaced, never torn.
        unsafe { ENDPOINTS6.get(Key6::new(packet.dest, port, protocol)) }
    } else {
        // SAFETY: as above.
        unsafe { ENDPOINTS4.get(key4(packet.dest[0] as u32, port, protocol)) }
    };
    word.map(|word| Endpoint(*word))
}

/// A fragment of a packet to an address that has endpoints of its protocol must not reach the local
/// stack, which owns the VIP too and would answer.
#[inline(always)]
fn fragment(packet: &Packet) -> Verdict {
    let has = if packet.protocol == protocol::TCP { flag::HAS_TCP } else { flag::HAS_UDP };
    let ours = match packet.fragment {
        // The first fragment has the ports.
        Fragment::First => {
            lookup(packet, packet.dest_port, packet.protocol).is_some()
                || lookup(packet, 0, packet.protocol).is_some()
        }
        _ => lookup(packet, 0, 0).is_some_and(|address| address.has(has)),
    };
    if ours { Verdict::DroppedFragment } else { Verdict::PassedNoService }
}
