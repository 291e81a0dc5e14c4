//! `lb doctor`: what is wrong, and the command that mends it.

use super::{CliError, Exit, Output, args::Paths, output::Tone};
use crate::doctor::{self, Place, Severity};

pub(super) async fn run(paths: Paths, output: &mut Output<'_>) -> Result<(), CliError> {
    let Paths { instance, socket, state_dir, bpffs } = paths;
    let report = doctor::examine(&Place { instance, socket, state_dir, bpffs }).await?;
    if output.is_json() {
        output.json(&report, false)?;
    } else {
        let text = report.to_string();
        let tone = match report.worst() {
            None => Tone::Good,
            Some(Severity::Warning) => Tone::Notice,
            Some(Severity::Error) => Tone::Bad,
        };
        // The last line is the verdict.
        let (findings, verdict) = text.rsplit_once('\n').unwrap_or(("", &text));
        if !findings.is_empty() {
            output.line(findings)?;
        }
        output.line(output.toned(verdict, tone))?;
    }
    let exit = match report.worst() {
        None => return Ok(()),
        Some(Severity::Warning) => Exit::Warnings,
        Some(Severity::Error) => Exit::Unhealthy,
    };
    Err(CliError::Local { exit, message: format!("the doctor found {}", report.summary()) })
}
