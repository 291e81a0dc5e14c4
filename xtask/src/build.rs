//! `cargo xtask build`: the `lb` binary; its build script builds the XDP program into it.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use crate::clock::Stopwatch;
use crate::cmd::Cmd;
use crate::repo;
use crate::setup::{self, Group};

#[derive(ClapArgs)]
pub struct Args {
    /// Optimised, as it is shipped
    #[arg(long)]
    release: bool,
}

pub fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    let watch = Stopwatch::start();
    let binary = lb(args.release)?;
    println!("built {} in {watch}", binary.display());
    Ok(())
}

/// Builds `lb` and returns the path of the binary. Everybody who starts `lb` gets it as `LB_BIN`.
pub fn lb(release: bool) -> Result<PathBuf> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    Cmd::cargo(["build", "-p", "lb-userspace", "--bin", "lb"]).args(profile).run()?;
    let binary = repo::target_dir().join(if release { "release" } else { "debug" }).join("lb");
    ensure!(
        binary.is_file(),
        "cargo built lb, but {} is not there: is CARGO_BUILD_TARGET set? unset it",
        binary.display()
    );
    Ok(binary)
}
