//! What the director's own stack does with packets that the program passes up: ARP, pings, answers to checks, and the
//! connections of a backend that is the director itself. What is forwarded meets neither netfilter nor rp_filter.

use std::{collections::BTreeSet, net::IpAddr};

use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub vips: BTreeSet<IpAddr>,
    pub backends: BTreeSet<IpAddr>,
    /// Some backend is the director itself.
    pub local: bool,
    /// Interfaces with an IPv4 address, lo apart, and `rp_filter` in effect on them.
    pub rp_filter: Vec<(String, i64)>,
    pub rules: Vec<Rule>,
    /// Connections that are tracked in this network namespace, and the most that there can be.
    pub tracked: Option<(i64, i64)>,
}

/// A rule of nftables or iptables-legacy, or a chain's policy, that drops or rejects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `inet filter input`
    pub chain: String,
    pub hook: String,
    /// The table's family is `arp`.
    pub arp: bool,
    /// A chain's policy, or a rule without any match.
    pub all: bool,
    /// The addresses that it names.
    pub addresses: BTreeSet<IpAddr>,
    /// As its own program has it, shortened.
    pub text: String,
    /// What lists it with all others.
    pub lister: &'static str,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    reverse_path(facts)
        .into_iter()
        .chain(facts.tracked.and_then(conntrack))
        .chain(facts.rules.iter().filter_map(|rule| firewall(facts, rule)))
        .collect()
}

fn reverse_path(facts: &Facts) -> Option<Finding> {
    let strict: Vec<&str> =
        facts.rp_filter.iter().filter(|(_, value)| *value == 1).map(|(name, _)| name.as_str()).collect();
    // Only what is passed up to the director's own server meets it.
    let matters = facts.local && facts.rp_filter.len() > 1 && !strict.is_empty();
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

fn firewall(facts: &Facts, rule: &Rule) -> Option<Finding> {
    let names = |of: &BTreeSet<IpAddr>| rule.addresses.iter().find(|address| of.contains(address)).copied();
    let incoming = matches!(rule.hook.as_str(), "input" | "prerouting" | "ingress");
    let outgoing = matches!(rule.hook.as_str(), "output" | "postrouting" | "egress");
    let (about, effect) = match (names(&facts.vips), names(&facts.backends)) {
        (Some(vip), _) if rule.arp => {
            (vip.to_string(), "ARP for the VIP is not answered: no client finds the director")
        }
        (_, Some(backend)) if incoming || outgoing => (
            backend.to_string(),
            "health checks of this backend, or ARP to it, fail although clients are served",
        ),
        (Some(vip), _) if facts.local && incoming => {
            (vip.to_string(), "connections that the director serves itself do not reach its server")
        }
        _ if rule.all && rule.arp => {
            ("ARP".to_owned(), "ARP for the VIPs is not answered: no client finds the director")
        }
        _ => return None,
    };
    Some(Finding::new(
        Id::FirewallDrops,
        format!("{about}: {}", rule.chain),
        &rule.text,
        effect,
        format!("take the rule out: `{}` shows it; what XDP forwards meets no rule in any case", rule.lister),
    ))
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
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn rule(hook: &str, address: &str) -> Rule {
        Rule {
            chain: format!("inet filter {hook}"),
            hook: hook.into(),
            arp: false,
            all: false,
            addresses: [ip(address)].into(),
            text: "drop".into(),
            lister: "nft -a list ruleset",
        }
    }

    fn facts(local: bool, rule: Rule) -> Facts {
        Facts {
            vips: [ip("10.0.0.100")].into(),
            backends: [ip("10.0.0.11")].into(),
            local,
            rp_filter: Vec::new(),
            rules: vec![rule],
            tracked: None,
        }
    }

    #[track_caller]
    fn finds(facts: Facts, ids: &[Id]) {
        let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{facts:?}");
    }

    #[test]
    fn only_rules_that_matter() {
        finds(facts(false, rule("input", "10.0.0.11")), &[Id::FirewallDrops]);
        finds(facts(false, rule("output", "10.0.0.11")), &[Id::FirewallDrops]);
        finds(facts(false, rule("forward", "10.0.0.11")), &[]);
        finds(facts(false, rule("input", "10.0.0.12")), &[]);
        // XDP has taken the service's packets before.
        finds(facts(false, rule("input", "10.0.0.100")), &[]);
        finds(facts(true, rule("input", "10.0.0.100")), &[Id::FirewallDrops]);
        finds(facts(false, Rule { arp: true, ..rule("input", "10.0.0.100") }), &[Id::FirewallDrops]);
        let all = Rule { all: true, addresses: BTreeSet::new(), ..rule("input", "10.0.0.1") };
        finds(facts(false, all.clone()), &[]);
        finds(facts(false, Rule { arp: true, ..all }), &[Id::FirewallDrops]);
    }

    #[test]
    fn a_table_that_is_nearly_full() {
        let with = |tracked| Facts { tracked, ..Facts::default() };
        finds(with(Some((9_499, 10_000))), &[]);
        finds(with(Some((9_500, 10_000))), &[Id::ConntrackFull]);
        finds(with(Some((0, 0))), &[]);
    }

    #[test]
    fn rp_filter_matters_to_a_director_that_serves() {
        let with = |local, values: &[i64]| {
            let rp_filter = values.iter().map(|value| ("eth0".to_owned(), *value)).collect();
            Facts { local, rp_filter, ..Facts::default() }
        };
        finds(with(true, &[1, 1]), &[Id::RpFilter]);
        finds(with(true, &[2, 2]), &[]);
        finds(with(true, &[1]), &[]);
        finds(with(false, &[1, 1]), &[]);
    }
}
