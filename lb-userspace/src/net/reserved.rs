//! Ports that the kernel gives to nobody by itself (`net.ipv4.ip_local_reserved_ports`, both families).

use std::{iter, ops::RangeInclusive};

use super::sysctl::{Error, Sysctl};

/// Ranges of ports, in rising order.
pub type Ranges = Vec<(u16, u16)>;

fn sysctl() -> Result<Sysctl, Error> {
    Sysctl::net(&["ipv4", "ip_local_reserved_ports"])
}

/// Which of these ports are not reserved yet.
pub fn missing(wanted: RangeInclusive<u16>) -> Result<Ranges, Error> {
    let reserved = parse(&sysctl()?.read()?);
    Ok(ranges(|port| wanted.contains(&port) && !reserved[usize::from(port)]))
}

/// Reserves ports, or gives them back; others stay as they are.
pub fn set(which: &[(u16, u16)], reserve: bool) -> Result<(), Error> {
    let sysctl = sysctl()?;
    let before = parse(&sysctl.read()?);
    let is_meant = |port| which.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let after = ranges(|port| if is_meant(port) { reserve } else { before[usize::from(port)] });
    sysctl.write(text(&after))
}

/// As the kernel lists them: `80,61000-61099` (`proc_do_large_bitmap`).
fn parse(text: &str) -> Vec<bool> {
    let mut reserved = vec![false; usize::from(u16::MAX) + 1];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (first..=last).for_each(|port| reserved[usize::from(port)] = true);
        }
    }
    reserved
}

fn ranges(has: impl Fn(u16) -> bool) -> Ranges {
    let mut ranges = Ranges::new();
    for port in (0..=u16::MAX).filter(|port| has(*port)) {
        match ranges.last_mut() {
            Some((_, last)) if *last == port - 1 => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

/// An empty list is written as a newline: the kernel takes no empty write.
fn text(ranges: &[(u16, u16)]) -> String {
    let parts: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    parts.join(",").chars().chain(iter::once('\n')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_has_them() {
        for list in ["", "0", "80", "8080,9000-9003", "1,3,5-7,65535", "61000-64999"] {
            let reserved = parse(list);
            assert_eq!(text(&ranges(|port| reserved[usize::from(port)])), format!("{list}\n"));
        }
        assert!(!parse("odd,5-x,").contains(&true));
    }
}
