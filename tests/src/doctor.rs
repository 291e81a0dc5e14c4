//! `lb doctor` on a director, and what it finds.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{agent::Agent, proc::run};

/// A finding, as far as the tests look at it.
#[derive(Debug, Deserialize)]
pub struct Found {
    pub id: String,
    pub severity: String,
    pub subject: String,
    pub found: String,
    pub fix: String,
}

/// All that it says.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub findings: Vec<Found>,
    pub unknown: Vec<String>,
    pub examined: Examined,
}

/// How much it has looked at.
#[derive(Debug, Deserialize)]
pub struct Examined {
    pub interfaces: usize,
    pub vips: usize,
    pub backends: usize,
    pub probed: usize,
}

/// The machine's own finding.
const MACHINES: &str = "clock-unsynchronised";

/// What it finds.
pub fn findings(agent: &Agent) -> Result<Vec<Found>> {
    Ok(report(agent, "lab")?.findings)
}

/// The command line that asks about an instance at this agent's socket.
pub fn doctor_command(agent: &Agent, instance: &str) -> Result<Command> {
    let state = agent.state();
    let mut command =
        agent.lb_command(&["--instance", instance, "--output", "json", "doctor", "--state-dir"])?;
    command.arg(state.parent().context("the state directory has a parent")?);
    command.arg("--bpffs").arg(agent.bpffs());
    Ok(command)
}

/// What it says about an instance; its exit code must agree.
pub fn report(agent: &Agent, instance: &str) -> Result<Report> {
    report_by(doctor_command(agent, instance)?)
}

fn report_by(command: Command) -> Result<Report> {
    let ran = run(command)?;
    let report: Report = serde_json::from_str(&ran.stdout)
        .with_context(|| format!("`{}` printed:\n{}{}", ran.command, ran.stdout, ran.stderr))?;
    without_the_machine(&ran.status, report)
}

/// Its exit code agrees with what it found. Of that, what is true of the machine and not of the lab is left out: whether
/// something keeps the clock right.
fn without_the_machine(status: &ExitStatus, mut report: Report) -> Result<Report> {
    let has = |severity: &str| report.findings.iter().any(|finding| finding.severity == severity);
    let code = if has("error") {
        9
    } else if has("warning") {
        8
    } else {
        0
    };
    ensure!(status.code() == Some(code), "{status} with {report:#?}");
    let named = report.findings.iter().filter(|finding| finding.id == MACHINES).count();
    let expected = usize::from(lb::clock::is_synchronised() == Some(false));
    ensure!(named == expected, "{expected} times {MACHINES}: {report:#?}");
    report.findings.retain(|finding| finding.id != MACHINES);
    Ok(report)
}

/// It names these, in this order, and nothing else.
pub fn finds(agent: &Agent, ids: &[&str]) -> Result<Vec<Found>> {
    finds_of(agent, "lab", ids)
}

/// The same when asked as an instance.
pub fn finds_of(agent: &Agent, instance: &str, ids: &[&str]) -> Result<Vec<Found>> {
    finds_by(doctor_command(agent, instance)?, ids)
}

/// The same when asked by this command line.
pub fn finds_by(command: Command, ids: &[&str]) -> Result<Vec<Found>> {
    let found = report_by(command)?.findings;
    let named: Vec<_> = found.iter().map(|finding| finding.id.as_str()).collect();
    ensure!(named == ids, "{ids:?} were expected: {found:#?}");
    Ok(found)
}

/// All of these words are in what was seen, what it is about, or what to do.
pub fn says(finding: &Found, words: &[&str]) -> Result<()> {
    let text = format!("{} {} {}", finding.subject, finding.found, finding.fix);
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in {finding:#?}");
    Ok(())
}
