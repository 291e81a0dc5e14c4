//! Chains and rules of nftables, those of iptables-nft among them, out of what nft(8) prints (libnftables-json(5)).

use std::{
    net::IpAddr,
    process::{Command, Stdio},
};

use ipnet::IpNet;
use serde_json::Value;

use crate::doctor::judge::{
    keepalived::Range,
    netfilter::{Chain, Family, Rule, Test, Verdict, Wanted},
};

/// Shows rules with their handles.
const LISTER: &str = "nft -a list ruleset";

/// Connections are tracked from there on (NF_IP_PRI_CONNTRACK).
const TRACKING: i64 = -200;

pub fn gather(unknown: &mut Vec<String>) -> Vec<Chain> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "ruleset"]).stdin(Stdio::null());
    match command.output() {
        Ok(ran) if ran.status.success() => match serde_json::from_slice(&ran.stdout) {
            Ok(ruleset) => chains(&ruleset),
            Err(error) => {
                unknown.push(format!("rules of nftables: nft -j list ruleset printed no JSON: {error}"));
                Vec::new()
            }
        },
        // Whoever has no nft has no rules either, mostly; whoever may not list them hears of that otherwise.
        Ok(_) | Err(_) => Vec::new(),
    }
}

pub fn chains(ruleset: &Value) -> Vec<Chain> {
    let entries = || ruleset["nftables"].as_array().into_iter().flatten();
    let table = |of: &Value| format!("{} {}", text(of, "family"), text(of, "table"));
    let sets: Vec<(String, &Value)> = entries()
        .filter_map(|entry| entry.get("set"))
        .map(|set| (format!("{} @{}", table(set), text(set, "name")), &set["elem"]))
        .collect();
    let mut chains: Vec<Chain> = entries()
        .filter_map(|entry| entry.get("chain"))
        .map(|chain| {
            let hook = text(chain, "hook").to_owned();
            let priority = chain["prio"].as_i64().unwrap_or_default();
            Chain {
                table: table(chain),
                name: text(chain, "name").to_owned(),
                before_tracking: priority <= TRACKING || matches!(hook.as_str(), "ingress" | "egress"),
                hook,
                drops_by_policy: chain["policy"] == "drop",
                rules: Vec::new(),
                lister: LISTER,
            }
        })
        .collect();
    for rule in entries().filter_map(|entry| entry.get("rule")) {
        let (table, name) = (table(rule), text(rule, "chain"));
        let of_table = |name: &str| {
            let found = sets.iter().find(|(it, _)| *it == format!("{table} {name}"));
            found.map(|(_, elements)| *elements)
        };
        if let Some(chain) = chains.iter_mut().find(|it| it.table == table && it.name == name) {
            chain.rules.push(read(rule, &of_table));
        }
    }
    chains
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

type Sets<'a> = dyn Fn(&str) -> Option<&'a Value> + 'a;

fn read(rule: &Value, sets: &Sets<'_>) -> Rule {
    let (mut tests, mut verdict, mut words) = (Vec::new(), Verdict::None, String::new());
    let mut is_understood = true;
    for (key, value) in rule["expr"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        let target = || text(value, "target").to_owned();
        match key.as_str() {
            "match" => tests.extend(matched(value, sets)),
            "counter" | "log" | "comment" | "mangle" | "notrack" | "continue" => {}
            "accept" => verdict = Verdict::Accept,
            "drop" | "reject" => (verdict, words) = (Verdict::Drop, key.clone()),
            "return" => verdict = Verdict::Return,
            "jump" => verdict = Verdict::Jump(target()),
            "goto" => verdict = Verdict::Goto(target()),
            // How often, how much: what is behind it holds for some packets.
            "limit" | "quota" | "ct count" => tests.push(not_understood()),
            _ => {
                tests.push(not_understood());
                is_understood = false;
            }
        }
    }
    if verdict == Verdict::None && !is_understood {
        verdict = Verdict::NotUnderstood;
    }
    let named = tests.iter().filter_map(|test| match &test.wanted {
        Wanted::Source(ranges) | Wanted::Destination(ranges) => ranges.first(),
        _ => None,
    });
    let named: Vec<String> = named
        .map(|Range(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    let words = format!("{} {words} (handle {})", named.join(", "), rule["handle"]);
    Rule { tests, verdict, text: words.trim_start().to_owned() }
}

fn not_understood() -> Test {
    Test { negated: false, wanted: Wanted::NotUnderstood }
}

/// With what its left side says by itself: who asks for a port of TCP asks for TCP.
fn matched(value: &Value, sets: &Sets<'_>) -> Vec<Test> {
    let (left, right) = (&value["left"], &value["right"]);
    let right = right.as_str().and_then(sets).unwrap_or(right);
    let negated = match text(value, "op") {
        "==" | "in" => false,
        "!=" => true,
        _ => return vec![not_understood()],
    };
    let mut tests = Vec::new();
    let wanted = if let Some(payload) = left.get("payload") {
        let protocol = text(payload, "protocol");
        let implied = match protocol {
            "ip" => Some(Wanted::Family(Family::Ipv4)),
            "ip6" => Some(Wanted::Family(Family::Ipv6)),
            "arp" => Some(Wanted::Family(Family::Arp)),
            "th" | "" => None,
            name => Some(Wanted::Protocol(vec![name.to_owned()])),
        };
        tests.extend(implied.map(|wanted| Test { negated: false, wanted }));
        match text(payload, "field") {
            "saddr" | "saddr ip" => addresses(right).map(Wanted::Source),
            "daddr" | "daddr ip" => addresses(right).map(Wanted::Destination),
            "sport" => ports(right).map(Wanted::SourcePort),
            "dport" => ports(right).map(Wanted::DestinationPort),
            "protocol" | "nexthdr" => protocols(right),
            "type" if protocol == "icmpv6" => strings(right).map(Wanted::Kind),
            "operation" => strings(right).map(Wanted::Kind),
            _ => None,
        }
    } else if let Some(meta) = left.get("meta") {
        match (text(meta, "key"), right.as_str()) {
            ("l4proto", _) => protocols(right),
            ("iif" | "iifname" | "oif" | "oifname", _) => strings(right).map(Wanted::Interface),
            ("nfproto", Some("ipv4")) | ("protocol", Some("ip")) => Some(Wanted::Family(Family::Ipv4)),
            ("nfproto", Some("ipv6")) | ("protocol", Some("ip6")) => Some(Wanted::Family(Family::Ipv6)),
            _ => None,
        }
    } else {
        (left["ct"]["key"] == "state").then(|| strings(right).map(Wanted::State)).flatten()
    };
    tests.push(Test { negated, wanted: wanted.unwrap_or(Wanted::NotUnderstood) });
    tests
}

fn protocols(value: &Value) -> Option<Wanted> {
    let names = strings(value)?.into_iter();
    Some(Wanted::Protocol(names.map(|name| name.replace("ipv6-icmp", "icmpv6")).collect()))
}

/// What a value, a set or a list has in it, if it is all of one kind.
fn each<T>(value: &Value, one: &impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let members = value.get("set").unwrap_or(value);
    let members = match members.as_array() {
        Some(members) => members.iter().collect(),
        None => vec![members],
    };
    // With a counter, a timeout or a comment.
    let plain = |it: &Value| one(it.get("elem").and_then(|elem| elem.get("val")).unwrap_or(it));
    members.into_iter().map(plain).collect()
}

fn strings(value: &Value) -> Option<Vec<String>> {
    each(value, &|it| Some(it.as_str()?.to_owned()))
}

fn addresses(value: &Value) -> Option<Vec<Range>> {
    let address = |it: &Value| it.as_str()?.parse::<IpAddr>().ok();
    each(value, &|it| {
        if let Some(prefix) = it.get("prefix") {
            let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
            let network = IpNet::new(address(&prefix["addr"])?, length).ok()?;
            return Some(Range(network.network(), network.broadcast()));
        }
        match it.get("range") {
            Some(range) => Some(Range(address(&range[0])?, address(&range[1])?)),
            None => address(it).map(|one| Range(one, one)),
        }
    })
}

fn ports(value: &Value) -> Option<Vec<(u16, u16)>> {
    let port = |it: &Value| u16::try_from(it.as_u64()?).ok();
    each(value, &|it| match it.get("range") {
        Some(range) => Some((port(&range[0])?, port(&range[1])?)),
        None => port(it).map(|one| (one, one)),
    })
}
