use serde_json::{Value, json};

use super::*;
use crate::doctor::gather::stack::nftables::chains;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A ruleset as nft 1.0.6 prints it: one base chain, one that may be jumped to.
fn ruleset(family: &str, hook: &str, policy: &str, rules: &[Value]) -> Vec<Chain> {
    let mut all = vec![
        json!({"chain": {"family": family, "table": "f", "name": "base", "type": "filter", "hook": hook, "prio": 0,
                         "policy": policy}}),
        json!({"chain": {"family": family, "table": "f", "name": "sub"}}),
        json!({"set": {"family": family, "table": "f", "name": "s", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 24}}]}}),
    ];
    for (n, expr) in rules.iter().enumerate() {
        let (chain, expr) = match expr.get("in") {
            Some(chain) => (chain.clone(), &expr["expr"]),
            None => (json!("base"), expr),
        };
        all.push(
            json!({"rule": {"family": family, "table": "f", "chain": chain, "handle": n, "expr": expr}}),
        );
    }
    chains(&json!({ "nftables": all }))
}

fn matches(protocol: &str, field: &str, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}})
}

fn from(right: &Value) -> Value {
    matches("ip", "saddr", right)
}

fn network() -> Value {
    json!({"prefix": {"addr": "10.0.0.0", "len": 24}})
}

fn state(words: &Value) -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": words}})
}

fn drop_() -> Value {
    json!({"drop": null})
}

fn accept() -> Value {
    json!({"accept": null})
}

fn facts(checked: bool, served: bool, chains: Vec<Chain>) -> Facts {
    let at = "10.0.0.11:80".parse().expect("an address");
    let own = ("10.0.0.100:80".parse().expect("an address"), Protocol::Tcp);
    Facts {
        vips: [ip("10.0.0.100"), ip("fd00::100")].into(),
        peers: vec![Peer { at, protocol: Protocol::Tcp, checked }],
        served: if served { vec![own] } else { Vec::new() },
        chains,
        ..Facts::default()
    }
}

#[track_caller]
fn finds(facts: Facts, ids: &[Id]) {
    let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
    assert_eq!(found, ids, "{facts:?}");
}

const DROPS: &[Id] = &[Id::FirewallDrops];

/// Of a backend that is checked, by a chain of input that accepts.
#[track_caller]
fn input(rules: &[Value], ids: &[Id]) {
    finds(facts(true, false, ruleset("inet", "input", "accept", rules)), ids);
}

#[test]
fn a_host_that_is_named() {
    let rule = json!([from(&json!("10.0.0.11")), drop_()]);
    // Whether there are checks or not.
    for checked in [true, false] {
        finds(facts(checked, false, ruleset("inet", "input", "accept", std::slice::from_ref(&rule))), DROPS);
    }
    finds(facts(true, false, ruleset("inet", "forward", "accept", &[rule])), &[]);
    let to = json!([matches("ip", "daddr", &json!({"set": ["10.0.0.11", "10.0.0.12"]})), {"counter": {}}, {"reject": {}}]);
    let found = judge(&facts(true, false, ruleset("inet", "output", "accept", &[to])));
    assert_eq!(found[0].subject, "10.0.0.11: inet f base");
    assert_eq!(found[0].found, "10.0.0.11 reject (handle 0)");
    input(&[json!([from(&json!("10.0.0.12")), drop_()])], &[]);
    // Who is excepted is not meant.
    let other = json!({"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.11"}});
    input(&[json!([other, drop_()])], &[]);
}

#[test]
fn networks_ranges_sets_and_ports() {
    for right in [
        network(),
        json!({"range": ["10.0.0.1", "10.0.0.20"]}),
        json!("@s"),
        json!({"set": [network(), "10.3.0.1"]}),
    ] {
        input(&[json!([from(&right), drop_()])], DROPS);
    }
    input(&[json!([from(&json!({"prefix": {"addr": "10.1.0.0", "len": 16}})), drop_()])], &[]);
    input(&[json!([matches("tcp", "sport", &json!({"range": [79, 81]})), drop_()])], DROPS);
    // Of UDP, to another port, how often, of a state that it does not have, by an interface that is another one perhaps.
    input(&[json!([from(&network()), matches("udp", "sport", &json!(80)), drop_()])], &[]);
    input(&[json!([from(&network()), matches("tcp", "dport", &json!(22)), drop_()])], &[]);
    input(&[json!([from(&network()), {"limit": {"rate": 5}}, drop_()])], &[]);
    input(&[json!([from(&network()), state(&json!("invalid")), drop_()])], &[]);
    // Nobody is checked: a network is nobody's in particular.
    finds(
        facts(false, false, ruleset("inet", "input", "accept", &[json!([from(&network()), drop_()])])),
        &[],
    );
}

#[test]
fn what_is_accepted_before() {
    let dropped = json!([from(&network()), drop_()]);
    let established = json!([state(&json!(["established", "related"])), accept()]);
    input(&[established.clone(), dropped.clone()], &[]);
    input(&[dropped.clone(), established], DROPS);
    // lo is another way; what is not understood may accept it.
    let lo = json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}});
    input(&[json!([lo, accept()]), dropped.clone()], DROPS);
    input(&[json!([{"xt": null}, accept()]), dropped.clone()], &[]);
    input(&[json!([{"vmap": {}}]), dropped.clone()], &[]);
    // In a chain that is jumped to; one that is not there; one that jumps to itself.
    let sub = |expr: Value| json!({"in": "sub", "expr": expr});
    let jump = json!([{"jump": {"target": "sub"}}]);
    input(&[jump.clone(), sub(dropped.clone())], DROPS);
    input(&[jump.clone(), sub(json!([accept()])), dropped.clone()], &[]);
    input(&[jump.clone(), sub(json!([{"return": null}])), dropped.clone()], DROPS);
    input(&[json!([{"jump": {"target": "gone"}}]), dropped.clone()], &[]);
    input(&[jump.clone(), sub(jump), dropped], &[]);
}

#[test]
fn policies() {
    let policy = |checked, rules: &[Value]| facts(checked, false, ruleset("inet", "input", "drop", rules));
    let established = json!([state(&json!(["established", "related"])), accept()]);
    let nd = json!([
        matches("icmpv6", "type", &json!({"set": ["nd-neighbor-solicit", "nd-router-advert"]})),
        accept()
    ]);
    let found = judge(&policy(true, std::slice::from_ref(&nd)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].subject.starts_with("10.0.0.11")
            && found[0].fix.contains("nft insert rule inet f base ct state")
    );
    let found = judge(&policy(true, std::slice::from_ref(&established)));
    assert!(found.len() == 1 && found[0].effect.contains("neighbour solicitations"), "{found:?}");
    finds(policy(true, &[established, nd.clone()]), &[]);
    // Nobody is checked by its own address.
    finds(policy(false, &[nd]), &[]);
    let icmpv6 = json!({"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "ipv6-icmp"}});
    finds(policy(false, &[json!([icmpv6, accept()])]), &[]);
    // It does not see IPv6.
    finds(facts(false, false, ruleset("ip", "input", "drop", &[])), &[]);
}

#[test]
fn what_the_director_serves_itself() {
    let ports = [json!([matches("tcp", "dport", &json!({"set": [80, 443]})), drop_()])];
    // XDP has taken the service's packets before.
    finds(facts(true, false, ruleset("inet", "input", "accept", &ports)), &[]);
    finds(facts(true, true, ruleset("inet", "input", "accept", &ports)), DROPS);
    let named = [json!([matches("ip", "daddr", &json!("10.0.0.100")), drop_()])];
    finds(facts(true, false, ruleset("inet", "input", "accept", &named)), &[]);
    finds(facts(true, true, ruleset("inet", "input", "accept", &named)), DROPS);
}

#[test]
fn arp() {
    let named = [json!([matches("arp", "daddr ip", &json!("10.0.0.100")), drop_()])];
    finds(facts(true, false, ruleset("arp", "input", "accept", &named)), DROPS);
    finds(facts(true, false, ruleset("arp", "input", "drop", &[])), DROPS);
    let requests = [json!([matches("arp", "operation", &json!("request")), accept()]), json!([drop_()])];
    let found = judge(&facts(false, false, ruleset("arp", "input", "accept", &requests)));
    assert!(found.len() == 1 && found[0].subject.starts_with("10.0.0.11"), "{found:?}");
    // Another family's chain sees none of it.
    finds(facts(false, false, ruleset("ip", "input", "accept", &[json!([drop_()])])), &[]);
}

/// However many packets a rule drops.
#[test]
fn one_finding_a_rule() {
    let mut facts =
        facts(true, false, ruleset("inet", "input", "accept", &[json!([from(&network()), drop_()])]));
    facts.peers.push(Peer { at: "10.0.0.12:80".parse().expect("one"), ..facts.peers[0].clone() });
    let found = judge(&facts);
    assert!(found.len() == 1 && found[0].found.contains("1 more"), "{found:?}");
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
    let with = |local: bool, values: &[i64]| {
        let rp_filter = values.iter().map(|value| ("eth0".to_owned(), *value)).collect();
        let served =
            if local { vec![("10.0.0.100:80".parse().expect("one"), Protocol::Tcp)] } else { Vec::new() };
        Facts { served, rp_filter, ..Facts::default() }
    };
    finds(with(true, &[1, 1]), &[Id::RpFilter]);
    finds(with(true, &[2, 2]), &[]);
    finds(with(true, &[1]), &[]);
    finds(with(false, &[1, 1]), &[]);
}
