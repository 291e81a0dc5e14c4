//! Commands about the agent as a whole: reload, detach, save, check-config.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    CliError, Exit, Output,
    args::{Global, Paths, Place},
    parse,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{Done, ReloadOptions, Reloaded},
    },
    config, dataplane,
};

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Keep every change made by command that the file contradicts or does not name
    #[arg(long)]
    pub(super) keep_runtime: bool,
}

pub(super) async fn reload(
    args: ReloadArgs,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    let reloaded = client.reload(&ReloadOptions { keep_runtime: args.keep_runtime }).await?;
    output.warn(&reloaded.warnings);
    if output.is_json() {
        return Ok(output.json(&reloaded, false)?);
    }
    let Reloaded { changes, discarded, warnings: _ } = reloaded;
    if changes.is_empty() {
        output.line("the running state equals the file already: nothing changed")?;
    }
    for change in changes {
        output.line(format!("changed: {change}"))?;
    }
    for entry in discarded {
        output.line(format!("discarded, the file overrules it: {entry}"))?;
    }
    Ok(())
}

/// The agent knows which instance it is. What one left that has gone is another matter: a socket does not tell whose
/// it was, and another instance's program must not be taken down in its place.
pub(super) async fn detach(global: &Global, place: &Place, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(global.socket());
    let (instance, done) = match client.status().await {
        Err(error @ ClientError::NotRunning { .. }) if !global.names_instance() => {
            let message = format!(
                "{}; to take down what an agent has left that is gone, name its instance: \
                 `lb --instance NAME detach`",
                CliError::from(error)
            );
            return Err(CliError::Local { exit: Exit::NotRunning, message });
        }
        Err(ClientError::NotRunning { .. }) => {
            let Paths { instance, socket, state_dir, bpffs } = global.paths(place);
            let warnings = crate::agent::detach_without_agent(&instance, &bpffs, &state_dir, &socket).await?;
            (instance, Done { warnings })
        }
        status => (status?.instance, client.detach().await?),
    };
    output.done(&done, || format!("instance {instance} is detached: nothing is forwarded any more"))
}

pub(super) async fn save(file: &Path, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let text = client.config().await?;
    if parse::is_stdout(file) {
        return Ok(output.raw(text.as_bytes())?);
    }
    replace(file, &text).with_context(|| format!("cannot write {}; it is as it was", file.display()))?;
    output.note(&format!("the running state is saved in {}", file.display()));
    Ok(())
}

pub(super) fn check_config(file: &Path, output: &mut Output<'_>) -> Result<(), CliError> {
    let (name, text) = if parse::is_stdout(file) {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
        ("<stdin>".to_owned(), text)
    } else {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        (file.display().to_string(), text)
    };
    let config = config::parse(&name, &text).map_err(anyhow::Error::from)?;
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    let memory = config::memory(&config.model, cpus, &dataplane::entry_sizes());
    let services = config.model.services.len();
    let backends = config.model.services.iter().map(|service| service.backends.len()).sum();
    if output.is_json() {
        let memory = memory.into_iter().map(|item| MapMemory { what: item.what, bytes: item.bytes });
        return Ok(output.json(&ConfigSummary { services, backends, memory: memory.collect() }, false)?);
    }
    output.line(format!("{name}: good; {services} services, {backends} backends"))?;
    output.line(format!("memory of the maps on this machine ({cpus} CPUs):"))?;
    for item in memory {
        output.line(item.to_string())?;
    }
    Ok(())
}

/// `lb check-config --output json`
#[derive(Debug, Serialize)]
struct ConfigSummary {
    services: usize,
    backends: usize,
    memory: Vec<MapMemory>,
}

#[derive(Debug, Serialize)]
struct MapMemory {
    what: String,
    bytes: u64,
}

/// Replaces `file` as a whole or not at all, keeping its mode.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // Through a symbolic link the target is what is meant.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    let draft = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut target = fs::File::create(&draft)?;
        if let Ok(old) = fs::metadata(&file) {
            target.set_permissions(old.permissions())?;
        }
        target.write_all(text.as_bytes())?;
        target.sync_all()?;
        fs::rename(&draft, &file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft); // the first error is the one to report
    }
    written
}

impl Output<'_> {
    /// A change that was made: the API's body, or its warnings and one line.
    pub(super) fn done(&mut self, done: &Done, line: impl FnOnce() -> String) -> Result<(), CliError> {
        self.warn(&done.warnings);
        if self.is_json() {
            self.json(done, false)?
        } else {
            self.line(line())?
        }
        Ok(())
    }
}
