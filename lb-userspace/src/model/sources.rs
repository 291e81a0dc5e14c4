//! Who may open connections to a service, and how many a second: a rule for each prefix of clients' addresses.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lb_common::source::{MAX_BURST, MAX_PER_MINUTE};
use serde::{Deserialize, Serialize};

use super::rules::{family, same_family};

/// The longest prefix that has a client's address decides; clients of none are allowed. Networks are written without
/// host bits, and are all of the service's address family.
pub type Sources = BTreeMap<IpNet, SourceRule>;

/// What clients of a prefix may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceRule {
    /// They open connections.
    Allow,
    /// They open none; those that they have go on.
    Deny,
    /// They open so many a second.
    Limit(SourceLimit),
}

/// A limit of new connections for each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceLimit {
    pub rate: Rate,
    /// How many there may be at once, 1 to a million; none: see [`SourceLimit::burst`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Clients that share so many bits of their address are one source; none: see [`SourceLimit::per`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<u8>,
}

impl SourceLimit {
    /// As given, or two seconds' worth, and no fewer than ten: what a browser opens at once.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or((self.rate.per_minute() / 30).clamp(10, MAX_BURST))
    }

    /// As given; or an IPv4 address, or what one IPv6 client has, a /64; but no less than the rule's prefix.
    pub fn per(&self, network: IpNet) -> u8 {
        let usual = if network.addr().is_ipv4() { 32 } else { 64 };
        self.per.unwrap_or(usual.max(network.prefix_len()))
    }
}

/// New connections a minute, 1 to [`MAX_PER_MINUTE`]; written `100/s` or `30/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u32);

impl Rate {
    pub fn per_minute(self) -> u32 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no rate; write connections a second or a minute, from 1/m to {}/s, for example 100/s",
                MAX_PER_MINUTE / 60
            )
        };
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let factor = match unit.trim() {
            "s" | "sec" | "second" => 60,
            "m" | "min" | "minute" => 1,
            _ => return Err(wrong()),
        };
        let count = count.trim();
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let rate = count.parse::<u32>().ok().and_then(|count| count.checked_mul(factor));
        rate.filter(|rate| (1..=MAX_PER_MINUTE).contains(rate)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate % 60 == 0 => write!(f, "{}/s", rate / 60),
            rate => write!(f, "{rate}/m"),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// A network, or a single address, without host bits. The error says what would be right.
pub fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| format!("`{text}` is no prefix; write one such as 10.0.0.0/8 or 2001:db8::/32"))?;
    match network.trunc() {
        trunc if trunc == network => Ok(network),
        trunc => Err(format!("`{text}` has bits beyond its length; write {trunc}, or {}", network.addr())),
    }
}

/// A rule as the command line takes it: `10.0.0.0/8 deny`, `0.0.0.0/0 limit 100/s burst 200 per 24`.
pub fn rule(text: &str) -> Result<(IpNet, SourceRule), String> {
    let mut words = text.split_whitespace();
    let network = network(words.next().unwrap_or_default())?;
    let rule = match words.next() {
        Some("allow") => SourceRule::Allow,
        Some("deny") => SourceRule::Deny,
        Some("limit") => {
            let rate = words.next().unwrap_or_default().parse()?;
            let mut limit = SourceLimit { rate, burst: None, per: None };
            while let Some(word) = words.next() {
                let figure = words.next().unwrap_or_default();
                match word {
                    "burst" => limit.burst = Some(burst(figure)?),
                    "per" => limit.per = Some(per(figure)?),
                    _ => return Err(format!("`{word}` belongs to no limit; valid are `burst` and `per`")),
                }
            }
            SourceRule::Limit(limit)
        }
        other => {
            let wrong = other.map_or("nothing".to_owned(), |word| format!("`{word}`"));
            return Err(format!(
                "{wrong} is no action; write PREFIX allow, PREFIX deny or PREFIX limit 100/s"
            ));
        }
    };
    match words.next() {
        Some(more) => Err(format!("`{more}` is too much after `{network} {rule}`")),
        None => Ok((network, rule)),
    }
}

/// Connections at once.
pub fn burst(text: &str) -> Result<u32, String> {
    let burst = text.parse().ok().filter(|burst| (1..=MAX_BURST).contains(burst));
    burst.ok_or_else(|| format!("`{text}` is no burst; write 1 to {MAX_BURST} connections"))
}

/// A prefix length.
pub fn per(text: &str) -> Result<u8, String> {
    let length = text.trim_start_matches('/').parse().ok().filter(|length| *length <= 128);
    length.ok_or_else(|| format!("`{text}` is no prefix length"))
}

/// Why `network` cannot have `rule` in a service on `vip`, and what would be right.
pub fn fault(network: IpNet, rule: &SourceRule, vip: Option<IpAddr>) -> Option<(String, String)> {
    if let Some(vip) = vip.filter(|vip| !same_family(network.addr(), *vip)) {
        let (its, wanted) = (family(network.addr()), family(vip));
        return Some((
            format!("{network} is {its}, but the service's address {vip} is {wanted}"),
            format!("write {wanted} prefixes"),
        ));
    }
    if network.trunc() != network {
        return Some((
            format!("{network} has bits beyond its length"),
            format!("write {}, or {}", network.trunc(), network.addr()),
        ));
    }
    let SourceRule::Limit(limit) = rule else { return None };
    if !(1..=MAX_BURST).contains(&limit.burst()) {
        return Some((
            format!("a burst of {} connections", limit.burst()),
            format!("write 1 to {MAX_BURST}"),
        ));
    }
    let (shortest, longest) = (network.prefix_len(), network.max_prefix_len());
    if !(shortest..=longest).contains(&limit.per(network)) {
        return Some((
            format!("clients of {network} cannot be told apart per /{}", limit.per(network)),
            format!("write a length from {shortest}, all of them together, to {longest}"),
        ));
    }
    None
}

impl fmt::Display for SourceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Deny => f.write_str("deny"),
            Self::Limit(SourceLimit { rate, burst, per }) => {
                write!(f, "limit {rate}")?;
                if let Some(burst) = burst {
                    write!(f, " burst {burst}")?;
                }
                if let Some(per) = per {
                    write!(f, " per {per}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in [
            "10.0.0.0/8 deny",
            "0.0.0.0/0 allow",
            "192.0.2.7/32 limit 100/s",
            "2001:db8::/32 limit 30/m burst 5 per 56",
            "0.0.0.0/0 limit 100000/s burst 1000000",
        ] {
            let (network, rule) = rule(text).expect(text);
            assert_eq!(format!("{network} {rule}"), text);
        }
        assert_eq!(rule("192.0.2.7 deny").map(|it| it.0.to_string()).as_deref(), Ok("192.0.2.7/32"));
        assert_eq!(
            rule("::/0 limit 90/m per /64").map(|it| it.1.to_string()).as_deref(),
            Ok("limit 90/m per 64")
        );
        assert_eq!("60/m".parse::<Rate>().map(|it| it.to_string()).as_deref(), Ok("1/s"));
        assert_eq!("7".parse::<Rate>().map(|it| it.to_string()).as_deref(), Ok("7/s"));
    }

    #[test]
    fn what_is_no_rule_is_told_what_would_be() {
        for (text, says) in [
            ("", "is no prefix"),
            ("ten deny", "is no prefix"),
            ("10.0.0.1/8 deny", "write 10.0.0.0/8, or 10.0.0.1"),
            ("10.0.0.0/8", "nothing is no action"),
            ("10.0.0.0/8 drop", "`drop` is no action"),
            ("10.0.0.0/8 limit", "is no rate"),
            ("10.0.0.0/8 limit 0/s", "is no rate"),
            ("10.0.0.0/8 limit 100001/s", "is no rate"),
            ("10.0.0.0/8 limit 5/h", "is no rate"),
            ("10.0.0.0/8 limit +5/s", "is no rate"),
            ("10.0.0.0/8 limit 5/s burst", "is no burst"),
            ("10.0.0.0/8 limit 5/s burst 0", "is no burst"),
            ("10.0.0.0/8 limit 5/s per 129", "is no prefix length"),
            ("10.0.0.0/8 limit 5/s rate 7", "`rate` belongs to no limit"),
            ("10.0.0.0/8 deny all", "`all` is too much"),
        ] {
            let wrong = rule(text).expect_err(text);
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
        let vip = Some([192, 0, 2, 1].into());
        let faulty = |text| rule(text).map(|(network, rule)| fault(network, &rule, vip).map(|it| it.0));
        assert_eq!(faulty("10.0.0.0/8 limit 5/s per 8"), Ok(None));
        assert_eq!(faulty("10.0.0.0/8 limit 5/s per 24"), Ok(None));
        for text in ["10.0.0.0/8 limit 5/s per 7", "10.0.0.0/8 limit 5/s per 33", "::/0 deny"] {
            assert!(faulty(text).expect(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_not_said_has_a_sensible_figure() {
        let limit = |text| match rule(text) {
            Ok((network, SourceRule::Limit(limit))) => (limit.burst(), limit.per(network)),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(limit("0.0.0.0/0 limit 100/s"), (200, 32));
        assert_eq!(limit("0.0.0.0/0 limit 1/m"), (10, 32));
        assert_eq!(limit("::/0 limit 100000/s"), (200_000, 64));
        assert_eq!(limit("2001:db8::/96 limit 1/s"), (10, 96));
        assert_eq!(limit("::/0 limit 1/s burst 1 per 48"), (1, 48));
    }
}
