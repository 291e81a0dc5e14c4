//! The Rust side of a machine: nightly with core's source, bpf-linker, the checkers.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cmd::Cmd;
use crate::repo;
use crate::setup::{apt, say};

/// The version everybody uses: objects of different linkers differ in what the verifier counts.
const BPF_LINKER: &str = "0.13.0";
/// The LLVM versions that this bpf-linker has a feature for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
const MACHETE: &str = "0.9.2";
/// A nightly of LLVM 22, named in errors for those whose LLVM package is older than their nightly.
const KNOWN_GOOD: &str = "nightly-2026-05-20";

/// The toolchain that compiles lb-ebpf: `nightly`, or what the variable LB_NIGHTLY names.
pub fn nightly() -> String {
    env::var("LB_NIGHTLY").unwrap_or_else(|_| "nightly".to_owned())
}

/// Nightly, rust-src and a bpf-linker that reads what this nightly writes.
pub fn ensure_bpf_toolchain() -> Result<()> {
    let toolchain = nightly();
    if rustc(&toolchain, &["-V"]).is_err() {
        say(&toolchain, "only nightly builds core for the BPF target");
        rustup(["toolchain", "install", &toolchain, "--profile", "minimal", "--component", "rust-src"])?;
    }
    let sysroot = rustc(&toolchain, &["--print", "sysroot"])?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        say("rust-src", "the BPF target has no built core: -Z build-std compiles it from source");
        rustup(["component", "add", "rust-src", "--toolchain", &toolchain])?;
    }
    let verbose = rustc(&toolchain, &["-vV"])?;
    let llvm =
        llvm_version(&verbose).with_context(|| format!("rustc +{toolchain} -vV names no LLVM version"))?;
    ensure_bpf_linker(llvm)
}

/// rustfmt and clippy, nightly's clippy for lb-ebpf, cargo-machete.
pub fn ensure_checkers() -> Result<()> {
    for (tool, why) in [("rustfmt", "`cargo fmt`"), ("clippy", "`cargo clippy`")] {
        if Cmd::cargo([if tool == "clippy" { tool } else { "fmt" }, "--version"]).output().is_err() {
            say(tool, why);
            rustup(["component", "add", tool])?;
        }
    }
    let toolchain = nightly();
    if Cmd::cargo([&format!("+{toolchain}"), "clippy", "--version"]).output().is_err() {
        say("clippy of nightly", "lb-ebpf is linted for its BPF target");
        rustup(["component", "add", "clippy", "--toolchain", &toolchain])?;
    }
    let installed = Cmd::cargo(["machete", "--version"]).output();
    if installed.is_ok_and(|version| version.trim().ends_with(MACHETE)) {
        return Ok(());
    }
    say(&format!("cargo-machete {MACHETE}"), "finds unused dependencies; takes a minute");
    // Not optimised: that would cost another minute and save none.
    cargo_install(&format!("cargo-machete@{MACHETE}"), &["--debug"]).run()
}

/// A nightly whose LLVM no linker can read is refused before anything is built.
fn check_llvm(llvm: u32, toolchain: &str) -> Result<()> {
    ensure!(
        LINKER_LLVM.contains(&llvm),
        "{toolchain} uses LLVM {llvm}, which bpf-linker {BPF_LINKER} cannot read: install an older one with `rustup \
         toolchain install {KNOWN_GOOD} --component rust-src` and set LB_NIGHTLY={KNOWN_GOOD}"
    );
    Ok(())
}

fn ensure_bpf_linker(llvm: u32) -> Result<()> {
    check_llvm(llvm, &nightly())?;
    if let Some(linker) = find_linker()
        && is_wanted(&linker, llvm)
    {
        return Ok(());
    }
    say(
        &format!("bpf-linker {BPF_LINKER}"),
        &format!("links lb-ebpf into a BPF object; takes a minute. It must use rustc's LLVM, {llvm}"),
    );
    let prefix = ensure_llvm(llvm)?;
    // bpf-linker asks the first llvm-config in PATH, llvm-sys asks LLVM_PREFIX; without the latter
    // the link fails for want of -lLLVM.
    let path = env::join_paths(
        [prefix.join("bin")].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .context("PATH cannot be extended")?;
    let feature = format!("llvm-{llvm}");
    cargo_install(
        &format!("bpf-linker@{BPF_LINKER}"),
        &["--force", "--no-default-features", "--features", &feature],
    )
    .env("LLVM_PREFIX", &prefix)
    .env("PATH", path)
    .run()
}

/// LLVM's headers and libraries as Debian installs them.
fn ensure_llvm(version: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{version}"));
    // A user who has it elsewhere says so in LLVM_PREFIX.
    if let Some(own) = env::var_os("LLVM_PREFIX").filter(|own| !own.is_empty()) {
        return Ok(PathBuf::from(own));
    }
    if prefix.join("lib/libLLVM.so").exists() && prefix.join("bin/llvm-config").exists() {
        return Ok(prefix);
    }
    let package = format!("llvm-{version}-dev");
    if repo::find_command("apt-get").is_some() && repo::is_root() {
        apt::update_once();
        ensure!(
            apt::offers(&package),
            "{package} is needed to build bpf-linker and this distribution does not offer it: add LLVM's own packages \
             (https://apt.llvm.org, `llvm.sh {version}`), or use a nightly of LLVM 22: `rustup toolchain install \
             {KNOWN_GOOD} --component rust-src` and LB_NIGHTLY={KNOWN_GOOD}"
        );
    }
    say(&package, "bpf-linker is built against it");
    apt::install(&[&package]).with_context(|| {
        format!("LLVM {version}'s headers and shared library are missing (elsewhere than /usr/lib? set LLVM_PREFIX)")
    })?;
    Ok(prefix)
}

fn find_linker() -> Option<PathBuf> {
    repo::find_command("bpf-linker").or_else(|| {
        let home =
            env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))?;
        Some(home.join("bin/bpf-linker")).filter(|linker| linker.is_file())
    })
}

/// The right version, linked with the right LLVM (or statically with one that we cannot see).
fn is_wanted(linker: &Path, llvm: u32) -> bool {
    let version = Cmd::new(linker).arg("--version").output();
    let libraries = Cmd::new("ldd").arg(linker).output().unwrap_or_default();
    version.is_ok_and(|it| it.trim().ends_with(&format!(" {BPF_LINKER}"))) && links_llvm(&libraries, llvm)
}

fn links_llvm(libraries: &str, llvm: u32) -> bool {
    libraries.lines().map(str::trim).filter_map(|line| line.strip_prefix("libLLVM")).all(|rest| {
        // libLLVM.so.22.1 since LLVM 19, libLLVM-18.so before.
        rest.starts_with(&format!(".so.{llvm}."))
    })
}

/// The major version in the line `LLVM version: 22.1.4` of `rustc -vV`.
fn llvm_version(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

fn rustc(toolchain: &str, args: &[&str]) -> Result<String> {
    Cmd::new("rustc").arg(format!("+{toolchain}")).args(args).output()
}

fn rustup<const N: usize>(args: [&str; N]) -> Result<()> {
    check_rustup(repo::find_command("rustup").is_some(), &args)?;
    Cmd::new("rustup").args(args).run()
}

fn check_rustup(is_there: bool, args: &[&str]) -> Result<()> {
    if !is_there {
        bail!("rustup is missing (https://rustup.rs); with it, run `rustup {}`", args.join(" "));
    }
    Ok(())
}

/// With its own lock file, and the toolchain that runs us: the workspace's.
fn cargo_install(what: &str, args: &[&str]) -> Cmd {
    // Not the workspace's settings: it is built elsewhere.
    Cmd::cargo(["install", "--locked", what])
        .args(args)
        .env("CARGO_TARGET_DIR", repo::target_dir().join("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_llvm() {
        assert_eq!(llvm_version("rustc 1.97.0-nightly\nhost: x\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_version("rustc 1.97.0-nightly\n"), None);
    }

    #[test]
    fn what_cannot_be_installed_is_said_with_what_can() {
        check_llvm(22, "nightly").expect("readable");
        let error = check_llvm(24, "nightly-2027-01-01").expect_err("too new").to_string();
        let way_out = format!("rustup toolchain install {KNOWN_GOOD} --component rust-src");
        assert!(error.contains("nightly-2027-01-01 uses LLVM 24") && error.contains(&way_out), "{error}");
        check_rustup(true, &["component", "add", "clippy"]).expect("there");
        let error = check_rustup(false, &["component", "add", "clippy"]).expect_err("missing").to_string();
        assert!(error.contains("https://rustup.rs") && error.contains("`rustup component add clippy`"));
    }

    #[test]
    fn a_linker_of_another_llvm_is_not_wanted() {
        let libraries =
            "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x2)\n";
        assert!(links_llvm(libraries, 22));
        assert!(!links_llvm(libraries, 23));
        assert!(links_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x1)\n", 22), "static LLVM cannot be told");
        // A library that is gone: the linker would not start.
        assert!(!links_llvm("\tlibLLVM-18.so => not found\n", 22));
    }
}
