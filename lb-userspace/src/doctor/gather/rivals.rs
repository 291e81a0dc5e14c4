//! IPVS, and keepalived in this network namespace.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::keepalived::read;
use crate::doctor::judge::{
    keepalived::Servers,
    rivals::{Facts, Keepalived, ipvs_marks, ipvs_servers, marks},
};

pub fn gather(vips: BTreeSet<IpAddr>, unknown: &mut Vec<String>) -> Facts {
    // No file: no IPVS in this kernel, or not loaded.
    let table = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    let keepalived = keepalived(unknown);
    unknown.extend(marks(&ipvs_marks(&table), &keepalived));
    Facts { vips, ipvs: ipvs_servers(&table), keepalived }
}

fn keepalived(unknown: &mut Vec<String>) -> Vec<Keepalived> {
    let Ok(here) = fs::metadata("/proc/thread-self/ns/net") else { return Vec::new() };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter_map(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        let is_keepalived = fs::read_to_string(process.join("comm")).ok()?.trim() == "keepalived";
        let namespace = fs::metadata(process.join("ns/net")).ok()?;
        // Its children bear its name: what it was started as is its parent's.
        let is_first = is_keepalived && parent_name(&process)? != "keepalived";
        if !is_first || (namespace.dev(), namespace.ino()) != (here.dev(), here.ino()) {
            return None;
        }
        let config = config_path(&fs::read_to_string(process.join("cmdline")).ok()?);
        let servers = Servers::of(&read(&config, unknown));
        Some(Keepalived { pid, config, servers })
    });
    found.collect()
}

fn parent_name(process: &Path) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
    let name = fs::read_to_string(Path::new("/proc").join(parent).join("comm"));
    Some(name.map(|name| name.trim().to_owned()).unwrap_or_default())
}

/// `-f FILE`, `-fFILE`, `--use-file FILE`, `--use-file=FILE` (keepalived(8)).
fn config_path(command_line: &str) -> PathBuf {
    let words: Vec<&str> = command_line.split('\0').collect();
    let given = words.iter().enumerate().find_map(|(n, word)| match *word {
        "-f" | "--use-file" => words.get(n + 1).copied(),
        word => {
            word.strip_prefix("--use-file=").or_else(|| word.strip_prefix("-f").filter(|it| !it.is_empty()))
        }
    });
    given.unwrap_or("/etc/keepalived/keepalived.conf").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_command_line() {
        for (line, path) in [
            ("keepalived\0-n\0-f\0/a.conf\0", "/a.conf"),
            ("keepalived\0--use-file=/a.conf\0-l\0", "/a.conf"),
            ("keepalived\0-f/a.conf\0", "/a.conf"),
            ("keepalived\0-n\0", "/etc/keepalived/keepalived.conf"),
        ] {
            assert_eq!(config_path(line), Path::new(path));
        }
    }
}
