//! What leaves: a frame to a backend, or an answer to who sent one.

use std::ops::Range;

use etherparse::{
    Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpSlice, checksum::Sum16BitWords,
};
use lb_common::{
    icmp::{Error, PORT_UNREACHABLE, PROTOCOL_UNREACHABLE, TIME_EXCEEDED, TOO_BIG},
    protocol,
    verdict::Verdict::{self, *},
};

use super::reading::{Vlans, ip_header};
use crate::world::*;

/// Forwarded: to the backend's MAC, in the VLANs of its way, and one TTL less, nothing else.
pub fn is_forwarded(frame: &[u8], out: &[u8], vlans: &Vlans) -> bool {
    let (Some((l3, tags)), Some((out_l3, out_tags))) = (ip_header(frame), ip_header(out)) else {
        return false;
    };
    // Tags that are right already stay as they are, with their priority.
    let is_tagged = if tags == *vlans { frame[12..l3] == out[12..out_l3] } else { out_tags == *vlans };
    let (sent, came) = (&out[out_l3..], &frame[l3..]);
    let differs = |range: Range<usize>| came[range.clone()] != sent[range];
    if out[6..12] != ETH0_MAC || !is_tagged || sent.len() != came.len() {
        return false;
    }
    if came[0] >> 4 == 6 {
        came[7] - 1 == sent[7] && !differs(0..7) && !differs(8..came.len())
    } else {
        // A later fragment may be shorter than its header says.
        let header = came.len().min(usize::from(came[0] & 0xf) * 4);
        let was_right = sum(&came[..header]) == 0;
        came[8] - 1 == sent[8]
            && !differs(0..8)
            && !differs(9..10)
            && !differs(12..came.len())
            && (!was_right || sum(&sent[..header]) == 0)
    }
}

/// An answer: from us to who sent the frame, in its VLANs, whole, no longer than it may be, every checksum right.
pub fn check_answer(frame: &[u8], out: &[u8], verdict: Verdict) -> Result<(), String> {
    let (l3, _) = ip_header(frame).ok_or("an answer to what is no IP")?;
    let addressed = out[..6] == frame[6..12] && out[6..12] == ETH0_MAC && out[12..l3] == frame[12..l3];
    if !addressed {
        return Err("to another MAC or VLAN".to_owned());
    }
    let (came, sent) = (&frame[l3..], &out[l3..]);
    if came[0] >> 4 == 6 { answer6(came, sent, verdict) } else { answer4(came, sent, verdict) }
}

fn answer4(came: &[u8], sent: &[u8], verdict: Verdict) -> Result<(), String> {
    let header = Ipv4HeaderSlice::from_slice(sent).map_err(|error| error.to_string())?;
    let length = usize::from(header.total_len());
    let router = verdict == AnsweredTtl;
    let source = if router { ROUTER4 } else { VIP4 };
    let is_right = header.ihl() == 5
        && sum(&sent[..20]) == 0
        && length == sent.len()
        && header.ttl() == 64
        && header.source_addr() == source
        && header.destination() == came[12..16];
    let to = header.destination_addr();
    if to.octets()[0] == 0 || to.is_loopback() || to.is_multicast() || to.octets()[0] >= 240 {
        return Err("to what is not one host".to_owned());
    }
    // RFC 1812 section 4.3.2.3.
    if !is_right || length > 576 {
        return Err("its IPv4 header".to_owned());
    }
    let pseudo = Sum16BitWords::new().add_slice(&sent[12..20]);
    match header.protocol().0 {
        protocol::TCP => {
            let whole = usize::from(u16::from_be_bytes([came[2], came[3]]));
            reset(&came[usize::from(came[0] & 0xf) * 4..whole], &sent[20..], pseudo, verdict)
        }
        1 => {
            let icmp = Icmpv4Slice::from_slice(&sent[20..]).map_err(|error| error.to_string())?;
            let kind = [icmp.type_u8(), icmp.code_u8()];
            (sum(&sent[20..]) == 0).then_some(()).ok_or("its ICMP checksum")?;
            let header = usize::from(came[0] & 0xf) * 4;
            error(kind, verdict, came, icmp.payload(), header + 8..=header + 20)
        }
        other => Err(format!("protocol {other}")),
    }
}

fn answer6(came: &[u8], sent: &[u8], verdict: Verdict) -> Result<(), String> {
    let header = Ipv6HeaderSlice::from_slice(sent).map_err(|error| error.to_string())?;
    let length = usize::from(header.payload_length());
    let source = if verdict == AnsweredTtl { ROUTER6 } else { VIP6 };
    let is_right = length + 40 == sent.len()
        && header.hop_limit() == 64
        && header.source_addr() == source
        && header.destination() == came[8..24];
    let to = header.destination_addr();
    if to.is_unspecified() || to.is_loopback() || to.is_multicast() {
        return Err("to what is not one host".to_owned());
    }
    // RFC 4443 section 3.1: no more than the least MTU.
    if !is_right || sent.len() > 1280 {
        return Err("its IPv6 header".to_owned());
    }
    let pseudo = Sum16BitWords::new().add_slice(&sent[8..40]);
    match header.next_header().0 {
        protocol::TCP => {
            let whole = 40 + usize::from(u16::from_be_bytes([came[4], came[5]]));
            reset(&came[behind6(came)..whole], &sent[40..], pseudo, verdict)
        }
        58 => {
            let icmp = Icmpv6Slice::from_slice(&sent[40..]).map_err(|error| error.to_string())?;
            let kind = [icmp.type_u8(), icmp.code_u8()];
            is_summed(pseudo, 58, &sent[40..]).then_some(()).ok_or("its ICMPv6 checksum")?;
            error(kind, verdict, came, icmp.payload(), 48..=56)
        }
        other => Err(format!("protocol {other}")),
    }
}

/// Where the transport header begins: the reading has said that all headers are there.
fn behind6(came: &[u8]) -> usize {
    let (mut next, mut at) = (came[6], 40);
    while [0, 43, 44, 60].contains(&next) {
        let length = if next == 44 { 8 } else { 8 * (usize::from(came[at + 1]) + 1) };
        (next, at) = (came[at], at + length);
    }
    at
}

/// An error of the kind that the verdict says, about `came`.
fn error(
    kind: [u8; 2],
    verdict: Verdict,
    came: &[u8],
    quote: &[u8],
    lengths: std::ops::RangeInclusive<usize>,
) -> Result<(), String> {
    let is_ipv6 = came[0] >> 4 == 6;
    let is = |error: Error| error.of(is_ipv6).to_le_bytes() == kind;
    let is_right = match verdict {
        AnsweredTtl => is(TIME_EXCEEDED),
        AnsweredTooBig => is(TOO_BIG),
        AnsweredNoBackend => is(PORT_UNREACHABLE),
        AnsweredNoFlow => is(PROTOCOL_UNREACHABLE),
        _ => false,
    };
    if !is_right {
        return Err(format!("ICMP type and code {kind:?}"));
    }
    if !lengths.contains(&quote.len()) || came.get(..quote.len()) != Some(quote) {
        return Err(format!("it quotes {} bytes, or others", quote.len()));
    }
    Ok(())
}

/// A reset that answers a segment (RFC 9293 section 3.10.7.1).
fn reset(came: &[u8], sent: &[u8], pseudo: Sum16BitWords, verdict: Verdict) -> Result<(), String> {
    if ![AnsweredNoFlow, AnsweredNoBackend].contains(&verdict) {
        return Err("a reset".to_owned());
    }
    let tcp = TcpSlice::from_slice(sent).map_err(|error| error.to_string())?;
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|flag| came[13] & flag != 0);
    let number = |at: usize| u32::from_be_bytes([came[at], came[at + 1], came[at + 2], came[at + 3]]);
    let is_reset = tcp.rst() && !tcp.syn() && !tcp.fin() && sent.len() == 20;
    let is_turned = sent[..2] == came[2..4] && sent[2..4] == came[..2];
    let (from, to) = (tcp.sequence_number(), tcp.acknowledgment_number());
    let header = usize::from(came[12] >> 4) * 4;
    let has_length = (20..=came.len()).contains(&header);
    let length = came.len().wrapping_sub(header) as u32 + u32::from(syn) + u32::from(fin);
    // What a segment is long whose header ends before or behind it, nobody can say.
    let acknowledges = !has_length || to == number(4).wrapping_add(length);
    let is_numbered = if ack { from == number(8) } else { from == 0 && acknowledges };
    if rst || !is_reset || !is_turned || tcp.ack() == ack || !is_numbered {
        return Err(format!("a reset that does not answer: {tcp:?}"));
    }
    is_summed(pseudo, protocol::TCP, sent).then_some(()).ok_or("its TCP checksum".to_owned())
}

/// 0 if the checksum in it is right (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(bytes).ones_complement()
}

fn is_summed(pseudo: Sum16BitWords, protocol: u8, bytes: &[u8]) -> bool {
    let length = (bytes.len() as u16).to_be_bytes();
    pseudo.add_2bytes(length).add_2bytes([0, protocol]).add_slice(bytes).ones_complement() == 0
}
