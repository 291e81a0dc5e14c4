//! Installing Debian packages: as root, on Debian and its descendants, without starting services.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;
use crate::repo;
use crate::setup::packages::Package;
use crate::setup::say;

/// Asked by Debian's maintainer scripts before they start a service (Debian policy 9.3.3.1).
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// 101: "action forbidden by policy".
const FORBID: &str = "#!/bin/sh\n# by lb's `cargo xtask setup`, only while it installs packages\nexit 101\n";

/// Installs packages; nothing to do for an empty list.
pub fn ensure(missing: &[&Package]) -> Result<()> {
    for package in missing {
        say(package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    install(&names)
}

/// Installs packages by name.
pub fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    check_possible(&list, repo::find_command("apt-get").is_some(), repo::is_root())?;
    update_once();
    let _no_services = NoServices::begin()?;
    Cmd::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "-q"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()
        .with_context(|| format!("these packages could not be installed: {list}; apt-get says above why"))
}

/// Where we cannot act, the error says exactly what to do by hand.
fn check_possible(list: &str, has_apt: bool, is_root: bool) -> Result<()> {
    if !has_apt {
        bail!(
            "this is not Debian or Ubuntu: install by hand what these Debian packages contain: {list} \
             (`cargo xtask setup` looks for their commands in PATH and in the sbin directories)"
        );
    }
    if !is_root {
        bail!("installing packages needs root: run `sudo apt-get install --no-install-recommends {list}`");
    }
    Ok(())
}

/// Whether apt knows a package by that name.
pub fn offers(name: &str) -> bool {
    repo::find_command("apt-cache").is_some()
        && Cmd::new("apt-cache").args(["policy", name]).output().is_ok_and(|policy| has_candidate(&policy))
}

/// Fetches the lists of packages, once in a run. A broken third-party source is no reason to stop:
/// if a list that matters is missing, the installation fails and says so.
pub fn update_once() {
    static UPDATED: Once = Once::new();
    UPDATED.call_once(|| {
        let update = Cmd::new("apt-get").args(["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive");
        if let Err(error) = update.run() {
            eprintln!("setup: going on with the package lists that are there: {error:#}");
        }
    });
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
}

/// While it lives, packages start no services. A policy that the machine already has stays in force.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            say(
                POLICY,
                "forbids packages to start services during the installation; removed again afterwards",
            );
            fs::write(POLICY, FORBID).with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("cannot make {POLICY} executable"))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: cannot remove {POLICY}, remove it by hand: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_install_is_told_what_to_install() {
        check_possible("jq tcpdump", true, true).expect("possible");
        let said = |has_apt, root| {
            check_possible("jq tcpdump", has_apt, root).expect_err("not possible").to_string()
        };
        let command = "`sudo apt-get install --no-install-recommends jq tcpdump`";
        assert!(said(true, false).contains(command), "{}", said(true, false));
        for root in [true, false] {
            let text = said(false, root);
            assert!(text.contains("not Debian or Ubuntu") && text.contains("jq tcpdump"), "{text}");
            assert!(!text.contains("apt-get install"), "it has none: {text}");
        }
    }

    #[test]
    fn nothing_to_install_is_no_error() {
        install(&[]).expect("nothing to do, whoever we are");
    }

    #[test]
    fn a_package_is_offered_if_it_has_a_candidate() {
        assert!(has_candidate("jq:\n  Installed: (none)\n  Candidate: 1.6-2\n"));
        assert!(!has_candidate("jq:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
