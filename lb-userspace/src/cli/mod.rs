//! The command line. One file per noun: its arguments, its requests to the agent, its table.
//!
//! Stdout has the answer and nothing else, stderr warnings and the one paragraph of an error; exit codes
//! are in [`Exit`].

mod agent;
mod args;
mod backend;
mod conn;
mod doctor;
mod drain;
mod events;
mod exit;
mod explain;
mod number;
mod output;
mod pages;
mod parse;
mod rate;
mod realserver;
mod service;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod timeout;
mod trace;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;

use self::args::{Cli, Command};
use crate::{
    api::client::Client,
    log::{self, LogError, LogFormat},
};

pub use self::{
    args::{Paths, RunArgs},
    exit::{CliError, Exit},
    output::Output,
};

/// The whole program: this process's arguments, stdout and stderr.
pub fn main() -> ExitCode {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let terminal = stdout.is_terminal();
    // Locked and buffered by hand: a table of a million connections is one write per 64 KiB, and a reader
    // that goes away is an error to look at, where println! would panic.
    let mut stdout = io::BufWriter::with_capacity(64 << 10, stdout);
    let mut stderr = stderr;
    execute(env::args_os(), &mut Output::new(&mut stdout, &mut stderr, terminal)).into()
}

/// Runs one command line, program name included.
pub fn execute(arguments: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come this way too; clap knows which stream each belongs on.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    output.configure(cli.global.output, cli.global.color, no_color);
    let result = dispatch(cli, output).and_then(|()| Ok(output.flush()?));
    match result {
        Ok(()) => Exit::Success,
        Err(error) if error.is_broken_pipe() => Exit::Success,
        Err(error) => {
            let exit = error.exit();
            // What was printed before the failure comes first; if that cannot be written there is
            // already an error to report.
            let _ = output.flush();
            output.error(&error.to_string());
            exit
        }
    }
}

fn dispatch(cli: Cli, output: &mut Output<'_>) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(run) => {
            log_to_stderr(global.log.as_deref().unwrap_or("info"), run.log_format)?;
            return Ok(crate::agent::run(global.options(run))?);
        }
        Command::Explain(args) => {
            log_to_stderr(global.log.as_deref().unwrap_or("warn"), LogFormat::Auto)?;
            return explain::run(args, &global.instance, output);
        }
        Command::CheckConfig { file } => return agent::check_config(&file, output),
        Command::Completions { shell } => return pages::completions(shell, output),
        Command::Man { directory } => return pages::man(directory.as_deref(), output),
        _ => {}
    }
    log_to_stderr(global.log.as_deref().unwrap_or("warn"), LogFormat::Auto)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(global.socket());
        match command {
            Command::Backend(verb) => backend::run(verb, &client, output).await,
            Command::Conn(verb) => conn::run(verb, &client, output).await,
            Command::Detach(place) => agent::detach(&global, &place, output).await,
            Command::Events(args) => events::run(args, &client, output).await,
            Command::Doctor(place) => doctor::run(global.paths(&place), output).await,
            Command::Realserver(verb) => realserver::run(verb, output).await,
            Command::Reload(reload) => agent::reload(reload, &client, output).await,
            Command::Save { file } => agent::save(&file, &client, output).await,
            Command::Service(verb) => service::run(verb, &client, output).await,
            Command::Stats(stats) => stats::run(stats, &client, output).await,
            Command::Status { bpffs } => {
                let pins = bpffs.join("lb").join(&global.instance);
                status::run(&client, &pins, output).await
            }
            Command::Trace(args) => trace::run(args, &client, output).await,
            Command::Timeout(verb) => timeout::run(verb, &client, output).await,
            Command::Run(_)
            | Command::CheckConfig { .. }
            | Command::Explain(_)
            | Command::Completions { .. }
            | Command::Man { .. } => {
                unreachable!("returned above: these need no agent")
            }
        }
    })
}

fn log_to_stderr(filter: &str, format: LogFormat) -> Result<(), CliError> {
    match log::init(filter, format) {
        // Several command lines in one process, as in tests, share the first one's log.
        Ok(()) | Err(LogError::Twice) => Ok(()),
        Err(error) => Err(CliError::Local { exit: Exit::Usage, message: error.to_string() }),
    }
}
