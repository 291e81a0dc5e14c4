//! Single values: text -> number, duration, address, word.

use std::{fmt::Display, net::IpAddr, ops::RangeInclusive, path::PathBuf};

use crate::model::{check::Millis, nearest::nearest, timeouts::MAX_TIMEOUT};

/// What is wrong with a value, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub wrong: String,
    pub right: String,
}

pub(super) fn fault<T>(wrong: impl Into<String>, right: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { wrong: wrong.into(), right: right.into() })
}

/// A plain decimal number.
pub(super) fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, Fault>
where
    T: TryFrom<u64> + PartialOrd + Display + Copy,
{
    let right = || format!("write a number from {} to {}", range.start(), range.end());
    let Some(value) = digits(text) else {
        return fault(format!("`{text}` is not a whole number"), right());
    };
    match value.ok().and_then(|v| T::try_from(v).ok()).filter(|v| range.contains(v)) {
        Some(value) => Ok(value),
        None => fault(format!("{text} is out of range"), right()),
    }
}

/// A count with an optional binary suffix: `1000`, `256k`, `1M` (= 1048576).
pub(super) fn count(text: &str, range: RangeInclusive<u32>) -> Result<u32, Fault> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "M" => 1 << 20,
        _ => {
            let right = "write a number, optionally with k (1024) or M (1048576), for example 256k";
            return fault(format!("`{text}` is not a count"), right);
        }
    };
    in_range(text, number, factor, range, "a count", |n| n.to_string())
}

/// A duration in seconds, with an optional unit: `900`, `900s`, `15m`, `1h`, `1d`.
pub(super) fn duration(text: &str, range: RangeInclusive<u32>) -> Result<u32, Fault> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => {
            let right = "write whole seconds, or a number with s, m, h or d, for example 900 or 15m";
            return fault(format!("`{text}` is not a duration"), right);
        }
    };
    in_range(text, number, factor, range, "a duration", |n| format!("{n}s"))
}

/// A short duration: `500ms`, and what [`duration`] takes, up to a day.
pub(super) fn millis(text: &str) -> Result<Millis, Fault> {
    let (number, unit) = split_unit(text);
    if unit != "ms" {
        return duration(text, 1..=DAY).map(|seconds| Millis(seconds * 1000)).map_err(|fault| Fault {
            right: format!("{}, or milliseconds such as 500ms", fault.right),
            ..fault
        });
    }
    in_range(text, number, 1, 1..=DAY * 1000, "a duration", |n| format!("{n}ms")).map(Millis)
}

/// In seconds.
const DAY: u32 = 86400;

/// An idle timeout.
pub(super) fn timeout(text: &str) -> Result<u32, Fault> {
    duration(text, 1..=MAX_TIMEOUT)
}

fn in_range(
    text: &str,
    number: &str,
    factor: u64,
    range: RangeInclusive<u32>,
    what: &str,
    show: impl Fn(u32) -> String,
) -> Result<u32, Fault> {
    let right = format!("write {what} from {} to {}", show(*range.start()), show(*range.end()));
    let Some(value) = digits(number) else {
        return fault(format!("`{text}` is not {what}"), right);
    };
    let scaled = value.ok().and_then(|v| v.checked_mul(factor)).and_then(|v| u32::try_from(v).ok());
    match scaled.filter(|v| range.contains(v)) {
        Some(value) => Ok(value),
        None => fault(format!("{text} is out of range"), right),
    }
}

/// `Some(Err)`: digits, but too many of them.
fn digits(text: &str) -> Option<Result<u64, std::num::ParseIntError>> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse())
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

pub(super) fn boolean(text: &str) -> Result<bool, Fault> {
    word(text, "truth value", &[("true", true), ("false", false), ("yes", true), ("no", false)])
}

/// One of some words; upper and lower case are the same (keepalived writes `protocol TCP`).
pub(super) fn word<T: Copy>(text: &str, what: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(w, _)| w.eq_ignore_ascii_case(text)) {
        return Ok(*value);
    }
    let names = || words.iter().map(|(w, _)| *w);
    let list = names().collect::<Vec<_>>().join(", ");
    let right = match nearest(text, names()) {
        Some(near) => format!("did you mean `{near}`? valid are {list}"),
        None => format!("valid are {list}"),
    };
    fault(format!("unknown {what} `{text}`"), right)
}

pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    let right = "write an address such as 192.0.2.10 or 2001:db8::10";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = format!("`{text}` is not an IP address");
    if let Some((host, _)) = text.split_once('/')
        && host.parse::<IpAddr>().is_ok()
    {
        return fault(wrong, format!("leave the prefix length out: {host}"));
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return fault(wrong, format!("write {} here and {} under `port`", socket.ip(), socket.port()));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
        && inner.parse::<IpAddr>().is_ok()
    {
        return fault(wrong, format!("leave the brackets out: {inner}"));
    }
    fault(wrong, right)
}

/// An interface's name, by the kernel's rule (`net/core/dev.c` dev_valid_name, IFNAMSIZ 16).
pub(super) fn interface(text: &str) -> Result<String, Fault> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(bad) {
        return fault(
            format!("{text:?} cannot be an interface's name"),
            "write a name of 1 to 15 bytes as `ip link` shows it, without spaces, `/` and `:`",
        );
    }
    Ok(text.to_owned())
}

/// An instance's name: part of paths, on bpffs too, which takes no dots.
pub(super) fn instance(text: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 32 || !text.chars().all(good) {
        return fault(
            format!("{text:?} cannot be an instance's name"),
            "write 1 to 32 letters, digits, `-` or `_`",
        );
    }
    Ok(text.to_owned())
}

/// A path for a unix socket: `sun_path` holds 108 bytes with the final zero (unix(7)).
pub(super) fn socket(text: &str) -> Result<PathBuf, Fault> {
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return fault(
            format!("{text:?} is not the absolute path of a file"),
            "write a path such as /run/lb/default.sock",
        );
    }
    if text.len() > 107 {
        return fault(
            format!("a socket's path may have 107 bytes, and this one has {}", text.len()),
            "write a shorter path",
        );
    }
    Ok(PathBuf::from(text))
}

/// A group's name or number; whether it exists is asked when the socket is made.
pub(super) fn group(text: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.$".contains(c);
    if text.is_empty() || text.len() > 32 || !text.chars().all(good) {
        return fault(
            format!("{text:?} cannot be a group"),
            "write a group's name or number as in /etc/group",
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_take_units() {
        let day = 1..=86400;
        for (text, seconds) in [("900", 900), ("900s", 900), ("15m", 900), ("1h", 3600), ("1d", 86400)] {
            assert_eq!(duration(text, day.clone()), Ok(seconds), "{text}");
        }
        for text in ["", "s", "1 h", "1.5h", "-1", "1H", "1ms", "0", "86401", "25h", "99999999999999999999"] {
            assert!(duration(text, day.clone()).is_err(), "{text}");
        }
        let any = 1..=u32::MAX;
        for (text, n) in [("1", 1), ("256k", 262_144), ("256K", 262_144), ("1M", 1_048_576)] {
            assert_eq!(count(text, any.clone()), Ok(n), "{text}");
        }
        for text in ["1m", "1G", "1kb", "0", "4096M", "k", "0x10", "1_000"] {
            assert!(count(text, any.clone()).is_err(), "{text}");
        }
    }

    #[test]
    fn short_durations_have_milliseconds() {
        for (text, n) in
            [("500ms", 500), ("2", 2000), ("2s", 2000), ("1m", 60_000), ("86400000ms", 86_400_000)]
        {
            assert_eq!(millis(text), Ok(Millis(n)), "{text}");
        }
        for text in ["0", "0ms", "ms", "1.5s", "1us", "86400001ms", "2d"] {
            assert!(millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_out_of_range_number_is_told_the_range() {
        let Fault { wrong, right } = number("70000", 0..=u16::MAX).unwrap_err();
        assert_eq!(
            (wrong.as_str(), right.as_str()),
            ("70000 is out of range", "write a number from 0 to 65535")
        );
        assert!(number::<u16>("99999999999999999999999", 0..=9).unwrap_err().wrong.contains("out of range"));
        assert!(number::<u16>("-1", 0..=9).unwrap_err().wrong.contains("not a whole number"));
    }

    #[test]
    fn near_misses_of_addresses_are_understood() {
        for (text, help) in [
            ("172.18.14.100/32", "leave the prefix length out: 172.18.14.100"),
            ("172.18.14.100:3306", "write 172.18.14.100 here and 3306 under `port`"),
            ("[fd00::1]", "leave the brackets out: fd00::1"),
            ("172.18.14.256", "write an address such as 192.0.2.10 or 2001:db8::10"),
        ] {
            assert_eq!(address(text).unwrap_err().right, help);
        }
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        assert!(instance("../x").is_err() && instance("a.b").is_err() && instance("lab-2").is_ok());
        assert!(interface("..").is_err() && interface("a/b").is_err() && interface("bond0.100").is_ok());
        assert!(socket("run/lb.sock").is_err() && socket(&format!("/{}", "x".repeat(107))).is_err());
    }
}
