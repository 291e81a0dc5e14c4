//! Rules of iptables-legacy, which nft(8) does not list.

use std::{
    fs,
    process::{Command, Stdio},
};

use ipnet::IpNet;

use crate::doctor::judge::{
    keepalived::Range,
    netfilter::{Chain, Family, Rule, Test, Verdict, Wanted},
};

/// Which tables there are, and what lists them.
const FAMILIES: [(&str, &str); 2] = [
    ("/proc/net/ip_tables_names", "iptables-legacy-save"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
];

/// The programs are asked only where there are tables: they make some by themselves.
pub fn gather(unknown: &mut Vec<String>) -> Vec<Chain> {
    let mut found = Vec::new();
    for (tables, lister) in FAMILIES {
        if !fs::read_to_string(tables).is_ok_and(|names| !names.trim().is_empty()) {
            continue;
        }
        match Command::new(lister).stdin(Stdio::null()).output() {
            Ok(ran) if ran.status.success() => {
                found.extend(chains(&String::from_utf8_lossy(&ran.stdout), lister));
            }
            Ok(_) | Err(_) => unknown.push(format!("rules of iptables-legacy: {lister} lists them")),
        }
    }
    found
}

/// Of a listing in the words of iptables-save(8).
pub fn chains(listing: &str, lister: &'static str) -> Vec<Chain> {
    let family = lister.split('-').next().unwrap_or(lister);
    let (mut table, mut chains) = (String::new(), Vec::<Chain>::new());
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = format!("{family} {name}");
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            [chain, policy, ..] if chain.starts_with(':') => chains.push(Chain {
                table: table.clone(),
                name: chain[1..].to_owned(),
                // One that is only jumped to has no policy.
                hook: if *policy == "-" { String::new() } else { chain[1..].to_ascii_lowercase() },
                before_tracking: table.ends_with(" raw"),
                drops_by_policy: *policy == "DROP",
                rules: Vec::new(),
                lister,
            }),
            ["-A", chain, rest @ ..] => {
                if let Some(chain) = chains.iter_mut().find(|it| it.table == table && it.name == *chain) {
                    chain.rules.push(read(rest, family));
                }
            }
            _ => {}
        }
    }
    chains
}

fn read(words: &[&str], family: &str) -> Rule {
    let only = if family == "iptables" { Family::Ipv4 } else { Family::Ipv6 };
    let mut tests = vec![Test { negated: false, wanted: Wanted::Family(only) }];
    let (mut verdict, mut rest, mut negated) = (Verdict::None, words.iter(), false);
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().unwrap_or_default();
        let wanted = match *word {
            "!" => {
                negated = true;
                continue;
            }
            // What its options ask for stands in them.
            "-m" => {
                let known = ["tcp", "udp", "conntrack", "state", "multiport"];
                if known.contains(&value()) {
                    continue;
                }
                None
            }
            "-j" => {
                verdict = target(value());
                break;
            }
            "-g" => {
                verdict = Verdict::Goto(value().to_owned());
                break;
            }
            "-s" => network(value()).map(Wanted::Source),
            "-d" => network(value()).map(Wanted::Destination),
            "-p" => Some(Wanted::Protocol(vec![value().replace("ipv6-icmp", "icmpv6")])),
            "-i" | "-o" => Some(Wanted::Interface(vec![value().to_owned()])),
            "--sport" | "--sports" => ports(value()).map(Wanted::SourcePort),
            "--dport" | "--dports" => ports(value()).map(Wanted::DestinationPort),
            "--state" | "--ctstate" => {
                Some(Wanted::State(value().split(',').map(str::to_ascii_lowercase).collect()))
            }
            _ => None,
        };
        tests.push(Test { negated, wanted: wanted.unwrap_or(Wanted::NotUnderstood) });
        negated = false;
    }
    Rule { tests, verdict, text: words.join(" ") }
}

fn target(name: &str) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "LOG" | "MARK" | "NFLOG" | "TCPMSS" => Verdict::None,
        // Another extension is a chain that is not there.
        chain => Verdict::Jump(chain.to_owned()),
    }
}

fn network(text: &str) -> Option<Vec<Range>> {
    let network: IpNet = text.parse().ok()?;
    Some(vec![Range(network.network(), network.broadcast())])
}

/// `80`, `1:1024`, `80,443`
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let one = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iptables-legacy-save 1.8.9 prints it.
    #[test]
    fn rules_of_a_listing() {
        let text = "\
# Generated by iptables-save v1.8.9 on Sat Nov 28 19:40:00 2026
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:guard - [0:0]
-A INPUT -s 10.0.0.11/32 -p tcp -m tcp --sport 80 -j DROP
-A INPUT ! -s 10.0.0.0/24 -m conntrack --ctstate RELATED,ESTABLISHED -j guard
-A guard -m comment --comment \"a guard\" -j ACCEPT
COMMIT
";
        let all = chains(text, "iptables-legacy-save");
        let seen: Vec<_> = all
            .iter()
            .map(|it| (it.name.as_str(), it.hook.as_str(), it.drops_by_policy, it.rules.len()))
            .collect();
        assert_eq!(
            seen,
            [("INPUT", "input", false, 2), ("FORWARD", "forward", true, 0), ("guard", "", false, 1)]
        );
        let [first, second] = &all[0].rules[..] else { panic!("{all:?}") };
        assert_eq!(first.text, "-s 10.0.0.11/32 -p tcp -m tcp --sport 80 -j DROP");
        assert_eq!(first.verdict, Verdict::Drop);
        assert!(first.tests[1].names_hosts() && !second.tests[1].names_hosts(), "{all:?}");
        assert_eq!(first.tests[3].wanted, Wanted::SourcePort(vec![(80, 80)]));
        assert!(second.tests[1].negated && !second.tests[2].negated);
        assert_eq!(second.tests[2].wanted, Wanted::State(vec!["related".into(), "established".into()]));
        assert_eq!(second.verdict, Verdict::Jump("guard".into()));
        assert!(all[2].rules[0].tests.iter().any(|test| test.wanted == Wanted::NotUnderstood));
        let six = chains(
            "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d fd00::1/128 -j REJECT\n",
            "ip6tables-legacy-save",
        );
        assert_eq!(six[0].table, "ip6tables filter");
        assert_eq!(six[0].rules[0].tests[0].wanted, Wanted::Family(Family::Ipv6));
    }
}
