//! Beside 2: the answers to health checks through the VIP, which the local stack would discard, for it owns the VIP
//! too. What the checks send does not come here: see `deliver.rs`.

use aya_ebpf::programs::XdpContext;
use lb_common::{host::Route, link::MAC_MASK, verdict::Verdict, vlan::Tags};

use crate::{
    endpoint,
    forward::address,
    maps::{DEVICES, INGRESS, LINKS, PROBES},
    packet::{Packet, Part},
};

/// Gives a packet that is for no service to the checks, if it is from a VIP and to one of their ports. No flow, cursor
/// or counter of a service has to do with it.
#[inline(always)]
pub fn answered(ctx: &XdpContext, packet: &Packet) -> Verdict {
    // SAFETY: a copy; the agent replaces it whole.
    let Some(probes) = (unsafe { PROBES.get(packet.dest) }).copied() else {
        return Verdict::PassedNoService;
    };
    if !packet.part.is(Part::Whole)
        || !probes.has(u16::from_be(packet.dest_port))
        || !endpoint::may_be_ours(packet.source, packet.is_ipv6, packet.protocol)
    {
        return Verdict::PassedNoService;
    }
    let route = Route(probes.route);
    let Some(link) = LINKS.get(INGRESS.load()) else { return Verdict::DroppedRedirect };
    if let Err(verdict) = address(ctx, packet, route.mac_word(), link.mac & MAC_MASK, Tags::NONE) {
        return verdict;
    }
    match DEVICES.redirect(route.link() as u32, 0) {
        Ok(_) => Verdict::ForwardedProbe,
        // Of an agent that is gone.
        Err(_) => Verdict::DroppedRedirect,
    }
}
