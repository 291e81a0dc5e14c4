//! What of keepalived.conf(5) is about virtual servers.
//!
//! Its text has the files that it includes in place of the lines that include them. What `@` makes conditional, and
//! what `$` stands for, is not resolved.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// What its `virtual_server` blocks are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    pub addresses: Vec<Range>,
    /// Firewall marks, which name no address.
    pub marks: BTreeSet<u32>,
}

/// From the first to the last one, both of them in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub IpAddr, pub IpAddr);

impl Range {
    pub fn holds(&self, address: IpAddr) -> bool {
        let Self(first, last) = *self;
        first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
    }
}

impl Servers {
    /// `virtual_server ADDRESS [PORT]`, `virtual_server fwmark N`, and the members of `virtual_server group NAME`.
    pub fn of(text: &str) -> Self {
        let mut all = Self::default();
        let mut groups: BTreeMap<&str, Self> = BTreeMap::new();
        let (mut used, mut group) = (BTreeSet::new(), None);
        for line in text.lines() {
            let line = line.split(['#', '!']).next().unwrap_or_default();
            // A brace may stand right behind a word.
            let words = line.split(|sign: char| sign.is_whitespace() || sign == '{');
            let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            match (words.as_slice(), group) {
                (["virtual_server_group", name, members @ ..], _) => {
                    group = (!members.contains(&"}")).then_some(*name);
                    groups.entry(*name).or_default().add(members);
                }
                (["virtual_server", "group", name, ..], _) => drop(used.insert(*name)),
                (["virtual_server", of @ ..], _) => all.add(of),
                (members, Some(name)) => {
                    groups.entry(name).or_default().add(members);
                    group = group.filter(|_| !members.contains(&"}"));
                }
                _ => {}
            }
        }
        for Self { addresses, marks } in
            groups.into_iter().filter_map(|(name, of)| used.contains(name).then_some(of))
        {
            all.addresses.extend(addresses);
            all.marks.extend(marks);
        }
        all
    }

    /// `ADDRESS [PORT]`, `RANGE [PORT]`, `fwmark N`.
    fn add(&mut self, words: &[&str]) {
        match words {
            ["fwmark", mark, ..] => self.marks.extend(mark.parse::<u32>()),
            [address, ..] => self.addresses.extend(range(address)),
            [] => {}
        }
    }
}

/// `192.0.2.1`, `192.0.2.1-10`, `192.0.2.1-192.0.2.10`, `192.0.2.8/29`, and the same of IPv6.
fn range(text: &str) -> Option<Range> {
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(Range(network.network(), network.broadcast()));
    }
    let Some((first, last)) = text.split_once('-') else {
        let address = text.parse().ok()?;
        return Some(Range(address, address));
    };
    let first: IpAddr = first.parse().ok()?;
    let last = match (last.parse::<IpAddr>(), first) {
        (Ok(last), _) => last,
        // Only the last number differs, which is hexadecimal in IPv6.
        (Err(_), IpAddr::V4(first)) => {
            let [a, b, c, _] = first.octets();
            Ipv4Addr::new(a, b, c, last.parse().ok()?).into()
        }
        (Err(_), IpAddr::V6(first)) => {
            let mut groups = first.segments();
            groups[7] = u16::from_str_radix(last, 16).ok()?;
            Ipv6Addr::from(groups).into()
        }
    };
    Some(Range(first, last))
}

/// The file, or files by wildcards, that a line includes.
pub fn included(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    // With the letter of a check: whether keepalived minds what is missing.
    let variants = ["include", "includer", "includem", "includew", "includeb", "includea"];
    variants.contains(&words.next()?).then(|| words.next()).flatten().map(|word| word.trim_matches('"'))
}

/// Whether `name` fits a pattern of `*` and `?`, as glob(7) has it: a dot at the beginning is only met by a dot.
pub fn fits(pattern: &str, name: &str) -> bool {
    fn rest(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', after @ ..], _) => (0..=name.len()).any(|taken| rest(after, &name[taken..])),
            (['?', after @ ..], [_, others @ ..]) => rest(after, others),
            ([sign, after @ ..], [other, others @ ..]) => sign == other && rest(after, others),
            _ => false,
        }
    }
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    (!name.starts_with('.') || pattern.starts_with('.')) && rest(&chars(pattern), &chars(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_of_virtual_servers() {
        let servers = Servers::of(
            "vrrp_instance V1 {\n virtual_ipaddress {\n 10.0.0.100\n }\n}\n\
             virtual_server 10.0.0.100 80 {\n real_server 10.0.0.11 80 {\n }\n}\n  virtual_server fd00::1 53 {\n}\n\
             # virtual_server 10.0.0.9 80\n! virtual_server 10.0.0.8 80\nvirtual_server fwmark 7 {\n}\n",
        );
        let one = |text| Range(ip(text), ip(text));
        assert_eq!(servers.addresses, [one("10.0.0.100"), one("fd00::1")]);
        assert_eq!(servers.marks, [7].into());
    }

    #[test]
    fn groups_that_a_server_uses() {
        let group = "virtual_server_group web {\n 10.0.0.100 80 # and\n 10.0.1.1-10 443\n fwmark 3 inet\n}\n\
                     virtual_server_group unused\n{\n 10.0.0.9 80\n fwmark 4\n}\n10.0.0.7 80\n";
        assert_eq!(Servers::of(group), Servers::default());
        for text in [
            format!("{group}virtual_server group web {{\n}}\n"),
            format!("virtual_server group web{{\n}}\n{group}"),
        ] {
            let Servers { addresses, marks } = Servers::of(&text);
            assert_eq!(
                addresses,
                [Range(ip("10.0.0.100"), ip("10.0.0.100")), Range(ip("10.0.1.1"), ip("10.0.1.10"))]
            );
            assert_eq!(marks, [3].into());
        }
    }

    #[test]
    fn ranges() {
        for (text, inside, outside) in [
            ("192.0.2.1-10", "192.0.2.10", "192.0.2.11"),
            ("192.0.2.250-192.0.3.10", "192.0.3.1", "192.0.3.11"),
            ("192.0.2.8/29", "192.0.2.15", "192.0.2.16"),
            ("fd00::1-1f", "fd00::1f", "fd00::20"),
            ("fd00::/64", "fd00::9", "192.0.2.1"),
            ("0.0.0.0/0", "192.0.2.1", "fd00::1"),
        ] {
            let range = range(text).expect(text);
            assert!(range.holds(ip(inside)) && !range.holds(ip(outside)), "{text}: {range:?}");
        }
        for text in ["", "80", "192.0.2.1-300", "192.0.2.1-", "web"] {
            assert_eq!(range(text), None, "{text}");
        }
    }

    #[test]
    fn lines_that_include() {
        assert_eq!(included(" include conf.d/*.conf"), Some("conf.d/*.conf"));
        assert_eq!(included("includea \"/etc/k.conf\""), Some("/etc/k.conf"));
        for line in ["include", "include_check readable", "# include k.conf", "virtual_server 10.0.0.1"] {
            assert_eq!(included(line), None, "{line}");
        }
        assert!(fits("*.conf", "a.conf") && fits("?-*", "a-b") && fits("a", "a") && fits(".a*", ".ab"));
        assert!(!fits("*.conf", "a.conf~") && !fits("*", ".hidden") && !fits("a", "ab") && !fits("??", "a"));
    }
}
