//! `lb realserver`: this host as a Direct-Routing backend. Needs no agent.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, Exit, Output};
use crate::realserver::{self, Paths, Removal, Report};

#[derive(Debug, Subcommand)]
pub(super) enum RealserverCommand {
    /// Adds the VIPs to lo and keeps ARP silent about them (arp_ignore=1, arp_announce=2)
    Start {
        /// Addresses of the services that this host serves
        #[arg(value_name = "VIP", required = true)]
        vips: Vec<IpAddr>,
        #[command(flatten)]
        place: Place,
    },
    /// Removes the VIPs from lo; after the last one, ARP is as it was before
    Stop {
        /// Addresses of the services that this host serves no more
        #[arg(value_name = "VIP", required = true)]
        vips: Vec<IpAddr>,
        /// Remove them also where somebody else (lvs_realserver.sh, say) had put them on lo
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Says what is right and what is wrong; fails (1) if something is wrong
    Status {
        /// Which ones [default: all that were started]
        #[arg(value_name = "VIP")]
        vips: Vec<IpAddr>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// File that remembers what `start` changed and what was there before; one per network namespace
    #[arg(long, value_name = "FILE", default_value = "/run/lb/realserver.json")]
    state: PathBuf,
}

impl Place {
    fn paths(self) -> Paths {
        Paths { state: self.state }
    }
}

pub(super) async fn run(command: RealserverCommand, output: &mut Output<'_>) -> Result<(), CliError> {
    let report = match command {
        RealserverCommand::Start { vips, place } => realserver::start(&vips, &place.paths()).await,
        RealserverCommand::Stop { vips, force, place } => {
            let removal = if force { Removal::Any } else { Removal::Ours };
            realserver::stop(&vips, removal, &place.paths()).await
        }
        RealserverCommand::Status { vips, place } => realserver::status(&vips, &place.paths()).await,
    };
    show(&report.map_err(anyhow::Error::from)?, output)
}

/// Prints a report; an error if something in it is wrong.
pub(super) fn show(report: &Report, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        output.json(report, false)?;
    } else {
        let text = report.to_string();
        output.line(if text.is_empty() { "nothing to change" } else { text.trim_end() })?;
    }
    if report.is_right() {
        return Ok(());
    }
    Err(CliError::Local {
        exit: Exit::Failure,
        message:
            "something on this backend is wrong: see above for what it causes and the command that mends it"
                .to_owned(),
    })
}
