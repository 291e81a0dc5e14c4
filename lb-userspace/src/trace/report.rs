//! What is said of a packet, in the words of `lb explain`. PURE.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use lb_common::{record::Step, trace::Headers};
use serde::{Deserialize, Serialize};

use crate::{
    explain::{flag_names, tell},
    plan::{Snapshot, name_of},
};

/// A line of the answer to GET `/v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    Packet(Box<Packet>),
    /// Since the trace began; each second, and first of all when it has begun.
    Counts(Counts),
}

/// Packets that the filter wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub reported: u64,
    /// Above the rate.
    pub over_rate: u64,
    /// The program's ring was full: the agent did not keep up.
    pub ring_full: u64,
    /// The client did not keep up.
    pub client_slow: u64,
}

impl Counts {
    pub fn lost(&self) -> u64 {
        self.over_rate + self.ring_full + self.client_slow
    }
}

/// A packet, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    pub time: Timestamp,
    pub interface: String,
    /// tcp, udp, sctp, icmp, icmp6, or the number; none of what is no IP packet to the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// With ports, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// TCP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// What it has instead of all that: MAC addresses and type of the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<String>,
    /// It is one of a datagram.
    pub fragment: bool,
    /// Of the frame, bytes.
    pub length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    pub verdict: String,
    /// The step that decided it, else what the verdict means.
    pub cause: String,
    /// All steps, as `lb explain` says them.
    pub steps: Vec<String>,
    /// The frame as it came, in hexadecimal digits, as far as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
}

/// As the program reported it.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    pub time: Timestamp,
    pub headers: Headers,
    pub ingress: u16,
    pub length: u32,
    pub steps: Vec<(Step, [u64; 2])>,
    pub frame: &'a [u8],
}

impl Packet {
    /// In words, by what the maps hold. Without the frame.
    pub(super) fn new(raw: &Raw<'_>, held: &Snapshot, hz: u32) -> Self {
        let Raw { time, headers, ingress, length, steps, frame } = raw;
        let story = tell(steps, held, hz);
        let cause = cause(steps).and_then(|step| tell(&[*step], held, hz).steps.pop());
        let link = held.links.get(ingress);
        let is_ip = headers.family != 0;
        Self {
            time: *time,
            interface: link.map_or_else(|| format!("link {ingress}"), |link| name_of(&link.name)),
            protocol: is_ip.then(|| protocol(headers.protocol)),
            source: is_ip.then(|| end(headers, headers.source, headers.source_port)),
            destination: is_ip.then(|| end(headers, headers.dest, headers.dest_port)),
            flags: (headers.protocol == lb_common::protocol::TCP && headers.source_port != 0)
                .then(|| flag_names(headers.flags)),
            ethernet: if is_ip { None } else { ethernet(frame) },
            fragment: headers.fragment != 0,
            length: *length,
            service: story.service,
            backend: story.backend,
            verdict: story.verdict.to_owned(),
            cause: cause.map_or_else(|| story.meaning.to_owned(), |line| line.text),
            steps: story.steps.into_iter().map(|line| format!("{}: {}", line.step, line.text)).collect(),
            frame: None,
        }
    }

    /// Its own frame, where it was asked for.
    pub fn frame_bytes(&self) -> Option<Vec<u8>> {
        let digits = self.frame.as_deref()?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect()
    }
}

/// In hexadecimal digits.
pub(super) fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The last step that decides where a packet goes, or that it goes nowhere.
fn cause(steps: &[(Step, [u64; 2])]) -> Option<&(Step, [u64; 2])> {
    steps.iter().rev().find(|(step, _)| {
        matches!(
            step,
            Step::Flow | Step::Source | Step::Guard | Step::Template | Step::Scheduled | Step::WithoutEntry
        )
    })
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        58 => "icmp6".to_owned(),
        lb_common::protocol::TCP => "tcp".to_owned(),
        lb_common::protocol::UDP => "udp".to_owned(),
        lb_common::protocol::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

fn end(headers: &Headers, [first, second]: [u64; 2], port: u16) -> String {
    let address: IpAddr = if headers.family == 4 {
        (first as u32).to_ne_bytes().into()
    } else {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&first.to_ne_bytes());
        octets[8..].copy_from_slice(&second.to_ne_bytes());
        Ipv6Addr::from(octets).into()
    };
    match port {
        0 => address.to_string(),
        port => SocketAddr::new(address, u16::from_be(port)).to_string(),
    }
}

/// `02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, type 0x0806`
fn ethernet(frame: &[u8]) -> Option<String> {
    let header: &[u8; 14] = frame.first_chunk()?;
    let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let [to, from, kind] = [&header[..6], &header[6..12], &header[12..]];
    Some(format!("{} > {}, type 0x{}", mac(from), mac(to), hex(kind)))
}

#[cfg(test)]
mod tests {
    use lb_common::verdict::Verdict;

    use super::*;

    fn raw(headers: Headers, steps: Vec<(Step, [u64; 2])>, frame: &[u8]) -> Packet {
        let raw = Raw { time: Timestamp::UNIX_EPOCH, headers, ingress: 1, length: 60, steps, frame };
        Packet::new(&raw, &Snapshot::default(), 250)
    }

    #[test]
    fn the_step_that_decides_is_the_cause() {
        let headers = Headers {
            source: [u32::from_ne_bytes([10, 1, 2, 3]).into(), 0],
            dest: [u32::from_ne_bytes([172, 18, 14, 100]).into(), 0],
            source_port: 40000u16.to_be(),
            dest_port: 80u16.to_be(),
            protocol: 6,
            family: 4,
            flags: lb_common::tcp::flag::SYN,
            ..Headers::default()
        };
        let verdict = |verdict: Verdict| (Step::Verdict, [verdict as u64, 0]);
        let packet = raw(headers, vec![(Step::Scheduled, [0, 0]), verdict(Verdict::DroppedNoBackend)], &[]);
        assert_eq!(packet.cause, "no backend takes new connections");
        assert_eq!(packet.verdict, "dropped-no-backend");
        assert_eq!(packet.source.as_deref(), Some("10.1.2.3:40000"));
        assert_eq!(packet.destination.as_deref(), Some("172.18.14.100:80"));
        assert_eq!((packet.protocol.as_deref(), packet.flags.as_deref()), (Some("tcp"), Some("SYN")));
        assert_eq!(packet.steps.len(), 2);
        let packet = raw(headers, vec![verdict(Verdict::PassedNoService)], &[]);
        assert_eq!(packet.cause, Verdict::PassedNoService.meaning());
    }

    #[test]
    fn what_is_no_ip_shows_its_ethernet_header() {
        let frame = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1], &[8, 6]].concat();
        let mut packet = raw(Headers::default(), vec![(Step::Verdict, [0, 0])], &frame);
        let said = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, type 0x0806";
        assert_eq!((packet.ethernet.as_deref(), packet.protocol.as_deref()), (Some(said), None));
        packet.frame = Some(hex(&frame));
        assert_eq!(packet.frame_bytes().as_deref(), Some(frame.as_slice()));
        let report = Report::Packet(Box::new(packet));
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("a report"), report);
    }
}
