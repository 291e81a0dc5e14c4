//! `lb realserver`: this host as a Direct-Routing backend. Needs no agent.

use std::net::IpAddr;

use clap::Subcommand;
use comfy_table::{Cell, Table};

use super::{
    CliError, Exit, Output,
    output::{Column, Tone},
    wiring::{self, RealserverCheck},
};

#[derive(Debug, Subcommand)]
pub(super) enum RealserverCommand {
    /// Adds the VIPs to lo and keeps ARP silent about them (arp_ignore=1, arp_announce=2)
    Start {
        /// Addresses of the services that this host serves
        #[arg(value_name = "VIP", required = true)]
        vips: Vec<IpAddr>,
    },
    /// Removes the VIPs from lo; after the last one, ARP is as it was before
    Stop {
        /// Addresses of the services that this host serves no more
        #[arg(value_name = "VIP", required = true)]
        vips: Vec<IpAddr>,
    },
    /// Says what is right and what is wrong; fails (1) if something is wrong
    Status {
        /// Which ones [default: all VIPs on lo]
        #[arg(value_name = "VIP")]
        vips: Vec<IpAddr>,
    },
}

pub(super) async fn run(command: RealserverCommand, output: &mut Output<'_>) -> Result<(), CliError> {
    match command {
        RealserverCommand::Start { vips } => changed(wiring::realserver_start(&vips).await?, output),
        RealserverCommand::Stop { vips } => changed(wiring::realserver_stop(&vips).await?, output),
        RealserverCommand::Status { vips } => report(&wiring::realserver_status(&vips).await?, output),
    }
}

fn changed(changes: Vec<String>, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(output.json(&serde_json::json!({ "changes": changes }), false)?);
    }
    if changes.is_empty() {
        output.line("nothing to change")?;
    }
    for change in changes {
        output.line(change)?;
    }
    Ok(())
}

pub(super) fn report(checks: &[RealserverCheck], output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        output.json(&checks, false)?;
    } else {
        let table = check_table(checks, output);
        output.table(&table)?;
    }
    match checks.iter().filter(|c| !c.right).count() {
        0 => Ok(()),
        wrong => Err(CliError::Local {
            exit: Exit::Failure,
            message: format!(
                "{wrong} of {} settings of this backend are wrong; `lb realserver start VIP...` sets them right",
                checks.len()
            ),
        }),
    }
}

fn check_table(checks: &[RealserverCheck], output: &Output<'_>) -> Table {
    use Column::Text;
    let mut table = output.columns(&[Text("Setting"), Text("Wanted"), Text("Found"), Text("")]);
    for RealserverCheck { what, wanted, found, right } in checks {
        let verdict = if *right { Tone::Good.cell("ok") } else { Tone::Bad.cell("WRONG") };
        table.add_row(vec![Cell::new(what), Cell::new(wanted), Cell::new(found), verdict]);
    }
    table
}
