//! What the director's own stack is told: rp_filter, and rules of nftables and iptables that drop.

mod legacy;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::network::Network;
use crate::{
    doctor::{
        held::{Held, Next},
        judge::stack::{Facts, Rule},
    },
    net::sysctl::Sysctl,
};

pub fn gather(held: &Held, network: &Network, unknown: &mut Vec<String>) -> Facts {
    Facts {
        vips: held.vips.clone(),
        backends: held.backends(),
        local: held.ways.iter().any(|way| way.next == Next::Local),
        rp_filter: rp_filter(network),
        rules: nftables(unknown).into_iter().chain(legacy::gather(unknown)).collect(),
        tracked: tracked(),
    }
}

/// None: nothing is tracked, or the module is not there.
fn tracked() -> Option<(i64, i64)> {
    let read = |key| Sysctl::net(&["netfilter", key]).and_then(|it| it.read_number()).ok();
    Some((read("nf_conntrack_count")?, read("nf_conntrack_max")?))
}

/// Shows rules with their handles.
const LISTER: &str = "nft -a list ruleset";

/// The larger of the interface's own and that of `all` (IN_DEV_MAXCONF).
fn rp_filter(network: &Network) -> Vec<(String, i64)> {
    let value = |name: &str| Sysctl::ipv4_conf(name, "rp_filter").and_then(|it| it.read_number()).ok();
    let with_ipv4 = network.links.iter().filter(|link| {
        !link.loopback && network.addresses.iter().any(|it| it.ifindex == link.index && it.address.is_ipv4())
    });
    with_ipv4.filter_map(|link| Some((link.name.clone(), value("all")?.max(value(&link.name)?)))).collect()
}

/// Rules of iptables-nft are among them.
fn nftables(unknown: &mut Vec<String>) -> Vec<Rule> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "ruleset"]).stdin(Stdio::null());
    match command.output() {
        Ok(ran) if ran.status.success() => match serde_json::from_slice(&ran.stdout) {
            Ok(ruleset) => dropping(&ruleset),
            Err(error) => {
                unknown.push(format!("rules of nftables: nft -j list ruleset printed no JSON: {error}"));
                Vec::new()
            }
        },
        // Whoever has no nft has no rules either, mostly; whoever may not list them hears of that otherwise.
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Those that drop or reject, with their chain's hook (libnftables-json(5)). A chain that is only jumped to has none.
fn dropping(ruleset: &Value) -> Vec<Rule> {
    let entries = || ruleset["nftables"].as_array().into_iter().flatten();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let hook_of = |rule: &Value| {
        let mut chains = entries().map(|entry| &entry["chain"]);
        let chain = chains.find(|chain| {
            ["family", "table"].iter().all(|key| chain[*key] == rule[*key]) && chain["name"] == rule["chain"]
        });
        chain.map(|chain| text(chain, "hook")).unwrap_or_default()
    };
    let name =
        |of: &Value, chain: &str| format!("{} {} {}", text(of, "family"), text(of, "table"), text(of, chain));
    let policies = entries().map(|entry| &entry["chain"]).filter(|chain| chain["policy"] == "drop");
    let policies = policies.map(|chain| Rule {
        chain: name(chain, "name"),
        hook: text(chain, "hook"),
        arp: chain["family"] == "arp",
        all: true,
        addresses: BTreeSet::new(),
        text: "policy drop".to_owned(),
        lister: LISTER,
    });
    let rules = entries().map(|entry| &entry["rule"]).filter_map(|rule| {
        let parts = rule["expr"].as_array()?;
        let verdict =
            ["drop", "reject"].into_iter().find(|it| parts.iter().any(|part| part.get(it).is_some()))?;
        let matches: Vec<&Value> = parts.iter().filter_map(|part| part.get("match")).collect();
        let mut addresses = BTreeSet::new();
        matches.iter().for_each(|it| collect(it, &mut addresses));
        let named: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Some(Rule {
            chain: name(rule, "chain"),
            hook: hook_of(rule),
            arp: rule["family"] == "arp",
            all: matches.is_empty(),
            addresses,
            text: format!("{} {verdict} (handle {})", named.join(", "), rule["handle"])
                .trim_start()
                .to_owned(),
            lister: LISTER,
        })
    });
    policies.chain(rules).collect()
}

/// Every address in a match, in sets too; prefixes are nobody's in particular.
fn collect(value: &Value, into: &mut BTreeSet<IpAddr>) {
    match value {
        Value::String(text) => into.extend(text.parse::<IpAddr>()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        Value::Object(members) => members.values().for_each(|value| collect(value, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    #[test]
    fn dropping_rules_of_a_ruleset() {
        let text = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"table": {"family": "inet", "name": "f", "handle": 1}},
            {"chain": {"family": "inet", "table": "f", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}},
            {"chain": {"family": "arp", "table": "f", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"rule": {"family": "inet", "table": "f", "chain": "in", "handle": 3, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 7000}}, {"accept": null}]}},
            {"rule": {"family": "inet", "table": "f", "chain": "in", "handle": 4, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"set": ["10.0.0.11", "10.0.0.12"]}}}, {"counter": {"packets": 0, "bytes": 0}}, {"drop": null}]}},
            {"rule": {"family": "inet", "table": "f", "chain": "in", "handle": 5, "expr": [{"reject": {"type": "tcp reset"}}]}}]}"#;
        let rules = dropping(&serde_json::from_str(text).expect("JSON"));
        let seen: Vec<_> =
            rules.iter().map(|it| (it.hook.as_str(), it.arp, it.all, it.addresses.len())).collect();
        assert_eq!(seen, [("input", true, true, 0), ("input", false, false, 2), ("input", false, true, 0)]);
        assert_eq!(rules[1].text, "10.0.0.11, 10.0.0.12 drop (handle 4)");
        assert_eq!(rules[1].chain, "inet f in");
    }
}
