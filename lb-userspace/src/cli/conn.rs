//! `lb conn`: the flow table as `ipvsadm -Lc` shows it.

use clap::{Args, Subcommand};
use comfy_table::{Cell, Table};

use super::{
    CliError, Exit, Output,
    output::Column,
    parse::{self, BackendArg, ServiceArg},
    service,
};
use crate::{
    api::{
        client::Client,
        types::{ConnFilter, ConnView},
    },
    model::BackendKey,
};

#[derive(Debug, Subcommand)]
pub(super) enum ConnCommand {
    /// Lists the connections that match every given filter
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// List at most N connections [default: 10000]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Forgets connections: their next packet is dropped, unless it opens one (a SYN, any UDP datagram)
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
        .args(["all", "service", "backend", "client", "state"]))]
    Flush {
        #[command(flatten)]
        filter: FilterArgs,
        /// Every connection of every service
        #[arg(long, conflicts_with_all = ["service", "backend", "client", "state"])]
        all: bool,
    },
}

/// Filters are ANDed.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only of this service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
    #[arg(long, value_parser = parse::service)]
    pub(super) service: Option<ServiceArg>,
    /// Only to this backend; the port may be left out if --service is given
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse::backend)]
    pub(super) backend: Option<BackendArg>,
    /// Only from this client or network, for example 10.0.0.0/8
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = parse::prefix)]
    pub(super) client: Option<String>,
    /// Only in this state: ESTABLISHED, SYN_RECV, FIN_WAIT, CLOSE, UDP, C-ECHOED, ...
    #[arg(long)]
    pub(super) state: Option<String>,
}

pub(super) async fn run(
    command: ConnCommand,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    match command {
        ConnCommand::List { filter, limit } => {
            let filter = ConnFilter { limit, ..filter.resolve(client).await? };
            let list = client.conns(&filter).await?;
            if output.is_json() {
                return Ok(output.json(&list, false)?);
            }
            let table = list_table(&list.conns, output);
            output.table(&table)?;
            let listed = list.conns.len();
            if list.total > listed as u64 {
                output.note(&format!(
                    "{listed} of {} connections are listed: `--limit {}` lists all",
                    list.total, list.total
                ));
            }
            Ok(())
        }
        ConnCommand::Flush { filter, all: _ } => {
            let done = client.conns_flush(&filter.resolve(client).await?).await?;
            output.done(&done, || "connections flushed".to_owned())
        }
    }
}

impl FilterArgs {
    async fn resolve(self, client: &Client) -> Result<ConnFilter, CliError> {
        let Self { service, backend, client: network, state } = self;
        let view = match (&service, backend) {
            (Some(arg), Some(BackendArg { port: None, .. })) => Some(service::find(client, arg).await?),
            _ => None,
        };
        let backend = match backend {
            None => None,
            Some(BackendArg { address, port: Some(port) }) => Some(BackendKey { address, port }),
            Some(BackendArg { address, port: None }) => match &view {
                Some(view) => Some(BackendKey { address, port: view.endpoint.port }),
                None => {
                    let message = format!("--backend {address} needs its port, or --service to take it from");
                    return Err(CliError::Local { exit: Exit::Usage, message });
                }
            },
        };
        let service = match (view, service) {
            (Some(view), _) => Some(view.name),
            (None, Some(arg)) => Some(service::find_name(client, &arg).await?),
            (None, None) => None,
        };
        let state = state.map(|state| state.to_ascii_uppercase());
        Ok(ConnFilter { service, backend, client: network, state, limit: None })
    }
}

/// The columns of `ipvsadm -Lc`, and the service's name.
pub(super) fn list_table(conns: &[ConnView], output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Pro"),
        Number("Expire"),
        Text("State"),
        Text("Source"),
        Text("Virtual"),
        Text("Destination"),
        Text("Service"),
    ]);
    for conn in conns {
        table.add_row(vec![
            Cell::new(conn.protocol.to_string().to_uppercase()),
            Cell::new(format!("{:02}:{:02}", conn.expires / 60, conn.expires % 60)),
            Cell::new(&conn.state),
            Cell::new(conn.client),
            Cell::new(conn.virtual_address),
            Cell::new(conn.backend),
            Cell::new(&conn.service),
        ]);
    }
    table
}
