//! The ways from a VIP to a backend: what a backend does with a packet as the director would send it.

use std::{collections::BTreeSet, net::IpAddr};

use super::{mac_text, reply::Reply};
use crate::{
    doctor::{
        finding::{Finding, Id, Severity},
        held::{Mac, Next, Way},
    },
    model::Protocol,
};

/// A way that was tried.
#[derive(Clone, Debug)]
pub struct Facts {
    pub way: Way,
    /// The address that was asked from.
    pub source: IpAddr,
    /// A SYN for a TCP port; else an echo request.
    pub first: Pair,
    /// The other one of the two, which counts where the first was not answered.
    pub second: Pair,
    /// An empty datagram to a UDP service's port. A server that is there mostly says nothing.
    pub datagram: Option<Pair>,
    /// The same question to the VIP from an address of another segment, as most clients have.
    pub across: Option<Across>,
    /// Who answers ARP or ND for the backend's own address; asked where nothing came back.
    pub owners: BTreeSet<Mac>,
    /// What the agent's checks say; none without an agent, or without checks.
    pub health: Option<Health>,
}

/// Replies to one question asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// To the VIP, by the backend's MAC.
    pub vip: Reply,
    /// To the backend's own address.
    pub own: Reply,
}

#[derive(Clone, Debug)]
pub struct Across {
    pub source: IpAddr,
    /// The director's interface that has it.
    pub device: String,
    pub vip: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub passes: bool,
    /// The checks, and what the failing ones found.
    pub words: String,
    /// One of them goes through the VIP: it finds what is wrong there by itself, if it has not yet.
    pub through_vip: bool,
}

/// What the replies say of the way.
enum Verdict {
    Good,
    Bad(Finding),
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match verdict(facts) {
        Verdict::Good => findings.extend(reverse_path(facts).or_else(|| check_wrong(facts))),
        Verdict::Bad(finding) => {
            let blind = check_blind(facts, &finding);
            findings.push(known(facts, finding));
            findings.extend(blind);
        }
    }
    findings
}

/// A backend that its health keeps away from new connections already is less urgent.
fn known(facts: &Facts, mut finding: Finding) -> Finding {
    if facts.way.out {
        finding.severity = Severity::Warning;
        finding.effect = format!("{}; its checks keep new connections away from it", finding.effect);
    }
    finding
}

fn verdict(facts: &Facts) -> Verdict {
    let Facts { way, first, second, .. } = facts;
    let vip = way.vip.ip();
    let to_vip = if first.vip.is_answer() { first.vip } else { second.vip };
    if let Reply::Expired { .. } = to_vip {
        return Verdict::Bad(missing(facts, &format!("{}: it would route the packet on", to_vip.words())));
    }
    if let Some(source) = to_vip.source().filter(|source| *source != vip) {
        return Verdict::Bad(wrong_source(facts, source));
    }
    match first.vip {
        Reply::Refused { .. } if way.has_listener() => Verdict::Bad(refused(facts)),
        Reply::Unreachable { .. } | Reply::NoPort { .. } => Verdict::Bad(rejected(facts)),
        reply if reply.is_from(vip) => datagrams(facts),
        _ if second.vip.is_from(vip) && way.has_listener() => Verdict::Bad(filtered(facts, second.vip)),
        _ if second.vip.is_from(vip) => datagrams(facts),
        _ => match [first.own, second.own].into_iter().find(|reply| reply.is_answer()) {
            Some(own) => Verdict::Bad(missing(
                facts,
                &format!("no answer, while its own address gives: {}", own.words()),
            )),
            None => Verdict::Bad(silent(facts)),
        },
    }
}

/// The host takes packets for the VIP: whether a UDP service's port is served there, as far as that is told.
fn datagrams(facts: &Facts) -> Verdict {
    let Some(Pair { vip, own }) = facts.datagram else { return Verdict::Good };
    match vip {
        Reply::NoPort { .. } => Verdict::Bad(no_port(facts, own)),
        Reply::Unreachable { .. } => Verdict::Bad(rejected_with(facts, vip)),
        _ => match vip.source().filter(|source| *source != facts.way.vip.ip()) {
            Some(source) => Verdict::Bad(wrong_source(facts, source)),
            None => Verdict::Good,
        },
    }
}

/// Of one VIP at one backend, whatever the service: a finding of each would say the same.
fn address_at(way: &Way) -> String {
    format!("VIP {} at backend {}", way.vip.ip(), way.backend.ip())
}

fn port_at(way: &Way) -> String {
    format!("service {}: {} at backend {}", way.service, way.vip, way.backend.ip())
}

const TIME_OUT: &str = "clients that are sent there get no answer and time out";

fn missing(facts: &Facts, answer: &str) -> Finding {
    let Way { vip, backend, .. } = &facts.way;
    Finding::new(
        Id::VipMissing,
        address_at(&facts.way),
        format!("asked for the VIP by its MAC, from {}: {answer}", facts.source),
        format!("the backend does not take packets for the VIP: {TIME_OUT}"),
        format!(
            "on {}: lb realserver start {} (if `lb realserver status` there shows the VIP on lo: its rp_filter or \
             firewall drops packets for it)",
            backend.ip(),
            vip.ip()
        ),
    )
}

fn wrong_source(facts: &Facts, source: IpAddr) -> Finding {
    let backend = facts.way.backend.ip();
    Finding::new(
        Id::WrongSource,
        address_at(&facts.way),
        format!("asked for the VIP, it answers from {source}"),
        "clients drop answers that do not come from the VIP: their connections time out",
        if facts.way.protocol == Protocol::Udp && source == backend {
            format!(
                "on {backend}: let the server listen on {} itself: on 0.0.0.0 or :: it answers from any address",
                facts.way.vip.ip()
            )
        } else {
            format!(
                "on {backend}: take away the source NAT (nft list ruleset) or policy that changes {} to {source}",
                facts.way.vip.ip()
            )
        },
    )
}

fn refused(facts: &Facts) -> Finding {
    let Way { vip, backend, service, .. } = &facts.way;
    let (port, effect) = (vip.port(), "clients that are sent there are refused");
    if let Reply::Open { .. } = facts.first.own {
        return not_on_vip(&facts.way, "refused", "RST");
    }
    Finding::new(
        Id::PortClosed,
        port_at(&facts.way),
        format!(
            "port {port}: {} at the VIP, {} at its own address",
            facts.first.vip.words(),
            facts.first.own.words()
        ),
        effect,
        format!("start the server on {}; until then: lb backend drain {service} {backend}", backend.ip()),
    )
}

fn not_on_vip(way: &Way, at_vip: &str, word: &str) -> Finding {
    let (vip, backend) = (way.vip, way.backend.ip());
    let listen = match way.protocol {
        // From 0.0.0.0 it would answer from another address than the VIP.
        Protocol::Udp => format!("on {} too", vip.ip()),
        _ => format!("on 0.0.0.0 (or ::), or on {} too", vip.ip()),
    };
    Finding::new(
        Id::NotOnVip,
        port_at(way),
        format!("port {} is open at {backend} and {at_vip} at the VIP ({word})", vip.port()),
        "clients that are sent there are refused",
        format!("on {backend}: let the server listen {listen}"),
    )
}

/// Of UDP. That the own address says nothing may mean that the server listens there alone.
fn no_port(facts: &Facts, own: Reply) -> Finding {
    let Way { vip, backend, service, .. } = &facts.way;
    let there = match own {
        Reply::Told { .. } => return not_on_vip(&facts.way, "closed", "ICMP port unreachable"),
        Reply::Silent => format!(" (if it runs: let it listen on {} too)", vip.ip()),
        _ => String::new(),
    };
    let (port, by) = (vip.port(), facts.datagram.map_or(own, |asked| asked.vip));
    Finding::new(
        Id::PortClosed,
        port_at(&facts.way),
        format!("UDP port {port}: {} at the VIP, {} at its own address", by.words(), own.words()),
        "clients that are sent there are refused",
        format!(
            "start the server on {}{there}; until then: lb backend drain {service} {backend}",
            backend.ip()
        ),
    )
}

fn rejected(facts: &Facts) -> Finding {
    rejected_with(facts, facts.first.vip)
}

fn rejected_with(facts: &Facts, reply: Reply) -> Finding {
    Finding::new(
        Id::Rejected,
        port_at(&facts.way),
        reply.words(),
        "clients that are sent there are refused",
        format!(
            "on {}: a firewall rejects {} (nft list ruleset, iptables-save)",
            facts.way.backend.ip(),
            facts.way.vip
        ),
    )
}

fn filtered(facts: &Facts, answered: Reply) -> Finding {
    Finding::new(
        Id::Filtered,
        port_at(&facts.way),
        format!("no answer to a SYN, while the VIP is there: {}", answered.words()),
        TIME_OUT,
        format!(
            "on {}: a firewall drops {} (nft list ruleset, iptables-save), or the server's queue is full (ss -ltn)",
            facts.way.backend.ip(),
            facts.way.vip
        ),
    )
}

fn silent(facts: &Facts) -> Finding {
    let Facts { way, owners, .. } = facts;
    let backend = way.backend.ip();
    let subject = format!("backend {backend}");
    let known = match way.next {
        Next::Host { mac, .. } => Some(mac),
        _ => None,
    };
    let others: Vec<String> = owners.iter().filter(|mac| Some(**mac) != known).map(mac_text).collect();
    let used = known.as_ref().map(mac_text).unwrap_or_default();
    if !others.is_empty() {
        return Finding::new(
            Id::MacChanged,
            subject,
            format!("its packets go to {used}, where nobody answers; {} answers for it", others.join(", ")),
            format!("packets for it go astray: {TIME_OUT}"),
            "systemctl restart lb, if no agent follows; else look for two hosts with this address",
        );
    }
    let arp = if owners.is_empty() { "nor to ARP or ND" } else { "but ARP or ND is answered" };
    Finding::new(
        Id::BackendSilent,
        subject,
        format!("{used} answers nothing for the VIP and nothing for its own address, {arp}"),
        TIME_OUT,
        format!(
            "look at the host {backend}, its link and its firewall; until then: lb backend drain {} {}",
            way.service, way.backend
        ),
    )
}

/// As far as a prober can tell: the host takes packets for the VIP, but not from there.
fn reverse_path(facts: &Facts) -> Option<Finding> {
    let across = facts.across.as_ref().filter(|across| across.vip == Reply::Silent)?;
    let backend = facts.way.backend.ip();
    Some(Finding::new(
        Id::ReversePath,
        address_at(&facts.way),
        format!(
            "it answers {} but not {} (the director's {}): a strict rp_filter there drops what comes in by another \
             interface than the way back leaves by, or it has no route back",
            facts.source, across.source, across.device
        ),
        "clients of that segment and beyond it get no answer and time out",
        format!(
            "on {backend}: sysctl -w net.ipv4.conf.all.rp_filter=2 (and of the interface); ip route get {} there shows \
             the way back",
            across.source
        ),
    ))
}

fn check_blind(facts: &Facts, cause: &Finding) -> Option<Finding> {
    let health =
        facts.health.as_ref().filter(|health| health.passes && !health.through_vip && !facts.way.out)?;
    let Way { service, backend, .. } = &facts.way;
    Some(Finding::new(
        Id::CheckBlind,
        port_at(&facts.way),
        format!("its checks pass ({}), but see {} of it", health.words, cause.id),
        "the backend goes on getting its share of the connections, which fail",
        format!(
            "mend the cause (until then: lb backend drain {service} {backend}), and let the check go through the VIP: `via: both`"
        ),
    ))
}

fn check_wrong(facts: &Facts) -> Option<Finding> {
    let health = facts.health.as_ref().filter(|health| !health.passes)?;
    let seen = if facts.way.has_listener() { "accepts connections" } else { "answers pings" };
    Some(Finding::new(
        Id::CheckWrong,
        port_at(&facts.way),
        format!("through the VIP it {seen}, but its checks fail: {}", health.words),
        "the backend gets no new connections: the server behind the port is at fault, or the check is",
        format!("try by hand what the check does: lb service show {}", facts.way.service),
    ))
}

#[cfg(test)]
mod tests;
