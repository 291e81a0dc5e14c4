//! `cargo xtask test`: every test there is, and afterwards proof that nothing of ours is left.

use std::path::Path;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::build;
use crate::cmd::Cmd;
use crate::leftovers::Before;
use crate::repo;
use crate::report::Report;
use crate::setup::{self, Group};
use crate::tally::Tally;
use crate::vm;

#[derive(ClapArgs)]
pub struct Args {
    /// Only tests whose name contains this. The VM then stays off, except for the word `vm`: only the VM
    filter: Option<String>,
}

pub fn main(args: &Args) -> Result<()> {
    repo::require_root("cargo xtask test")?;
    setup::ensure(&[Group::Build, Group::Lab, Group::Vm])?;
    let mut report = Report::default();
    steps(&mut report, args.filter.as_deref());
    report.finish()
}

/// The steps of the verb, for `ci` too.
pub fn steps(report: &mut Report, filter: Option<&str>) {
    let before = Before::look();
    if filter == Some("vm") {
        vm_steps(report);
    } else {
        report.step("unit and property tests", || {
            cargo_test(&["-p", "lb-common", "-p", "lb-userspace", "-p", "xtask"], filter, None)
        });
        report.step("kernel tests", || {
            let lb = build::lb(false)?;
            cargo_test(&["-p", "lb-tests"], filter, Some(&lb))
        });
        if filter.is_none() {
            vm_steps(report);
        }
    }
    report.finally("nothing is left behind", || before.compare().map(|()| Tally::PASSED));
}

fn vm_steps(report: &mut Report) {
    report.step("packet tests under kernel 6.1", vm::packet_tests);
    report.step("VLAN and bond labs under kernel 6.1", vm::labs);
}

/// Runs `cargo test` and counts. A run that fails without a failed test (it does not build, a test
/// program crashed) counts as one.
fn cargo_test(packages: &[&str], filter: Option<&str>, lb: Option<&Path>) -> Result<Tally> {
    let mut cmd = Cmd::cargo(["test", "--no-fail-fast"]).args(packages).args(filter);
    if let Some(lb) = lb {
        cmd = cmd.env("LB_BIN", lb);
    }
    let mut tally = Tally::NONE;
    let status = cmd.lines(|line| {
        println!("{line}");
        tally += Tally::of_line(line).unwrap_or_default();
    })?;
    if !status.success() && tally.failed == 0 {
        println!("cargo test failed without a failed test ({status}): see above");
        tally += Tally::FAILED;
    }
    Ok(tally)
}
