//! Numbers for people. Programs get the exact ones in JSON.

/// Packets, connections: exact below 100 000, then three significant digits with k, M, G, ...
pub fn count(n: u64) -> String {
    if n < 100_000 { n.to_string() } else { scaled(n as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"]) }
}

/// Bytes in binary units: `539B`, `1.21KiB`, `115GiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Events per second.
pub fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        r if r < 10.0 => format!("{r:.1}"),
        r if r < 99_999.5 => format!("{r:.0}"),
        r => scaled(r, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// Bytes per second, as [`bytes`].
pub fn bytes_per_second(rate: f64) -> String {
    bytes(rate.round() as u64)
}

/// A duration in its two largest units: `26h 3m` never, `1d 2h`.
pub fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, ..) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

/// `part` of `whole` in percent; a whole of nothing is 0 %.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Three significant digits in the unit in which they are below `base`; without a unit no decimals.
fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would print as 1000, 1023.5 as 1024: go on to the next unit first.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_while_short() {
        let shown = [0, 99_999, 100_000, 999_499, 999_500, 1_234_567, 98_765_432, u64::MAX].map(count);
        assert_eq!(shown, ["0", "99999", "100k", "999k", "1.00M", "1.23M", "98.8M", "18.4E"]);
    }

    #[test]
    fn bytes_are_binary() {
        let shown = [0, 539, 1023, 1024, 1_240, 123_456_789_012, u64::MAX].map(bytes);
        assert_eq!(shown, ["0B", "539B", "1023B", "1.00KiB", "1.21KiB", "115GiB", "16.0EiB"]);
    }

    #[test]
    fn rates_keep_a_decimal_while_small() {
        assert_eq!([0.0, 0.04, 9.5, 42.4, 99_999.9].map(per_second), ["0", "0.0", "9.5", "42", "100k"]);
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!([7, 61, 3_661, 93_784].map(duration), ["7s", "1m 1s", "1h 1m", "1d 2h"]);
    }
}
