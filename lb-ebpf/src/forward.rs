//! Step 5: the frame's new addresses, and out.

use core::ptr;

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{
    checksum::decrement_ttl,
    dest, host,
    host::{Path, Route},
    link::MAC_MASK,
    verdict::Verdict,
    vlan::Tags,
};

use crate::{
    count,
    flow::Flow,
    maps::{DESTS, DEVICES, HOSTS, INGRESS, LINKS},
    packet::{ETH_LEN, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Packet, TAG_LEN, at},
    time_exceeded,
};

/// Sends the packet to its flow's destination.
#[inline(always)]
pub fn forward(ctx: &XdpContext, packet: &Packet, flow: &Flow) -> Result<Verdict, Verdict> {
    let dest = DESTS.get(flow.dest).ok_or(Verdict::DroppedBackendRemoved)?;
    if dest.flags & dest::flag::RETIRED != 0 {
        return Err(Verdict::DroppedBackendRemoved);
    }
    let host = HOSTS.get(dest.host).ok_or(Verdict::DroppedUnresolved)?;
    // SAFETY: aligned words that the agent replaces whole.
    let (route, path) = unsafe {
        (Route(ptr::read_volatile(&raw const host.route)), Path(ptr::read_volatile(&raw const host.path)))
    };
    if route.link() == host::LOCAL {
        count::served(flow.service, flow.dest, packet.bytes, flow.opened);
        return Ok(Verdict::PassedLocalBackend);
    }
    if packet.ttl <= 1 {
        return Err(time_exceeded::answer(ctx, packet));
    }
    let link = LINKS.get(route.link() as u32).ok_or(Verdict::DroppedUnresolved)?;
    if route.link() == 0 {
        return Err(Verdict::DroppedUnresolved);
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
        return retag(ctx, packet, dest, source, tags);
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

/// Pushes, pops or rewrites tags by writing the whole layer-2 header anew.
#[inline(never)]
fn retag(ctx: &XdpContext, packet: &Packet, dest: u64, source: u64, tags: Tags) -> Result<(), Verdict> {
    let needed = ETH_LEN + tags.count() as usize * TAG_LEN;
    if needed != packet.l3 {
        let delta = packet.l3 as i32 - needed as i32;
        // SAFETY: the helper checks the room; all pointers into the frame are taken anew below.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
            return Err(Verdict::DroppedNoRoom);
        }
    }
    let ethertype = if packet.is_ipv6 { ETH_P_IPV6 } else { ETH_P_IP };
    // SAFETY: `at` checks the bounds of each write.
    unsafe {
        *at::<[u16; 6]>(ctx, 0).ok_or(Verdict::DroppedNoRoom)? = mac_words(dest, source);
        let outer = (tags.outer() | packet.priority).to_be();
        match tags.count() {
            0 => *at::<u16>(ctx, 12).ok_or(Verdict::DroppedNoRoom)? = ethertype,
            1 => *at::<[u16; 3]>(ctx, 12).ok_or(Verdict::DroppedNoRoom)? = [ETH_P_8021Q, outer, ethertype],
            _ => {
                *at::<[u16; 5]>(ctx, 12).ok_or(Verdict::DroppedNoRoom)? =
                    [ETH_P_8021Q, outer, ETH_P_8021Q, tags.inner().to_be(), ethertype]
            }
        }
    }
    Ok(())
}
