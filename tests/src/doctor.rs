//! `lb doctor` on a director, and what it finds.

use std::{
    collections::BTreeSet,
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};
use lb::doctor::Id;
use serde::{Deserialize, Deserializer, de::Error};

use crate::{agent::Agent, proc::run};

/// A finding, as far as the tests look at it.
#[derive(Debug, Deserialize)]
pub struct Found {
    #[serde(deserialize_with = "id")]
    pub id: Id,
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

fn id<'de, D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
    let name = String::deserialize(from)?;
    let found = Id::ALL.iter().find(|id| id.name() == name);
    found.copied().ok_or_else(|| D::Error::custom(format!("no finding has the name {name}")))
}

/// The machine's own finding.
const MACHINES: Id = Id::ClockUnsynchronised;

/// A finding that some lab of this binary provokes: [`finds!`] and [`names!`] make one where they assert it.
pub struct Provoked(pub Id);

inventory::collect!(Provoked);

/// All of this binary.
pub fn provoked() -> BTreeSet<Id> {
    inventory::iter::<Provoked>().map(|provoked| provoked.0).collect()
}

/// What can only be provoked where the machine itself may be changed: in the VM, whose tests compare this with what they
/// provoke.
pub const IN_THE_VM: [Id; 8] = [
    Id::ConntrackFull,
    Id::IpvsActive,
    Id::ClockUnsynchronised,
    Id::OffloadInTheWay,
    Id::OneQueue,
    Id::RssUneven,
    Id::JitOff,
    Id::JitHardened,
];

/// Fails unless the doctor names exactly these, in this order: `finds!(&agent, VipMissing, CheckBlind)`. Who is asked about
/// is what [`Asked`] is made of. Whatever stands here is known as provoked ([`provoked`]), and nothing else is.
#[macro_export]
macro_rules! finds {
    ($asked:expr $(, $id:ident)* $(,)?) => {{
        $($crate::provokes!($id);)*
        $crate::doctor::find($asked, &[$(lb::doctor::Id::$id),*])
    }};
}

/// Whether this one is among what a doctor has named; to be made sure of. Known as provoked, as in [`finds!`].
#[macro_export]
macro_rules! names {
    ($findings:expr, $id:ident) => {{
        $crate::provokes!($id);
        $crate::doctor::has($findings, lb::doctor::Id::$id)
    }};
}

/// For macros that assert it.
#[macro_export]
macro_rules! provokes {
    ($id:ident) => {
        inventory::submit!($crate::doctor::Provoked(lb::doctor::Id::$id));
    };
}

/// A doctor that looks at an agent's instance.
pub struct Asked(Result<Command>);

impl From<&Agent> for Asked {
    fn from(agent: &Agent) -> Self {
        Self(doctor_command(agent, "lab"))
    }
}

impl From<&std::sync::Arc<Agent>> for Asked {
    fn from(agent: &std::sync::Arc<Agent>) -> Self {
        agent.as_ref().into()
    }
}

/// At this agent's socket, of an instance of this name.
impl From<(&std::sync::Arc<Agent>, &str)> for Asked {
    fn from((agent, instance): (&std::sync::Arc<Agent>, &str)) -> Self {
        Self(doctor_command(agent, instance))
    }
}

impl From<Command> for Asked {
    fn from(command: Command) -> Self {
        Self(Ok(command))
    }
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

/// The same of this command line.
pub fn report_by(command: Command) -> Result<Report> {
    let (status, report) = whole_report(command)?;
    without_the_machine(&status, report)
}

/// With what it says of the machine.
pub fn whole_report(command: Command) -> Result<(ExitStatus, Report)> {
    let ran = run(command)?;
    let report: Report = serde_json::from_str(&ran.stdout)
        .with_context(|| format!("`{}` printed:\n{}{}", ran.command, ran.stdout, ran.stderr))?;
    Ok((ran.status, report))
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

/// It names these, in this order, and nothing else. Of what is provoked: [`finds!`].
pub fn find(asked: impl Into<Asked>, ids: &[Id]) -> Result<Vec<Found>> {
    let found = report_by(asked.into().0?)?.findings;
    let named: Vec<_> = found.iter().map(|finding| finding.id).collect();
    ensure!(named == ids, "{ids:?} were expected: {found:#?}");
    Ok(found)
}

/// See [`names!`].
#[must_use]
pub fn has(findings: &[Found], id: Id) -> bool {
    findings.iter().any(|finding| finding.id == id)
}

/// All of these words are in what was seen, what it is about, or what to do.
pub fn says(finding: &Found, words: &[&str]) -> Result<()> {
    let text = format!("{} {} {}", finding.subject, finding.found, finding.fix);
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in {finding:#?}");
    Ok(())
}
