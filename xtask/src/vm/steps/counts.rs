//! What the plugin wrote: for each window, how often each instruction ran, and how many of the kernel's it called.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// What ran between two marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// By the instruction's address.
    pub counts: BTreeMap<u64, Count>,
}

/// Of one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub ran: u64,
    /// Instructions of the kernel that ran because it called them.
    pub called: u64,
}

/// The windows of a file, in the order in which they were.
pub fn parse(text: &str) -> Result<Vec<Window>> {
    let mut windows = Vec::new();
    for line in text.lines() {
        if line == "window" {
            windows.push(Window::default());
            continue;
        }
        let parsed = windows.last_mut().zip(count(line));
        let (window, (address, count)) = parsed.with_context(|| {
            format!(
                "xtask/steps-plugin wrote `{line}`, which is no count: was it built from another checkout?"
            )
        })?;
        window.counts.insert(address, count);
    }
    Ok(windows)
}

/// `ADDRESS RAN CALLED`
fn count(line: &str) -> Option<(u64, Count)> {
    let mut words = line.split(' ');
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let count = Count { ran: words.next()?.parse().ok()?, called: words.next()?.parse().ok()? };
    Some((address, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_they_are_written() {
        let windows = parse("window\nffffffffc0000010 7 9\nwindow\n").expect("two windows");
        let count = Count { ran: 7, called: 9 };
        assert_eq!(windows, [Window { counts: [(0xffff_ffff_c000_0010, count)].into() }, Window::default()]);
        for broken in ["c0000010 7 9\n", "window\nc0000010 7\n", "window\nx 7 9\n"] {
            parse(broken).expect_err(broken);
        }
    }
}
