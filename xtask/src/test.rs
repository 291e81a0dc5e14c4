//! `cargo xtask test`: every test there is, and afterwards proof that nothing of ours is left.

use std::thread::available_parallelism;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::build;
use crate::cmd::Cmd;
use crate::leftovers::Before;
use crate::repo;
use crate::report::Report;
use crate::setup::{self, Group};
use crate::tally::Tally;
use crate::verified;
use crate::vm;

#[derive(ClapArgs)]
pub struct Args {
    /// Only tests whose name contains this. The VM then stays off, except for the word `vm`: only the VM
    filter: Option<String>,
    /// Leave kernel 6.1 out, on a machine without qemu or without Debian's packages; without this it is a failure
    /// there
    #[arg(long)]
    without_vm: bool,
}

const UNIT: &[&str] = &["-p", "lb-common", "-p", "lb-userspace", "-p", "xtask", "-p", "steps-plugin"];
/// The tests of lb-tests: all that run on this machine's kernel.
const PACKETS: &[&str] = &["-p", "lb-tests", "--lib", "--test", "packets"];
const LABS: &[&str] = &["-p", "lb-tests", "--test", "harness", "--test", "lab"];
/// Labs wait for most of their time.
const LABS_A_CPU: usize = 2;

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    All,
    WithoutVm,
    Named(&'a str),
    OnlyVm,
}

impl Args {
    fn scope(&self) -> Scope<'_> {
        match self.filter.as_deref() {
            Some("vm") => Scope::OnlyVm,
            Some(filter) => Scope::Named(filter),
            None if self.without_vm => Scope::WithoutVm,
            None => Scope::All,
        }
    }
}

impl<'a> Scope<'a> {
    fn needs_vm(self) -> bool {
        matches!(self, Self::All | Self::OnlyVm)
    }

    /// The word that test names must have, outside the VM.
    fn filter(self) -> Option<&'a str> {
        match self {
            Self::Named(filter) => Some(filter),
            _ => None,
        }
    }
}

pub fn main(args: &Args) -> Result<()> {
    repo::require_root("cargo xtask test")?;
    let scope = args.scope();
    setup::ensure(&[Group::Build, Group::Lab])?;
    if scope.needs_vm() {
        setup::ensure(&[Group::Vm])?;
    }
    let mut report = Report::default();
    steps(&mut report, scope);
    if scope == Scope::WithoutVm {
        println!("\nNOT TESTED, as asked for: kernel 6.1, VLAN devices and bonds, IPVS beside us");
    }
    report.finish()
}

/// The steps of the verb, for `ci` too.
pub fn steps(report: &mut Report, scope: Scope<'_>) {
    let before = Before::look();
    if scope != Scope::OnlyVm {
        let filter = scope.filter();
        report.step("unit and property tests", || cargo_test(UNIT, filter, |cmd| cmd));
        verified::forget();
        report.step("packet tables", || cargo_test(PACKETS, filter, |cmd| cmd));
        report.note(verified::line());
        report.step("labs", || {
            let lb = build::lb(false)?;
            let threads = available_parallelism()?.get() * LABS_A_CPU;
            cargo_test(LABS, filter, |cmd| {
                cmd.env("LB_BIN", &lb).env("RUST_TEST_THREADS", threads.to_string())
            })
        });
    }
    if scope.needs_vm() {
        vm_steps(report);
    }
    report.finally("nothing is left behind", || before.compare().map(|()| Tally::PASSED));
}

fn vm_steps(report: &mut Report) {
    report.step("packet tests under kernel 6.1", vm::packet_tests);
    report.step("instructions of a packet under kernel 6.1", vm::counts);
    report.step("VLAN and bond labs under kernel 6.1", vm::labs);
    report.check("the kernel's IPVS does the same, in a short form of `vm ipvs-diff`", vm::ipvs_diff);
}

/// Runs `cargo test`, with whatever `surroundings` adds, and counts. A run that fails without a failed test (it does not
/// build, a test program crashed) counts as one.
fn cargo_test(
    targets: &[&str],
    filter: Option<&str>,
    surroundings: impl FnOnce(Cmd) -> Cmd,
) -> Result<Tally> {
    let mut tally = Tally::NONE;
    let status =
        surroundings(Cmd::cargo(["test", "--no-fail-fast"]).args(targets).args(filter)).lines(|line| {
            println!("{line}");
            tally += Tally::of_line(line).unwrap_or_default();
        })?;
    if !status.success() && tally.failed == 0 {
        println!("cargo test failed without a failed test ({status}): see above");
        tally += Tally::FAILED;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata;

    #[test]
    fn no_target_of_lb_tests_is_forgotten() {
        let named = [PACKETS, LABS].concat();
        let named = named.windows(2).filter(|pair| pair[0] == "--test").map(|pair| pair[1].to_owned());
        let mut named: Vec<_> = named.collect();
        named.sort();
        assert_eq!(metadata::test_targets("lb-tests").expect("cargo metadata"), named);
    }

    #[test]
    fn the_vm_is_left_out_only_if_asked_for() {
        let scope = |filter: Option<&str>, without_vm| {
            let args = Args { filter: filter.map(str::to_owned), without_vm };
            (args.scope().needs_vm(), args.scope().filter().map(str::to_owned))
        };
        assert_eq!(scope(None, false), (true, None));
        assert_eq!(scope(None, true), (false, None));
        assert_eq!(scope(Some("vm"), false), (true, None));
        assert_eq!(scope(Some("spread"), false), (false, Some("spread".to_owned())));
    }
}
