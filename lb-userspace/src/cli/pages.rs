//! Completions and manual pages, from the definitions of the command line.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{CliError, Output, args::Cli};

pub(super) fn completions(shell: Shell, output: &mut Output<'_>) -> Result<(), CliError> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lb", &mut script);
    Ok(output.raw(&script)?)
}

/// lb(1) to stdout, or lb(1), lb-run(1), lb-service-add(1), ... into `directory`.
pub(super) fn man(directory: Option<&Path>, output: &mut Output<'_>) -> Result<(), CliError> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return Ok(output.raw(&page)?);
    };
    let failed = || format!("cannot write manual pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    Ok(clap_mangen::generate_to(Cli::command(), directory).with_context(failed)?)
}
