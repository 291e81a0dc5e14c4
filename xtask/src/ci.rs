//! `cargo xtask ci`: everything that has to hold before a change is taken, in the order of its cost.

use anyhow::Result;

use crate::check;
use crate::lab;
use crate::repo;
use crate::report::Report;
use crate::setup::{self, Group};
use crate::test;
use crate::tidy;

pub fn main() -> Result<()> {
    repo::require_root("cargo xtask ci")?;
    let mut report = Report::default();
    report.check("setup", || setup::ensure(Group::ALL));
    report.check("rustfmt", || check::fmt(true));
    report.check("tidy", tidy::main);
    report.check("clippy", check::lint_host);
    report.check("clippy for BPF", check::lint_bpf);
    report.check("unused dependencies", check::unused_dependencies);
    test::steps(&mut report, test::Scope::All);
    report.check("demo", || lab::demo(lab::What::Connections, false));
    report.check("demo health", || lab::demo(lab::What::Health, false));
    report.finish()
}
