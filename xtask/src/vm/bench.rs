//! `cargo xtask bench --vm`: our director and the kernel's IPVS in one VM that counts instructions.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Job;
use crate::build;
use crate::cmd::Cmd;
use crate::metadata;
use crate::repo;
use crate::setup::{self, Group};

/// The program of lb-tests that measures.
const PROGRAM: &str = "vm_bench";
/// Its last line, which is for `--json`.
const JSON: &str = "VM-BENCH-JSON: ";
/// IPVS's schedulers load on demand.
const MODULES: &[&str] = &["ip_vs", "pktgen", "dummy"];
/// No clock watches the TSC, which would wake the VM twice a second; and the largest table of connections that IPVS
/// has, so that its chains are short.
const KERNEL_ARGS: &str = "tsc=reliable ip_vs.conn_tab_bits=20";
/// Three minutes on a quiet machine, nine at a load of 12, more where others come first.
const LIMIT: Duration = Duration::from_secs(1700);

/// Measures; the table on standard output, and into `json` if given.
pub fn main(json: Option<&Path>) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Vm])?;
    super::check_tools(|tool| repo::find_command(tool).is_some())?;
    metadata::require_target("lb-tests", "bin", PROGRAM)?;
    Cmd::cargo(["build", "-p", "lb-tests", "--bin", PROGRAM]).run()?;
    let mut job = Job::new(repo::target_dir().join("debug").join(PROGRAM), &[]);
    job.files.push((build::lb(false)?, super::LB.into()));
    job.envs.push(("LB_BIN".to_owned(), super::LB.to_owned()));
    job.commands = ["ipvsadm", "chrt"].map(str::to_owned).to_vec();
    job.modules = MODULES.iter().map(|&module| module.to_owned()).collect();
    job.kernel_args = KERNEL_ARGS;
    job.limit = LIMIT;
    job.icount = true;
    let mut report = None;
    let status = job.run(|line| match line.strip_prefix(JSON) {
        Some(text) => report = Some(format!("{}\n", text.trim_end())),
        None => println!("{line}"),
    })?;
    ensure!(status == 0, "the bench broke off in the VM (status {status}): see above");
    let report = report.context("the bench printed no figures in the VM")?;
    match json {
        Some(file) => fs::write(file, report).with_context(|| format!("cannot write {}", file.display())),
        None => Ok(()),
    }
}
