//! Debian's kernel 6.1: fetched once with apt, unpacked as far as a VM needs it, kept in the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;
use crate::repo;
use crate::setup::update_package_lists;

/// The oldest kernel that lb supports, as Debian names its packages.
const WANTED: &str = "linux-image-6.1.";
/// Debian's package that depends on the current kernel of the release.
const CURRENT: &str = "linux-image-amd64";

/// What is unpacked: the kernel, and the parts of the module tree that [`MODULES`] and their
/// dependencies come from.
const UNPACKED: &[&str] = &[
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch/x86/crypto/crc32c-intel.ko",
    "./lib/modules/*/kernel/crypto",
    "./lib/modules/*/kernel/drivers/net/*.ko",
    "./lib/modules/*/kernel/drivers/net/bonding",
    "./lib/modules/*/kernel/drivers/net/ipvlan",
    "./lib/modules/*/kernel/drivers/net/vmxnet3",
    "./lib/modules/*/kernel/drivers/net/vxlan",
    "./lib/modules/*/kernel/drivers/virtio",
    "./lib/modules/*/kernel/lib",
    "./lib/modules/*/kernel/net",
];

/// Modules that go into the VM, with what they depend on. A `*` at the end: all that begin so.
const MODULES: &[&str] = &[
    "veth",
    "virtio_net",
    "virtio_pci",
    // Its NIC of qemu's has LRO, and a hash table that can be set.
    "vmxnet3",
    "bridge",
    "8021q",
    "bonding",
    "macvlan",
    "dummy",
    "tun",
    "ifb",
    "sctp",
    // What sctp and ip_vs ask crypto for by name.
    "crc32c_generic",
    // The incumbent, to be compared with, and what feeds it.
    "ip_vs*",
    "pktgen",
    "ipip",
    "ip_gre",
    "ip6_tunnel",
    "ip6_gre",
    "sit",
    "fou",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "sch_netem",
    // Tracked connections, and the rule that tracks them.
    "nf_conntrack",
    "nft_ct",
];

/// A kernel on disk.
pub struct Kernel {
    pub image: PathBuf,
    /// `/lib/modules/<version>` of the unpacked tree.
    modules: PathBuf,
    pub version: String,
}

/// A module file: its path below `/lib/modules/<version>`.
pub type ModulePath = String;

/// The kernel, from the cache or else from apt.
pub fn fetch() -> Result<Kernel> {
    let cache = repo::cache_dir().join("vm");
    if let Some(kernel) = cached(&cache) {
        return Ok(kernel);
    }
    let package = current_package()?;
    eprintln!("xtask: fetching {package} (70 MB, once) into {}", cache.display());
    let tree = cache.join(&package);
    let unfinished = cache.join(format!("{package}.unfinished-{}", std::process::id()));
    let made = unpack(&package, &unfinished).and_then(|()| put(&unfinished, &tree));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    // Another xtask may have been faster; its tree is as good.
    match cached(&cache) {
        Some(kernel) => Ok(kernel),
        None => Err(made.err().unwrap_or_else(|| {
            anyhow::anyhow!("{package} has no kernel, or not all of the modules {}", MODULES.join(", "))
        })),
    }
}

/// Into the cache, in the place of one that an xtask unpacked who wanted fewer modules; that one is in the way no more.
fn put(unfinished: &Path, tree: &Path) -> Result<()> {
    if tree.exists() {
        let mut old = unfinished.to_owned();
        old.as_mut_os_string().push("-old");
        fs::rename(tree, &old)
            .and_then(|()| fs::remove_dir_all(&old))
            .with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    fs::rename(unfinished, tree).context("cannot put the kernel into the cache")
}

impl Kernel {
    /// Whether every module that is wanted is there: not in one that was unpacked before somebody wanted more.
    fn has_all(&self) -> bool {
        let dependencies = fs::read_to_string(self.modules.join("modules.dep")).unwrap_or_default();
        MODULES.iter().all(|wanted| !closure(&dependencies, &[wanted]).is_empty())
    }

    /// The files of the modules that a VM gets, in their order on disk, and the indexes of modprobe.
    pub fn module_files(&self) -> Result<(PathBuf, BTreeSet<ModulePath>)> {
        let dependencies = repo::read(&self.modules.join("modules.dep"))?;
        let mut files = closure(&dependencies, MODULES);
        for index in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
            if self.modules.join(index).is_file() {
                files.insert(index.to_owned());
            }
        }
        Ok((self.modules.clone(), files))
    }
}

fn cached(cache: &Path) -> Option<Kernel> {
    let trees = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    let complete = trees.filter(|tree| {
        let name = tree.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(WANTED) && !name.contains("unfinished")
    });
    let mut complete: Vec<_> = complete.collect();
    // The newest by name is not always the newest, but any 6.1 will do.
    complete.sort();
    complete.iter().rev().filter_map(|tree| open(tree).ok()).find(Kernel::has_all)
}

fn open(tree: &Path) -> Result<Kernel> {
    let modules = only_entry(&tree.join("lib/modules"))?;
    let image = only_entry(&tree.join("boot"))?;
    let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Kernel { image, modules, version })
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", dir.display()))??;
    Ok(entry.path())
}

fn current_package() -> Result<String> {
    let find = || {
        let depends = Cmd::new("apt-cache").args(["depends", CURRENT]).output().unwrap_or_default();
        image_in(&depends).map(str::to_owned)
    };
    if let Some(package) = find() {
        return Ok(package);
    }
    // On a machine whose lists of packages were never fetched apt knows nothing yet.
    update_package_lists();
    find().with_context(|| {
        format!(
            "apt offers no {CURRENT} of kernel 6.1: it is in Debian 12 (bookworm). On another release, download \
             linux-image-6.1.*-amd64 from packages.debian.org/bookworm and unpack it with `dpkg-deb -x` into {}",
            repo::cache_dir().join("vm/linux-image-6.1.0-amd64").display()
        )
    })
}

/// The kernel package in the output of `apt-cache depends`.
fn image_in(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(WANTED))
}

fn unpack(package: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let download = || Cmd::new("apt-get").args(["download", "-q", package]).dir(into).run();
    if download().is_err() {
        // Lists older than the archive name a file that is gone.
        update_package_lists();
        download().with_context(|| format!("cannot download {package}"))?;
    }
    let package = fs::read_dir(into)?.flatten().map(|entry| entry.path());
    let package = package.into_iter().find(|path| path.extension().is_some_and(|it| it == "deb"));
    let package = package.context("apt-get downloaded no package")?;
    // A shell for the pipe only; everything comes in as arguments.
    let pipe = r#"deb=$1; shift; dpkg-deb --fsys-tarfile "$deb" | tar -x --wildcards --no-wildcards-match-slash "$@""#;
    Cmd::new("sh").args(["-c", pipe, "unpack"]).arg(&package).args(UNPACKED).dir(into).run()?;
    fs::remove_file(&package)?;
    let Kernel { version, .. } = open(into)?;
    Cmd::new("busybox").args(["depmod", "-b"]).arg(into).arg(&version).run()?;
    if !into.join("lib/modules").join(&version).join("modules.dep").is_file() {
        bail!("`busybox depmod` wrote no modules.dep: install busybox-static, whose busybox has depmod");
    }
    Ok(())
}

/// The wanted modules and all that they need, out of modules.dep
/// (`path/a.ko: path/b.ko path/c.ko`).
fn closure(dependencies: &str, wanted: &[&str]) -> BTreeSet<ModulePath> {
    let mut files = BTreeSet::new();
    for line in dependencies.lines() {
        let Some((module, needs)) = line.split_once(':') else { continue };
        let name = module.rsplit('/').next().unwrap_or(module).trim_end_matches(".ko");
        let is_wanted = wanted.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *wanted,
        });
        if is_wanted {
            // depmod writes all of them, not only the direct ones.
            files.extend(needs.split_whitespace().chain([module]).map(str::to_owned));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kernel_package() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(image_in(depends), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(image_in("linux-image-amd64\n  Depends: linux-image-6.12.1-amd64\n"), None);
    }

    #[test]
    fn modules_bring_what_they_need() {
        let dependencies = "kernel/net/ip_vs.ko: kernel/lib/crc.ko kernel/net/nf.ko\n\
                            kernel/net/ip_vs_rr.ko: kernel/net/ip_vs.ko\n\
                            kernel/net/wifi.ko: kernel/lib/arc4.ko\nkernel/veth.ko:\n";
        let files: Vec<_> = closure(dependencies, &["ip_vs*", "veth"]).into_iter().collect();
        let expected = [
            "kernel/lib/crc.ko",
            "kernel/net/ip_vs.ko",
            "kernel/net/ip_vs_rr.ko",
            "kernel/net/nf.ko",
            "kernel/veth.ko",
        ];
        assert_eq!(files, expected);
    }
}
