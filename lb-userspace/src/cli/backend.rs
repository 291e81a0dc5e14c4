//! `lb backend`: IPVS's real servers.

use clap::{Args, Subcommand};
use comfy_table::{Cell, Table};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    CliError, Output,
    drain::{DrainArgs, Wait},
    number,
    output::{Column, Tone, or_dash},
    parse::{self, BackendArg, ServiceArg},
    service,
};
use crate::{
    api::{
        client::Client,
        types::{BackendAdd, BackendEdit, BackendState, BackendView, Done, MaintenanceBegin, ServiceView},
    },
    model::{BackendKey, ServiceName},
};

#[derive(Debug, Subcommand)]
pub(super) enum BackendCommand {
    /// Adds a backend to a service: lb backend add mysql 172.18.14.11 -w 3
    Add(AddArgs),
    /// Changes a backend's weight or thresholds; connections stay
    Edit(EditArgs),
    /// Removes a backend; its open connections are dropped: drain it first to let them end
    Del(Which),
    /// Sends a backend no new connections, keeping its weight; open ones go on
    ///
    /// lb backend drain mysql 172.18.14.11 --wait --deadline 10m
    Drain(DrainArgs),
    /// Ends a drain
    Undrain(Which),
    /// Keeps new connections from a backend that somebody works on, with the reason and an end
    Maintenance {
        #[command(subcommand)]
        command: MaintenanceCommand,
    },
    /// Lists the backends of one service or of all
    List {
        /// The service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
        #[arg(value_parser = parse::service)]
        service: Option<ServiceArg>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MaintenanceCommand {
    /// lb backend maintenance on mysql 172.18.14.11 --comment "new memory" --for 2h
    ///
    /// Open connections go on. Its checks go on too, but what they find is no failure. A reload and a restart of
    /// the agent keep it; given again, the new comment and end hold.
    On(MaintenanceArgs),
    /// Ends it before its time; with `slow_start` the backend comes back slowly
    Off(Which),
}

#[derive(Debug, Args)]
pub(super) struct MaintenanceArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Why, for whoever looks at `lb status`
    #[arg(long, value_name = "TEXT")]
    pub(super) comment: String,
    /// It ends by itself after so long, at most 31d; without, when somebody ends it
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) seconds: Option<u32>,
    /// Who is to be asked about it; the default is the user who types this, before sudo
    #[arg(long, value_name = "NAME", env = "SUDO_USER", hide_env_values = true)]
    pub(super) by: Option<String>,
}

/// A backend of a service.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
    #[arg(value_parser = parse::service)]
    pub(super) service: ServiceArg,
    /// The backend; the port is the service's, so it may be left out
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = parse::backend)]
    pub(super) backend: BackendArg,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub(super) weight: u16,
    /// Connections at which the backend gets no new ones; 0: no limit
    #[arg(short = 'x', long, alias = "u-threshold", value_name = "N", default_value_t = 0)]
    pub(super) upper_threshold: u32,
    /// Connections below which it gets new ones again; 0: three quarters of the upper threshold
    #[arg(short = 'y', long, alias = "l-threshold", value_name = "N", default_value_t = 0)]
    pub(super) lower_threshold: u32,
}

#[derive(Debug, Args)]
pub(super) struct EditArgs {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) change: Change,
}

/// What is not given stays as it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Change {
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(short, long, value_name = "N")]
    pub(super) weight: Option<u16>,
    /// Connections at which the backend gets no new ones; 0: no limit
    #[arg(short = 'x', long, alias = "u-threshold", value_name = "N")]
    pub(super) upper_threshold: Option<u32>,
    /// Connections below which it gets new ones again; 0: three quarters of the upper threshold
    #[arg(short = 'y', long, alias = "l-threshold", value_name = "N")]
    pub(super) lower_threshold: Option<u32>,
}

pub(super) async fn run(
    command: BackendCommand,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    let (done, service, key, what) = match command {
        BackendCommand::List { service } => return list(service, client, output).await,
        BackendCommand::Add(AddArgs { which, weight, upper_threshold, lower_threshold }) => {
            let (service, key) = find(client, &which).await?;
            let add = BackendAdd { key, weight, upper_threshold, lower_threshold };
            (client.backend_add(&service, &add).await?, service, key, "added")
        }
        BackendCommand::Edit(EditArgs { which, change }) => {
            let (service, key) = find(client, &which).await?;
            let Change { weight, upper_threshold, lower_threshold } = change;
            let edit = BackendEdit { weight, upper_threshold, lower_threshold };
            (client.backend_edit(&service, key, &edit).await?, service, key, "changed")
        }
        BackendCommand::Del(which) => {
            let (service, key) = find(client, &which).await?;
            (client.backend_delete(&service, key).await?, service, key, "removed")
        }
        BackendCommand::Drain(args) => return drain(args, client, output).await,
        BackendCommand::Undrain(which) => {
            let (service, key) = find(client, &which).await?;
            (client.backend_undrain(&service, key).await?, service, key, "undrained")
        }
        BackendCommand::Maintenance { command: MaintenanceCommand::On(args) } => {
            let MaintenanceArgs { which, comment, seconds, by } = args;
            let (service, key) = find(client, &which).await?;
            let begin = MaintenanceBegin { comment, by: by.unwrap_or_else(user), seconds };
            (client.backend_maintain(&service, key, &begin).await?, service, key, "is in maintenance")
        }
        BackendCommand::Maintenance { command: MaintenanceCommand::Off(which) } => {
            let (service, key) = find(client, &which).await?;
            (
                client.backend_maintenance_end(&service, key).await?,
                service,
                key,
                "is not in maintenance any more",
            )
        }
    };
    say_done(&done, &service, key, what, output)
}

async fn drain(args: DrainArgs, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let DrainArgs { which, wait, deadline } = args;
    let (service, key) = find(client, &which).await?;
    let done = client.backend_drain(&service, key).await?;
    if !wait {
        return say_done(&done, &service, key, "drained", output);
    }
    output.warn(&done.warnings);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let interrupted = async {
        // `None` never comes: the stream lives as long as the runtime.
        interrupt.recv().await;
    };
    Wait { service: &service, key, deadline }
        .run(async || client.service(&service).await, interrupted, output)
        .await
}

/// Who types this.
fn user() -> String {
    let named = ["LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

fn say_done(
    done: &Done,
    service: &ServiceName,
    key: BackendKey,
    what: &str,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    output.done(done, || format!("backend {key} of {service} {what}"))
}

/// The service's name and the backend's key; asks the agent only for what was not typed.
async fn find(client: &Client, which: &Which) -> Result<(ServiceName, BackendKey), CliError> {
    let BackendArg { address, port } = which.backend;
    match port {
        Some(port) => Ok((service::find_name(client, &which.service).await?, BackendKey { address, port })),
        None => {
            let view = service::find(client, &which.service).await?;
            Ok((view.name, BackendKey { address, port: view.endpoint.port }))
        }
    }
}

/// A backend as `lb backend list --output json` prints it: the API's, with its service's name.
#[derive(Serialize)]
struct Listed<'a> {
    service: &'a ServiceName,
    #[serde(flatten)]
    backend: &'a BackendView,
}

async fn list(service: Option<ServiceArg>, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let services = match service {
        Some(service) => vec![service::find(client, &service).await?],
        None => client.services().await?,
    };
    if output.is_json() {
        let listed: Vec<Listed<'_>> = services
            .iter()
            .flat_map(|s| s.backends.iter().map(|backend| Listed { service: &s.name, backend }))
            .collect();
        return Ok(output.json(&listed, false)?);
    }
    let table = list_table(&services, output);
    Ok(output.table(&table)?)
}

/// One row per backend of each service.
pub(super) fn list_table(services: &[ServiceView], output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Service"),
        Text("Backend"),
        Text("State"),
        Number("Weight"),
        Number("ActiveConn"),
        Number("InActConn"),
        Number("Conns"),
        Number("Packets"),
        Number("Bytes"),
        Text("MAC"),
        Text("Interface"),
        Text("Detail"),
    ]);
    for (service, backend) in services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b))) {
        table.add_row(vec![
            Cell::new(&service.name),
            Cell::new(backend.key),
            state_cell(backend.state),
            Cell::new(weight(backend)),
            Cell::new(number::count(backend.active)),
            Cell::new(number::count(backend.inactive)),
            Cell::new(number::count(backend.counters.connections)),
            Cell::new(number::count(backend.counters.packets)),
            Cell::new(number::bytes(backend.counters.bytes)),
            Cell::new(or_dash(backend.mac.as_ref())),
            Cell::new(or_dash(backend.interface.as_ref())),
            Cell::new(detail(backend)),
        ]);
    }
    table
}

/// `10`, or `5/10` where its health gives it another one; a backend that is out by it has none to show.
fn weight(backend: &BackendView) -> String {
    let BackendView { weight, health_weight, state, .. } = backend;
    if weight == health_weight || matches!(state, BackendState::Down | BackendState::Standby) {
        return weight.to_string();
    }
    format!("{health_weight}/{weight}")
}

/// The state's word, as in JSON.
pub(super) fn state_word(state: BackendState) -> &'static str {
    match state {
        BackendState::Up => "up",
        BackendState::Drained => "drained",
        BackendState::Maintenance => "maintenance",
        BackendState::Quiesced => "quiesced",
        BackendState::Overloaded => "overloaded",
        BackendState::Unresolved => "unresolved",
        BackendState::Down => "down",
        BackendState::Standby => "standby",
    }
}

/// Drained and quiesced are what somebody wanted; the others are not.
pub(super) fn state_tone(state: BackendState) -> Tone {
    match state {
        BackendState::Up => Tone::Good,
        BackendState::Drained
        | BackendState::Maintenance
        | BackendState::Quiesced
        | BackendState::Standby => Tone::Notice,
        BackendState::Overloaded | BackendState::Unresolved | BackendState::Down => Tone::Bad,
    }
}

fn state_cell(state: BackendState) -> Cell {
    state_tone(state).cell(state_word(state))
}

/// Why it is as it is, then its thresholds if it has any.
fn detail(backend: &BackendView) -> String {
    let thresholds = (backend.upper_threshold > 0)
        .then(|| format!("thresholds {}/{}", backend.upper_threshold, backend.lower_threshold));
    let parts: Vec<String> = backend.detail.clone().into_iter().chain(thresholds).collect();
    parts.join("; ")
}
