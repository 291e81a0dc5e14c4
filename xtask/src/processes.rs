//! What /proc says about other processes. All of it is a snapshot: a process that went away in
//! the middle is simply not in it.

use std::collections::HashMap;
use std::fs;

use crate::cmd::RUN_MARK;

/// A process that our run started, directly or not.
pub struct Marked {
    pub pid: u32,
    /// Its command line, for people.
    pub command: String,
    /// The xtask that started it.
    pub run: u32,
}

/// All descendants of a process, nearest first.
pub fn descendants(ancestor: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(parent) = next.pop() {
        let of_parent = children.remove(&parent).unwrap_or_default();
        found.extend(&of_parent);
        next.extend(of_parent);
    }
    found
}

/// Every process that carries the mark of some xtask run in its environment, this one excepted.
pub fn marked() -> Vec<Marked> {
    let own = std::process::id();
    pids()
        .filter(|&pid| pid != own)
        .filter_map(|pid| Some(Marked { pid, command: command(pid), run: mark(pid)? }))
        .collect()
}

/// The processes whose network namespace is the one bound to `netns` (an inode number).
pub fn in_netns(netns: u64) -> Vec<u32> {
    let here = format!("net:[{netns}]");
    pids()
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.as_os_str() == here.as_str())
        })
        .collect()
}

/// The command line of a process, for people.
pub fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim().to_owned()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// proc(5): field 4 of stat, counted after the command name in parentheses, which may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

fn mark(pid: u32) -> Option<u32> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ
        .split(|&byte| byte == 0)
        .find_map(|pair| pair.strip_prefix(RUN_MARK.as_bytes())?.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_a_marked_descendant_and_forgets_it() {
        let mut child = Command::new("cat")
            .env(RUN_MARK, "4242")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat starts");
        let pid = child.id();
        assert!(descendants(std::process::id()).contains(&pid));
        let found = marked().into_iter().find(|process| process.pid == pid).expect("the mark is seen");
        assert_eq!((found.run, found.command.as_str()), (4242, "cat"));
        drop(child.stdin.take());
        child.wait().expect("cat ends with its input");
        assert!(!descendants(std::process::id()).contains(&pid));
        assert!(marked().iter().all(|process| process.pid != pid));
    }
}
