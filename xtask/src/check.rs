//! The checks that read sources only: formatting, lints, unused dependencies.

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::cmd::Cmd;
use crate::setup::{self, Group, nightly};
use crate::vm;

#[derive(ClapArgs)]
pub struct FmtArgs {
    /// Only say what is not formatted, and fail then
    #[arg(long)]
    pub check: bool,
}

pub fn fmt(check: bool) -> Result<()> {
    let check: &[&str] = if check { &["--", "--check"] } else { &[] };
    Cmd::cargo(["fmt", "--all"]).args(check).run()
}

pub fn lint() -> Result<()> {
    setup::ensure(&[Group::Build, Group::Ci])?;
    // Both, so that one run shows everything.
    let host = lint_host();
    lint_bpf().and(host)
}

/// Every crate but lb-ebpf, which has no `std` and no host to be linted for.
pub fn lint_host() -> Result<()> {
    let clippy = |what: &[&str]| Cmd::cargo(["clippy"]).args(what).args(["--", "-D", "warnings"]).run();
    clippy(&["--workspace", "--exclude", "lb-ebpf", "--all-targets"])?;
    // What runs only in the VM is no test of this machine, so not among all targets.
    clippy(&["-p", "lb-tests", "--test", vm::LAB_TARGET, "--test", vm::COUNT_TARGET])?;
    // The bench builds programs of its own, which nothing else needs.
    clippy(&["-p", "lb-tests", "--features", "bench", "--bin", "bench"])
}

/// lb-ebpf as it is built: nightly, for the BPF target, core from source. `bpf_target_arch` is
/// aya-ebpf's switch for the layout of the host's registers; cpu v3 has the atomics.
pub fn lint_bpf() -> Result<()> {
    let flags = [r#"--cfg=bpf_target_arch="x86_64""#, "-Ctarget-cpu=v3"].join("\x1f");
    for features in ["bench", "explain", "lru", "stub", "trace"] {
        Cmd::cargo([&format!("+{}", nightly()), "clippy", "-p", "lb-ebpf", "--bins", "--release"])
            .args(["--features", features])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"])
            .env("CARGO_ENCODED_RUSTFLAGS", &flags)
            .run()?;
    }
    Ok(())
}

pub fn unused_dependencies() -> Result<()> {
    setup::ensure(&[Group::Ci])?;
    // Directories by name: without them it would also walk target/.
    Cmd::cargo(["machete", "lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"]).run()
}
