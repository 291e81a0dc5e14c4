//! An ICMP error says what it is about by quoting the packet that caused it: one of a backend to its client. It goes
//! to that backend (RFC 792, RFC 4443; path MTU discovery of the answers depends on it, RFC 1191).

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    endpoint::flag,
    flow::{NarrowKey, WideKey},
    icmp::{HEADER_LEN, ICMPV4, ICMPV6, is_error},
    protocol,
    verdict::Verdict,
};

use crate::{
    endpoint,
    flow::{
        Flow,
        peek::{may_be_hashed, peek_narrow, peek_wide},
    },
    packet::{Outline, Packet, read},
    probe,
    schedule::{addresses, schedule_by_hash},
    table::secret,
    template::{Source, peek_template},
};

/// The flow that an ICMP message is about. One that is no error, or about no flow of ours, is passed: the director
/// answers a ping to a VIP itself.
#[inline(always)]
pub fn find(ctx: &XdpContext, packet: &Packet) -> Result<Flow, Verdict> {
    let found = quoted_find(ctx.ctx, packet.outline().0);
    match (found as u32, found >> 32) {
        (0, 0) => Err(probe::told(ctx, packet)),
        (0, _) => Err(Verdict::PassedNoFlow),
        (dest, service) => Ok(Flow { dest, service: service as u32, opened: false }),
    }
}

/// Beside destination 0: it is about a service.
const OURS: u64 = 1 << 32;

/// What is quoted, turned round: as the client would have sent it.
pub struct Quoted {
    pub client: [u64; 2],
    pub vip: [u64; 2],
    /// As loaded.
    pub client_port: u16,
    pub port: u16,
    pub protocol: u8,
}

/// `service 32 | destination 32`; 0 if it is no error about a service. Verified once, by itself (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quoted_find(ctx: *mut xdp_md, outline: u64) -> u64 {
    let (ctx, outline) = (XdpContext::new(ctx), Outline(outline));
    let Ok(quoted) = read_error(&ctx, outline) else { return 0 };
    let is_ipv6 = outline.is_ipv6();
    let mut ours = 0;
    for endpoint in endpoint::of_port(quoted.vip, is_ipv6, quoted.port, quoted.protocol) {
        if endpoint.0 == 0 {
            continue;
        }
        let service = endpoint.service() as u32;
        let (client, port, id) = (quoted.client, quoted.client_port, endpoint.id());
        let mut dest = if is_ipv6 || endpoint.has(flag::WILDCARD) {
            peek_wide(&WideKey::new(secret(), client, port, quoted.port, id))
        } else {
            peek_narrow(NarrowKey::new(client[0] as u32, port, id))
        };
        // The port-0 endpoint of an address that has ranges alone is not open: no connection was placed under it.
        if dest == 0 && endpoint.has(flag::OPEN) && may_be_hashed(service) {
            // As `open_under` places those that have no entry.
            if endpoint.has(flag::PERSISTENT) {
                dest = peek_template(&Source(client), endpoint);
            }
            if dest == 0 {
                dest = schedule_by_hash(service, addresses(client, quoted.vip), u16::from_be(port) as u32);
            }
        }
        if dest != 0 {
            return (service as u64) << 32 | dest as u64;
        }
        ours = OURS;
    }
    ours
}

/// Only an error that is addressed to who sent what it quotes.
#[inline(always)]
pub fn read_error(ctx: &XdpContext, outline: Outline) -> Result<Quoted, Verdict> {
    let [kind, _code]: [u8; 2] = read(ctx, outline.l4())?;
    let (l3, is_ipv6) = (outline.l4() + HEADER_LEN, outline.is_ipv6());
    if !is_error(is_ipv6, kind) {
        return Err(Verdict::PassedNotIp);
    }
    let (quoted, to) = if is_ipv6 {
        (quoted6(ctx, l3)?, read::<[u64; 2]>(ctx, outline.l3() + 24)?)
    } else {
        (quoted4(ctx, l3)?, [read::<u32>(ctx, outline.l3() + 16)? as u64, 0])
    };
    if quoted.vip[0] != to[0] || quoted.vip[1] != to[1] {
        return Err(Verdict::PassedNotIp);
    }
    Ok(quoted)
}

#[inline(always)]
fn quoted4(ctx: &XdpContext, l3: usize) -> Result<Quoted, Verdict> {
    let header: [u32; 5] = read(ctx, l3)?;
    let header_len = ((header[0] & 0x0f) << 2) as usize;
    // A later fragment has no ports.
    let offset = u16::from_be((header[1] >> 16) as u16) & 0x1fff;
    if header[0] & 0xf0 != 0x40 || header_len < 20 || offset != 0 {
        return Err(Verdict::PassedNotIp);
    }
    let protocol = (header[2] >> 8) as u8;
    let [port, client_port] = ports(ctx, l3 + header_len, protocol)?;
    let (vip, client) = ([header[3] as u64, 0], [header[4] as u64, 0]);
    Ok(Quoted { client, vip, client_port, port, protocol })
}

/// Without extension headers: a backend's answers to its clients have none.
#[inline(always)]
fn quoted6(ctx: &XdpContext, l3: usize) -> Result<Quoted, Verdict> {
    let header: [u32; 10] = read(ctx, l3)?;
    let protocol = (header[1] >> 16) as u8;
    if header[0] & 0xf0 != 0x60 {
        return Err(Verdict::PassedNotIp);
    }
    let word = |i: usize| header[i] as u64 | (header[i + 1] as u64) << 32;
    let [port, client_port] = ports(ctx, l3 + 40, protocol)?;
    let (vip, client) = ([word(2), word(4)], [word(6), word(8)]);
    Ok(Quoted { client, vip, client_port, port, protocol })
}

/// Source and destination; of an ICMP message what an echo bears instead.
#[inline(always)]
fn ports(ctx: &XdpContext, l4: usize, protocol: u8) -> Result<[u16; 2], Verdict> {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => read(ctx, l4),
        ICMPV4 | ICMPV6 => Ok([read(ctx, l4 + 4)?, 0]),
        _ => Err(Verdict::PassedNotIp),
    }
}
