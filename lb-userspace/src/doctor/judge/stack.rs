//! What the director's own stack does with packets that the program passes up: ARP, pings, answers to checks, and the
//! connections of a backend that is the director itself. What is forwarded meets neither netfilter nor rp_filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::netfilter::{Chain, Family, Outcome, Packet, outcome};
use crate::{
    doctor::finding::{Finding, Id},
    model::Protocol,
};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub vips: BTreeSet<IpAddr>,
    /// Backends on other hosts.
    pub peers: Vec<Peer>,
    /// Endpoints of services that have the director itself as a backend.
    pub served: Vec<(SocketAddr, Protocol)>,
    /// Interfaces with an IPv4 address, lo apart, and `rp_filter` in effect on them.
    pub rp_filter: Vec<(String, i64)>,
    pub chains: Vec<Chain>,
    /// Connections that are tracked in this network namespace, and the most that there can be.
    pub tracked: Option<(i64, i64)>,
}

/// Whom the director may ask how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub at: SocketAddr,
    pub protocol: Protocol,
    /// It does, by its own address. Else only a rule that names this very host is of interest.
    pub checked: bool,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    reverse_path(facts).into_iter().chain(facts.tracked.and_then(conntrack)).chain(firewall(facts)).collect()
}

fn reverse_path(facts: &Facts) -> Option<Finding> {
    let strict: Vec<&str> =
        facts.rp_filter.iter().filter(|(_, value)| *value == 1).map(|(name, _)| name.as_str()).collect();
    // Only what is passed up to the director's own server meets it.
    let matters = !facts.served.is_empty() && facts.rp_filter.len() > 1 && !strict.is_empty();
    matters.then(|| {
        Finding::new(
            Id::RpFilter,
            strict.join(", "),
            "rp_filter is 1 (strict), and the director is a backend of its own",
            "clients whose way back leads out of another interface are not served by it",
            "sysctl -w net.ipv4.conf.all.rp_filter=2 (and of the interface)",
        )
    })
}

/// A packet that the director's stack must get, or get out.
struct Needed {
    incoming: bool,
    about: String,
    effect: &'static str,
    packet: Packet,
    /// Whatever drops it. Else only what names its host.
    for_certain: bool,
}

/// One finding a rule, or a policy, however many packets it drops.
fn firewall(facts: &Facts) -> Vec<Finding> {
    let mut dropped: BTreeMap<(String, String), (Finding, usize)> = BTreeMap::new();
    for needed in needed(facts) {
        let hooks = if needed.incoming { INCOMING } else { OUTGOING };
        for base in facts.chains.iter().filter(|chain| hooks.contains(&chain.hook.as_str())) {
            let Outcome::Dropped(rule) = outcome(&facts.chains, base, &needed.packet) else { continue };
            let names_host = rule.is_some_and(|rule| rule.tests.iter().any(|test| test.names_hosts()));
            // One of netdev is some device's, perhaps of another one.
            let for_certain = needed.for_certain && !base.table.starts_with("netdev ");
            if !sees(&base.table, needed.packet.family) || !(for_certain || names_host) {
                continue;
            }
            let chain = format!("{} {}", base.table, base.name);
            let text = rule.map_or("policy drop".to_owned(), |rule| rule.text.clone());
            let finding = || drops(&needed, base, &chain, &text, rule.is_none());
            dropped.entry((chain.clone(), text.clone())).or_insert_with(|| (finding(), 0)).1 += 1;
        }
    }
    let said = dropped.into_values().map(|(finding, count)| match count {
        1 => finding,
        count => Finding {
            found: format!("{}; {} more of these are dropped by it", finding.found, count - 1),
            ..finding
        },
    });
    said.collect()
}

/// Whether packets of this kind come to chains of this table; those of bridges do not forward for us.
fn sees(table: &str, family: Family) -> bool {
    match table.split(' ').next() {
        Some("arp") => family == Family::Arp,
        Some("ip" | "iptables") => family == Family::Ipv4,
        Some("ip6" | "ip6tables") => family == Family::Ipv6,
        Some("inet") => family != Family::Arp,
        Some("netdev") => true,
        _ => false,
    }
}

const INCOMING: [&str; 3] = ["input", "prerouting", "ingress"];
const OUTGOING: [&str; 3] = ["output", "postrouting", "egress"];

fn drops(needed: &Needed, base: &Chain, chain: &str, text: &str, by_policy: bool) -> Finding {
    let found = if by_policy { "policy drop, and no rule before it accepts this" } else { text };
    let lister = base.lister;
    let fix = match (by_policy, needed.packet.state) {
        (true, Some("established")) if lister.starts_with("nft") => format!(
            "nft insert rule {chain} ct state established,related accept; `{lister}` shows the chain; what XDP forwards \
             meets no rule in any case"
        ),
        (true, _) => format!(
            "a rule that accepts it: `{lister}` shows the chain; what XDP forwards meets no rule in any case"
        ),
        (false, _) => {
            format!("take the rule out: `{lister}` shows it; what XDP forwards meets no rule in any case")
        }
    };
    Finding::new(Id::FirewallDrops, format!("{}: {chain}", needed.about), found, needed.effect, fix)
}

fn needed(facts: &Facts) -> Vec<Needed> {
    let vips = facts.vips.iter().flat_map(|vip| neighbours(*vip));
    let peers = facts.peers.iter().flat_map(checks);
    let served = facts.served.iter().map(|(vip, protocol)| Needed {
        incoming: true,
        about: vip.ip().to_string(),
        effect: "connections that the director serves itself do not reach its server",
        packet: Packet {
            destination: Some(vip.ip()),
            destination_port: Some(vip.port()).filter(|port| *port != 0),
            state: Some("new"),
            ..packet(vip.ip(), *protocol)
        },
        for_certain: true,
    });
    vips.chain(peers).chain(served).collect()
}

fn packet(of: IpAddr, protocol: Protocol) -> Packet {
    Packet {
        family: if of.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
        source: None,
        destination: None,
        protocol: match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        },
        source_port: None,
        destination_port: None,
        state: None,
        kind: "",
    }
}

/// Who has the VIP? And the answer.
fn neighbours(vip: IpAddr) -> Vec<Needed> {
    let needed = |incoming, effect, packet| Needed {
        incoming,
        about: vip.to_string(),
        effect,
        packet,
        for_certain: true,
    };
    if vip.is_ipv4() {
        let effect = "ARP for the VIP is not answered: no client finds the director";
        let arp = |kind| Packet { family: Family::Arp, protocol: "", kind, ..packet(vip, Protocol::Tcp) };
        return vec![
            needed(true, effect, Packet { destination: Some(vip), ..arp("request") }),
            needed(false, effect, Packet { source: Some(vip), ..arp("reply") }),
        ];
    }
    let effect = "neighbour solicitations for the VIP are not answered: no client finds the director";
    // To a multicast address of its own, of a connection that is none (`icmpv6_error_log` in nf_conntrack_proto_icmpv6.c).
    let nd =
        |kind| Packet { protocol: "icmpv6", state: Some("untracked"), kind, ..packet(vip, Protocol::Tcp) };
    vec![needed(true, effect, nd("nd-neighbor-solicit")), needed(false, effect, nd("nd-neighbor-advert"))]
}

/// The request of a health check, and its answer.
fn checks(peer: &Peer) -> Vec<Needed> {
    let Peer { at, protocol, checked } = *peer;
    let (address, port) = (Some(at.ip()), Some(at.port()));
    let effect = if checked {
        "health checks of this backend fail although clients are served"
    } else {
        "health checks of this backend by its own address would fail although clients are served"
    };
    let needed = |incoming, packet| Needed {
        incoming,
        about: at.ip().to_string(),
        effect,
        packet,
        for_certain: checked,
    };
    let request = Packet {
        destination: address,
        destination_port: port,
        state: Some("new"),
        ..packet(at.ip(), protocol)
    };
    let answer = Packet {
        source: address,
        source_port: port,
        state: Some("established"),
        ..packet(at.ip(), protocol)
    };
    let mut all = vec![needed(true, answer), needed(false, request)];
    if at.is_ipv4() {
        let arp = |kind| Packet { family: Family::Arp, protocol: "", kind, ..packet(at.ip(), protocol) };
        let effect = "the backend's MAC address is not found by ARP, which packets are sent to";
        let arp = [
            needed(true, Packet { source: address, ..arp("reply") }),
            needed(false, Packet { destination: address, ..arp("request") }),
        ];
        all.extend(arp.into_iter().map(|needed| Needed { effect, for_certain: true, ..needed }));
    }
    all
}

/// The kernel drops what it cannot track (`nf_conntrack: table full`), in whatever namespace.
fn conntrack((tracked, most): (i64, i64)) -> Option<Finding> {
    /// Percent: so many more come in an instant.
    const NEARLY: i64 = 95;
    (most > 0 && tracked.saturating_mul(100) >= most.saturating_mul(NEARLY)).then(|| {
        Finding::new(
            Id::ConntrackFull,
            "nf_conntrack",
            format!("{tracked} connections are tracked, and there can be {most}"),
            "health checks, and what the director serves or asks itself, fail at random; what XDP forwards is not tracked",
            "sysctl -w net.netfilter.nf_conntrack_max=..., or no rule that tracks (nft list ruleset)",
        )
    })
}

#[cfg(test)]
mod tests;
