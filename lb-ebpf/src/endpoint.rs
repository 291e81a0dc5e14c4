//! Step 2: which service's endpoint a packet is for.

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::XdpContext};
use lb_common::{
    endpoint::{Endpoint, filter, flag, range, table},
    protocol,
    record::Step,
    verdict::Verdict,
};

use crate::{
    maps::{ENDPOINTS, ENDPOINTS_MASK, FILTER, RANGES4, RANGES6},
    packet::Packet,
    probe, record,
};

/// The endpoints that may serve a packet, the exact one first.
pub struct Endpoints {
    pub exact: Option<Endpoint>,
    /// A range that has the port, or else the address's port-0 endpoint. Both have one id.
    pub wildcard: Option<Endpoint>,
}

/// Finds them, or says what else became of the packet. The filter has the addresses of checks too.
#[inline(always)]
pub fn find(ctx: &XdpContext, packet: &Packet) -> Result<Endpoints, Verdict> {
    let (word, shift) = filter::position(packet.dest);
    let bits = FILTER.get(word).copied().unwrap_or(0) >> shift;
    if bits & (filter::ANY | filter::WILDCARD) == 0 {
        record::step(Step::Filter, 0, 0);
        return Err(Verdict::PassedNoService);
    }
    let exact = lookup(packet.dest, packet.is_ipv6, packet.dest_port(), packet.protocol());
    let wildcard = if bits & filter::WILDCARD != 0 && packet.dest_port() != 0 {
        wide(packet.dest, packet.is_ipv6, packet.dest_port(), packet.protocol())
    } else {
        None
    };
    if record::is_kept() {
        // One call for each case: words made of them would want room on the stack.
        match (exact, wildcard) {
            (Some(exact), Some(wildcard)) => record::step(Step::Endpoints, exact.0, wildcard.0),
            (Some(exact), None) => record::step(Step::Endpoints, exact.0, 0),
            (None, Some(wildcard)) => record::step(Step::Endpoints, 0, wildcard.0),
            (None, None) => record::step(Step::Endpoints, 0, 0),
        }
    }
    if exact.is_none() && wildcard.is_none() {
        return Err(probe::answered(ctx, packet));
    }
    Ok(Endpoints { exact, wildcard })
}

#[inline(always)]
fn lookup(dest: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> Option<Endpoint> {
    let key = table::Key::new(dest, is_ipv6, port, protocol);
    let mask = ENDPOINTS_MASK.load();
    let mut found = in_bucket(key.first(mask), key);
    if found.0 == 0 {
        found = in_bucket(key.second(mask), key);
    }
    if found.0 == 0 { None } else { Some(found) }
}

#[inline(always)]
fn in_bucket(index: u32, key: table::Key) -> Endpoint {
    match ENDPOINTS.get(index) {
        Some(bucket) => bucket.find(key),
        None => Endpoint(0),
    }
}

/// The endpoint of more than one port. Only addresses that have ranges pay for them.
#[inline(always)]
fn wide(dest: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> Option<Endpoint> {
    let wildcard = lookup(dest, is_ipv6, 0, protocol)?;
    if wildcard.has(flag::RANGED) {
        let found = endpoint_in_range(&Address(dest), is_ipv6 as u32, port as u32, protocol as u32);
        if found != 0 {
            return Some(Endpoint(found));
        }
    }
    Some(wildcard)
}

/// An address of a packet as loaded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Address(pub [u64; 2]);

/// The range's endpoint, or 0. By itself, for its key is long and the stack short.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn endpoint_in_range(address: *const Address, is_ipv6: u32, port: u32, protocol: u32) -> u64 {
    // SAFETY: the caller passes a reference; the verifier wants the check for null.
    let Some(Address(address)) = (unsafe { address.as_ref() }) else { return 0 };
    let (port, protocol) = (port as u16, protocol as u8);
    let found = if is_ipv6 != 0 {
        let data = range::Data6::new(*address, port, protocol);
        RANGES6.get(&Key::new(range::BITS6 + 16, data))
    } else {
        let data = range::Data4::new(address[0] as u32, port, protocol);
        RANGES4.get(&Key::new(range::BITS4 + 16, data))
    };
    found.copied().unwrap_or(0)
}

/// The endpoints of a port, the exact one first, as [`find`] finds them; no endpoint is 0.
#[inline(always)]
pub fn of_port(dest: [u64; 2], is_ipv6: bool, port: u16, protocol: u8) -> [Endpoint; 2] {
    let or_none = |endpoint: Option<Endpoint>| endpoint.unwrap_or(Endpoint(0));
    [or_none(lookup(dest, is_ipv6, port, protocol)), or_none(wide(dest, is_ipv6, port, protocol))]
}

/// Whether a packet without ports to this address, a later fragment, may be for one of its services: it must not
/// reach the local stack then, which owns the VIP too. The address as loaded.
#[inline(always)]
pub fn may_be_ours(dest: [u64; 2], is_ipv6: bool, protocol: u8) -> bool {
    let has = match protocol {
        protocol::TCP => flag::HAS_TCP,
        protocol::UDP => flag::HAS_UDP,
        protocol::SCTP => flag::HAS_SCTP,
        // An extension header of the first fragment's.
        _ => flag::HAS_TCP | flag::HAS_UDP | flag::HAS_SCTP,
    };
    lookup(dest, is_ipv6, 0, 0).is_some_and(|address| address.has(has))
}
