//! Step 4: which destination a new connection gets, out of the service's published generation.

mod hashed;
mod load;
mod locality;
mod members;
pub mod repeat;
mod rotation;

use core::ptr;

use lb_common::{
    generation::{Arena, Header, PIECE_WORDS, Published, from_spread, header_piece},
    hashed::fold,
    scheduler::{Kind, Load, kind},
};

use self::{
    hashed::{pointed_to, schedule_hashed},
    load::{schedule_drawn, schedule_least},
    locality::schedule_near,
};
use crate::{
    maps::{ARENA, CONNS, SERVICES},
    table::secret,
};

/// Client and VIP in one word, which is one less on the stack: `VIP 32 | client 32`, each as [`fold`] gives it.
#[inline(always)]
pub fn addresses(client: [u64; 2], vip: [u64; 2]) -> u64 {
    (fold(vip) as u64) << 32 | fold(client) as u64
}

/// The destination of the service's next connection; 0 if there is none that takes connections.
///
/// `addresses`: see [`addresses`]; `port` is the client's in host order: what some schedulers hash.
#[inline(always)]
pub fn schedule_next(service: u32, addresses: u64, port: u32) -> u32 {
    let Some((region, header)) = generation(service) else { return 0 };
    match kind(header.scheduler) {
        Kind::Rotation => rotation::next(service, region, &header),
        Kind::Hashed => schedule_hashed(region, addresses, port),
        Kind::Load => schedule_least(region, header.scheduler as u32, load(service).0),
        Kind::Draw => schedule_drawn(region, load(service).0),
        Kind::Locality => schedule_near(service, region),
    }
}

/// The destination of a flow without an entry: the same for each of its packets, and for most of such flows when
/// backends come and go.
///
/// This and the other exported functions here take and return numbers only: the kernel verifies such a function once,
/// by itself, instead of anew at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn schedule_by_hash(service: u32, addresses: u64, port: u32) -> u32 {
    let Some((region, header)) = generation(service) else { return 0 };
    if kind(header.scheduler) == Kind::Hashed {
        // Here, and not in a call of its own: there is no room for another one on the stack of a program that traces.
        return pointed_to::<false>(region, addresses, port);
    }
    let hash = secret().mix(addresses << 32 | (port as u64) << 16 | service as u64);
    from_spread(&Words, region, &header, (hash >> 32) as u32).unwrap_or(0)
}

struct Words;

impl Arena for Words {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        Some(ARENA.get(index / PIECE_WORDS)?[(index % PIECE_WORDS) as usize])
    }
}

/// Where the service's generation stands; none if it serves nobody.
#[inline(always)]
fn generation(service: u32) -> Option<(u32, Header)> {
    let record = SERVICES.get(service)?;
    // SAFETY: one aligned word, which the agent replaces whole.
    let published = Published(unsafe { ptr::read_volatile(&raw const record.generation) });
    if published.length() == 0 {
        return None;
    }
    let region = published.offset();
    let header = header(region)?;
    if header.period == 0 { None } else { Some((region, header)) }
}

#[inline(always)]
fn header(region: u32) -> Option<Header> {
    ARENA.get(header_piece(region)).map(Header::from_piece)
}

#[inline(always)]
fn load(service: u32) -> Load {
    Load::of_service(SERVICES.get(service).map_or(0, |record| record.flags))
}

#[inline(always)]
fn is_overloaded(dest: u32) -> bool {
    CONNS.get(dest).is_some_and(|counts| counts.overloaded != 0)
}
