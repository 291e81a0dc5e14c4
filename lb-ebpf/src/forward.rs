//! Step 5: the frame's new addresses, and out.

use core::ptr;

use aya_ebpf::{bindings::xdp_md, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{
    checksum::decrement_ttl,
    dest, host,
    host::{Path, Route},
    link::{self, MAC_MASK},
    record::Step,
    verdict::Verdict,
    vlan::{SERVICE, Tags, VID_MASK},
};

use crate::{
    answer, count,
    flow::Flow,
    maps::{DESTS, DEVICES, HOSTS, INGRESS, LINKS},
    packet::{ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Packet, TAG_LEN, at, read},
    record,
};

/// Sends the packet to its flow's destination.
#[inline(always)]
pub fn forward(ctx: &XdpContext, packet: &Packet, flow: &Flow) -> Result<Verdict, Verdict> {
    let dest = DESTS.get(flow.dest).ok_or(Verdict::DroppedBackendRemoved)?;
    if dest.flags & dest::flag::RETIRED != 0 {
        record::step(Step::Dest, flow.dest as u64, flow.service as u64);
        return Err(answer::removed(ctx, packet, flow.service));
    }
    let host = HOSTS.get(dest.host).ok_or(Verdict::DroppedUnresolved)?;
    // SAFETY: aligned words that the agent replaces whole.
    let (route, path) = unsafe {
        (Route(ptr::read_volatile(&raw const host.route)), Path(ptr::read_volatile(&raw const host.path)))
    };
    if record::is_kept() {
        record::step(Step::Dest, flow.dest as u64, flow.service as u64);
        record::step(Step::Host, route.0, path.0);
    }
    if route.link() == host::LOCAL {
        count::served(flow.service, flow.dest, packet.bytes, flow.opened);
        return Ok(Verdict::PassedLocalBackend);
    }
    if packet.ttl <= 1 {
        return Err(answer::time_exceeded(ctx, packet));
    }
    let link = LINKS.get(route.link() as u32).ok_or(Verdict::DroppedUnresolved)?;
    if route.link() == 0 {
        return Err(Verdict::DroppedUnresolved);
    }
    if packet.bytes > path.mtu() as u32 && !merges() {
        return Err(answer::too_big(ctx, packet, path.mtu()));
    }
    age(ctx, packet)?;
    address(ctx, packet, route.mac_word(), link.mac & MAC_MASK, path.tags())?;
    count::served(flow.service, flow.dest, packet.bytes, flow.opened);
    if route.link() as u32 == INGRESS.load() {
        return Ok(Verdict::ForwardedTx);
    }
    match DEVICES.redirect(route.link() as u32, 0) {
        Ok(_) => Ok(Verdict::ForwardedRedirect),
        Err(_) => Err(Verdict::DroppedRedirect),
    }
}

/// Whether frames come in that are several merged into one.
#[inline(always)]
fn merges() -> bool {
    LINKS.get(INGRESS.load()).is_none_or(|link| link.mac & link::flag::MERGES != 0)
}

/// One off the TTL or hop limit, as a router does (`ip_forward`, RFC 8200 section 3).
#[inline(always)]
fn age(ctx: &XdpContext, packet: &Packet) -> Result<(), Verdict> {
    // SAFETY: `at` checks the bounds; plain integers.
    unsafe {
        if packet.is_ipv6 {
            let hop_limit = at::<u8>(ctx, packet.l3 + 7).ok_or(Verdict::PassedMalformed)?;
            *hop_limit = packet.ttl - 1;
        } else {
            let word = at::<u32>(ctx, packet.l3 + 8).ok_or(Verdict::PassedMalformed)?;
            *word = decrement_ttl(*word);
        }
    }
    Ok(())
}

/// Rewrites the MAC addresses and, where the way to the host has other tags, the tags.
#[inline(always)]
fn address(ctx: &XdpContext, packet: &Packet, dest: u64, source: u64, tags: Tags) -> Result<(), Verdict> {
    if packet.tags.0 != tags.0 {
        let old = (packet.l3 as u64) << 32 | (packet.is_ipv6 as u64) << 16 | packet.priority() as u64;
        return match forward_retag(ctx.ctx, old, dest, source, tags.0) {
            0 => Ok(()),
            _ => Err(Verdict::DroppedNoRoom),
        };
    }
    let macs = at::<[u16; 6]>(ctx, 0).ok_or(Verdict::PassedMalformed)?;
    // SAFETY: `at` checked the bounds.
    unsafe { *macs = mac_words(dest, source) };
    Ok(())
}

#[inline(always)]
fn mac_words(dest: u64, source: u64) -> [u16; 6] {
    [
        dest as u16,
        (dest >> 16) as u16,
        (dest >> 32) as u16,
        source as u16,
        (source >> 16) as u16,
        (source >> 32) as u16,
    ]
}

/// Pushes, pops or rewrites tags by writing the whole layer-2 header anew; 0 if it was possible.
/// `old`: offset of the IP header 32 | is IPv6 16 | priority bits 16. Verified once (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forward_retag(ctx: *mut xdp_md, old: u64, dest: u64, source: u64, tags: u32) -> u32 {
    let (ctx, tags) = (XdpContext::new(ctx), Tags(tags));
    let needed = ETH_LEN + tags.count() as usize * TAG_LEN;
    let delta = (old >> 32) as i32 - needed as i32;
    let inner_priority = if (old >> 32) as usize == ETH_LEN + 2 * TAG_LEN {
        read(&ctx, ETH_LEN + TAG_LEN).map_or(0, u16::from_be) & !VID_MASK
    } else {
        0
    };
    // SAFETY: the helper checks the room; all pointers into the frame are taken anew below.
    if delta != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return 1;
    }
    let ethertype = if old >> 16 & 1 != 0 { ETH_P_IPV6 } else { ETH_P_IP };
    let outer = header(tags.outer(), old as u16);
    let inner = header(tags.inner(), inner_priority);
    match write_header(&ctx, mac_words(dest, source), [outer, inner], tags.count(), ethertype) {
        Some(()) => 0,
        None => 1,
    }
}

/// A tag as it stands in the frame: its protocol, and its TCI with these priority bits.
#[inline(always)]
fn header(tag: u16, priority: u16) -> [u16; 2] {
    let protocol = if tag & SERVICE != 0 { ETH_P_8021AD } else { ETH_P_8021Q };
    [protocol, (tag & VID_MASK | priority).to_be()]
}

#[inline(always)]
fn write_header(
    ctx: &XdpContext,
    macs: [u16; 6],
    [outer, inner]: [[u16; 2]; 2],
    tags: u32,
    ethertype: u16,
) -> Option<()> {
    // SAFETY: `at` checks the bounds of each write.
    unsafe {
        *at::<[u16; 6]>(ctx, 0)? = macs;
        match tags {
            0 => *at::<u16>(ctx, 12)? = ethertype,
            1 => *at::<[u16; 3]>(ctx, 12)? = [outer[0], outer[1], ethertype],
            _ => *at::<[u16; 5]>(ctx, 12)? = [outer[0], outer[1], inner[0], inner[1], ethertype],
        }
    }
    Some(())
}
