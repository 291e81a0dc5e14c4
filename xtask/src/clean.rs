//! `cargo xtask clean`: takes away what broken runs left. What a living process still uses stays,
//! and so do the pins under /sys/fs/bpf: they may be those of an lb in service on this host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cmd::Cmd;
use crate::leftovers::{self, Leftover, NETNS_DIR};
use crate::processes;
use crate::repo;
use crate::sys;

pub fn main() -> Result<()> {
    repo::require_root("cargo xtask clean")?;
    let orphans = processes::marked().into_iter().filter(|it| !processes::command(it.run).contains("xtask"));
    for orphan in orphans {
        println!("killing process {}: {}", orphan.pid, orphan.command);
        sys::kill(orphan.pid, libc::SIGKILL);
    }
    // BTreeSet order would remove directories before the mounts in them.
    let (mounts, others): (Vec<_>, Vec<_>) =
        leftovers::things().into_iter().partition(|it| matches!(it, Leftover::Mount(_)));
    if mounts.is_empty() && others.is_empty() {
        println!("nothing of ours is left on this machine");
    }
    mounts.iter().chain(&others).try_for_each(remove)
}

fn remove(thing: &Leftover) -> Result<()> {
    match thing {
        Leftover::Directory(path) => {
            println!("removing {thing}");
            fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        Leftover::Interface(name) => Cmd::new("ip").args(["link", "delete", name]).run(),
        Leftover::Mount(path) => Cmd::new("umount").arg("--lazy").arg(path).run(),
        Leftover::Namespace(name) => remove_namespace(name),
        Leftover::Pin(_) => {
            println!("leaving {thing}: if no lb serves on this host, `lb detach` removes it");
            Ok(())
        }
        Leftover::Process { pid, .. } => {
            println!("killing {thing}");
            sys::kill(*pid, libc::SIGKILL);
            Ok(())
        }
    }
}

fn remove_namespace(name: &str) -> Result<()> {
    // The file of a namespace that is not mounted any more has an inode of its own file system:
    // then no process is found, and `ip` removes the file.
    let inode = fs::metadata(Path::new(NETNS_DIR).join(name)).map(|meta| meta.ino()).unwrap_or_default();
    for pid in processes::in_netns(inode) {
        println!("killing process {pid} in {name}: {}", processes::command(pid));
        sys::kill(pid, libc::SIGKILL);
    }
    Cmd::new("ip").args(["netns", "delete", name]).run()
}
