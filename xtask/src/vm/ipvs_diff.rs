//! `cargo xtask vm ipvs-diff`: our data plane beside the kernel's IPVS, in one VM.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use super::Job;
use crate::cmd::Cmd;
use crate::metadata;
use crate::repo;
use crate::setup::{self, Group};

/// The program of lb-tests that compares.
const PROGRAM: &str = "ipvs_diff";
/// Its schedulers load on demand.
const MODULES: &[&str] = &["ip_vs"];
/// No clock watches the TSC, which would wake the VM twice a second; and a small table of connections, which is read
/// whole after every step.
const KERNEL_ARGS: &str = "tsc=reliable ip_vs.conn_tab_bits=8";
/// What the kernel says on the console, now and then, of what the scripts do on purpose.
const NOISE: &str = " - no destination available";
/// Starting, then scripts of each scheduler. On a busy machine.
const LIMIT: Duration = Duration::from_secs(3600);
/// What `cargo xtask test` has the time for: 200 s beside a build on two CPUs.
const SHORT: Args = Args { scripts: Some(1), seed: None, scheduler: None };

#[derive(ClapArgs)]
pub struct Args {
    /// Scripts of each scheduler
    #[arg(long)]
    scripts: Option<u64>,
    /// Seed of the first script; the next has the next one
    #[arg(long)]
    seed: Option<u64>,
    /// Only this scheduler
    #[arg(long)]
    scheduler: Option<String>,
}

/// One script of each scheduler.
pub fn short() -> Result<()> {
    main(&SHORT)
}

pub fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    super::check_tools(|tool| repo::find_command(tool).is_some())?;
    metadata::require_target("lb-tests", "bin", PROGRAM)?;
    Cmd::cargo(["build", "-p", "lb-tests", "--bin", PROGRAM]).run()?;
    let mut job = Job::new(repo::target_dir().join("debug").join(PROGRAM), &[]);
    job.args = args.words();
    job.commands = vec!["ipvsadm".to_owned()];
    job.modules = MODULES.iter().map(|&module| module.to_owned()).collect();
    job.kernel_args = KERNEL_ARGS;
    job.limit = LIMIT;
    // Clocks that count instructions: while all sleep, time jumps to the next timer, so waiting costs nothing.
    job.icount = true;
    let status = job.run(|line| {
        if !line.contains(NOISE) {
            println!("{line}");
        }
    })?;
    ensure!(status == 0, "lb differs from IPVS, or the comparison broke off (status {status}): see above");
    Ok(())
}

impl Args {
    /// For the program, which has the same options.
    fn words(&self) -> Vec<String> {
        let option = |name: &str, value: Option<String>| value.map(|value| [format!("--{name}"), value]);
        let options = [
            option("scripts", self.scripts.map(|it| it.to_string())),
            option("seed", self.seed.map(|it| it.to_string())),
            option("scheduler", self.scheduler.clone()),
        ];
        options.into_iter().flatten().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    #[test]
    fn options_are_passed_on() {
        let args = Args { scripts: Some(3), seed: None, scheduler: Some("wrr".to_owned()) };
        assert_eq!(args.words(), ["--scripts", "3", "--scheduler", "wrr"]);
    }
}
