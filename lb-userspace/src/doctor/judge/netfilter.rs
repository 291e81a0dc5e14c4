//! What becomes of one packet in the rules of nftables or iptables, as far as that can be told for certain.
//!
//! A match that is not understood, or that asks for what is not known of the packet, may be met or not. What then depends
//! on it is [`Outcome::Unknown`], of which nothing is concluded.

use std::net::IpAddr;

use super::keepalived::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family and table: `inet filter`.
    pub table: String,
    pub name: String,
    /// `input`; empty if it is only jumped to.
    pub hook: String,
    /// Connections are not tracked yet where it is called.
    pub before_tracking: bool,
    pub drops_by_policy: bool,
    pub rules: Vec<Rule>,
    /// What lists it with all others.
    pub lister: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub tests: Vec<Test>,
    pub verdict: Verdict,
    /// As its own program has it, shortened.
    pub text: String,
}

/// All of a rule's must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// It is met by what is not there.
    pub negated: bool,
    pub wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Source(Vec<Range>),
    Destination(Vec<Range>),
    SourcePort(Vec<(u16, u16)>),
    DestinationPort(Vec<(u16, u16)>),
    /// `tcp`, `icmpv6`
    Protocol(Vec<String>),
    Family(Family),
    /// Of a tracked connection: `established`.
    State(Vec<String>),
    /// Of ICMPv6: `nd-neighbor-solicit`; of ARP: `request`.
    Kind(Vec<String>),
    /// That it came in by, or leaves by.
    Interface(Vec<String>),
    NotUnderstood,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Or reject.
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// It counts, logs or marks, and the next rule is asked.
    None,
    NotUnderstood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
    Arp,
}

/// Of a NIC, not of `lo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub family: Family,
    /// None where it may be anybody's.
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub protocol: &'static str,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub state: Option<&'static str>,
    pub kind: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// By a rule, or by the policy.
    Dropped(Option<&'a Rule>),
    Accepted,
    Unknown,
}

/// Jumps in jumps; the kernel has NFT_JUMP_STACK_SIZE of them.
const DEPTH: usize = 16;

/// What a base chain says of it.
pub fn outcome<'a>(chains: &'a [Chain], base: &'a Chain, packet: &Packet) -> Outcome<'a> {
    let state = packet.state.filter(|_| !base.before_tracking);
    match walk(chains, base, &Packet { state, ..packet.clone() }, DEPTH) {
        Some(outcome) => outcome,
        None if base.drops_by_policy => Outcome::Dropped(None),
        None => Outcome::Accepted,
    }
}

/// None: it comes to the chain's end.
fn walk<'a>(chains: &'a [Chain], chain: &'a Chain, packet: &Packet, depth: usize) -> Option<Outcome<'a>> {
    for rule in &chain.rules {
        let is_met = meets(rule, packet);
        match (&rule.verdict, is_met) {
            // Whatever drops it later drops it as well.
            (_, Some(false)) | (Verdict::None, _) | (Verdict::Drop, None) => {}
            (Verdict::Accept, Some(true)) => return Some(Outcome::Accepted),
            (Verdict::Drop, Some(true)) => return Some(Outcome::Dropped(Some(rule))),
            (Verdict::Return, Some(true)) => return None,
            (Verdict::Jump(name) | Verdict::Goto(name), Some(true)) => {
                let mut named = chains.iter().filter(|it| it.table == chain.table && it.name == *name);
                let (Some(target), Some(depth)) = (named.next(), depth.checked_sub(1)) else {
                    return Some(Outcome::Unknown);
                };
                let outcome = walk(chains, target, packet, depth);
                if outcome.is_some() || matches!(rule.verdict, Verdict::Goto(_)) {
                    return outcome;
                }
            }
            _ => return Some(Outcome::Unknown),
        }
    }
    None
}

/// None: that cannot be told.
fn meets(rule: &Rule, packet: &Packet) -> Option<bool> {
    let each: Vec<Option<bool>> = rule.tests.iter().map(|test| test.is_met(packet)).collect();
    if each.contains(&Some(false)) {
        return Some(false);
    }
    (!each.contains(&None)).then_some(true)
}

impl Test {
    fn is_met(&self, packet: &Packet) -> Option<bool> {
        let among = |words: &[String], word: &str| Some(words.iter().any(|it| it == word));
        let within = |ranges: &[Range], address: Option<IpAddr>| {
            address.map(|address| ranges.iter().any(|range| range.holds(address)))
        };
        let one_of = |ranges: &[(u16, u16)], port: Option<u16>| {
            port.map(|port| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)))
        };
        let is_there = match &self.wanted {
            Wanted::Source(ranges) => within(ranges, packet.source),
            Wanted::Destination(ranges) => within(ranges, packet.destination),
            Wanted::SourcePort(ports) => one_of(ports, packet.source_port),
            Wanted::DestinationPort(ports) => one_of(ports, packet.destination_port),
            Wanted::Protocol(words) => among(words, packet.protocol),
            Wanted::Family(family) => Some(*family == packet.family),
            Wanted::State(words) => packet.state.and_then(|state| among(words, state)),
            Wanted::Kind(words) => among(words, packet.kind),
            Wanted::Interface(names) if names.iter().all(|name| name == "lo") => Some(false),
            Wanted::Interface(_) | Wanted::NotUnderstood => None,
        };
        is_there.map(|is_there| is_there != self.negated)
    }

    /// It is about single hosts, by their addresses.
    pub fn names_hosts(&self) -> bool {
        match &self.wanted {
            Wanted::Source(ranges) | Wanted::Destination(ranges) => {
                !self.negated && ranges.iter().all(|Range(first, last)| first == last)
            }
            _ => false,
        }
    }
}
