//! The agent's capabilities, and what its configuration needs of them.

use std::fs;

use super::agent::Told;
use crate::{
    doctor::judge::capability::{Facts, Uses},
    net::sysctl::Sysctl,
};

/// `holder`: of the instance's lock, which /proc/locks tells as this process sees it; the agent knows its pid only in
/// a namespace of its own, where it has one.
pub fn gather(instance: &str, told: &Told, holder: Option<u32>, unknown: &mut Vec<String>) -> Option<Facts> {
    let status = told.status.as_ref().filter(|status| status.instance == instance)?;
    let pid = holder.unwrap_or(status.pid);
    let process = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let effective = u64::from_str_radix(field(&process, "CapEff:")?, 16).ok()?;
    let Some(config) = &told.config else {
        unknown.push("which capabilities the agent needs: its configuration is not this lb's".to_owned());
        return None;
    };
    // Real, effective, saved, of the file system.
    let group = field(&process, "Gid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
    let range = Sysctl::net(&["ipv4", "ping_group_range"]).and_then(|it| it.read()).ok();
    Some(Facts {
        instance: instance.to_owned(),
        pid,
        effective,
        // Not readable: nothing is concluded.
        pings_freely: range.zip(group).is_none_or(|(range, group)| holds(&range, group)),
        uses: Uses::of(config),
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// `1 0`, with a tab between: an empty range, is the kernel's default (icmp(7)).
fn holds(range: &str, group: u32) -> bool {
    let ends: Vec<u32> = range.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    matches!(ends[..], [first, last] if (first..=last).contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_ranges() {
        let status = "Name:\tlb\nGid:\t0\t5\t0\t0\nCapEff:\t000001ffffffffff\n";
        assert_eq!(field(status, "CapEff:"), Some("000001ffffffffff"));
        assert_eq!(field(status, "CapBnd:"), None);
        assert!(holds("0\t2147483647", 0) && holds("5 5", 5));
        assert!(!holds("1\t0", 0) && !holds("", 0));
    }
}
