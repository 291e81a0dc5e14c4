//! `lb timeout`: the global idle timeouts, as `ipvsadm --set` and `ipvsadm -L --timeout`.

use clap::{Args, Subcommand};
use comfy_table::{Cell, Table};

use super::{CliError, Output, output::Column, parse};
use crate::{
    api::client::Client,
    model::{
        PartialTimeouts, Timeouts,
        timeouts::{NAMES, STATES},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum TimeoutCommand {
    /// Shows the global timeouts; a service's own: lb service show
    Get,
    /// Changes global timeouts: lb timeout set 900 120 300, as ipvsadm --set
    ///
    /// A connection gets the new timeout with its next packet that moves its expiry. A service's own
    /// timeouts stay (`lb service edit --timeout`). As every change by command it is kept across restarts,
    /// and `lb save` writes it.
    Set(SetArgs),
}

/// What is not given stays as it is.
#[derive(Debug, Args)]
#[group(id = "timeouts", required = true, multiple = true)]
pub(super) struct SetArgs {
    /// ESTABLISHED, FIN_WAIT and UDP, as ipvsadm --set; 0 leaves one as it is
    #[arg(num_args = 3, value_names = ["TCP", "TCPFIN", "UDP"], value_parser = parse::figure)]
    #[arg(conflicts_with_all = ["tcp", "tcp_fin", "udp"])]
    pub(super) three: Vec<u32>,
    /// ESTABLISHED: seconds, or with s, m, h, d: 15m
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) tcp: Option<u32>,
    /// FIN_WAIT: after the client's FIN
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) tcp_fin: Option<u32>,
    /// SYN_RECV: the handshake is not complete
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) tcp_syn: Option<u32>,
    /// TIME_WAIT: a FIN came before the handshake was complete
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) tcp_time_wait: Option<u32>,
    /// CLOSE: after the client's RST
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) tcp_close: Option<u32>,
    /// UDP
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) udp: Option<u32>,
    /// ESTABLISHED, of SCTP
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp: Option<u32>,
    /// INIT1: one INIT came
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp_init1: Option<u32>,
    /// INIT: an INIT came again
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp_init: Option<u32>,
    /// C-ECHOED: an INIT ACK came, the backend had begun
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp_echoed: Option<u32>,
    /// S-RECEIVED: after the client's SHUTDOWN
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp_shutdown: Option<u32>,
    /// CLOSED
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout)]
    pub(super) sctp_closed: Option<u32>,
}

pub(super) async fn run(
    command: TimeoutCommand,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    match command {
        TimeoutCommand::Get => show(&client.timeouts().await?, output),
        TimeoutCommand::Set(args) => {
            let edit = args.into_edit();
            let done = client.timeouts_edit(&edit).await?;
            output.done(&done, || format!("timeouts changed: {}", listed(edit)))
        }
    }
}

pub(super) fn show(timeouts: &Timeouts, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(output.json(timeouts, false)?);
    }
    let Timeouts { tcp, tcp_fin, udp, .. } = timeouts;
    // As `ipvsadm -L --timeout`, for scripts that read that.
    output.line(format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}"))?;
    output.line("")?;
    let table = table(timeouts, output);
    Ok(output.table(&table)?)
}

fn table(timeouts: &Timeouts, output: &Output<'_>) -> Table {
    let mut table =
        output.columns(&[Column::Text("Timeout"), Column::Number("Seconds"), Column::Text("State")]);
    for (name, (state, seconds)) in STATES.zip(*timeouts).named() {
        table.add_row(vec![Cell::new(name), Cell::new(seconds), Cell::new(state.name())]);
    }
    table
}

/// `tcp 900, udp 300`; 0 is said as the service's giving up its own.
pub(super) fn listed(timeouts: PartialTimeouts) -> String {
    let one = |(name, seconds)| match seconds {
        0 => format!("{name} as the global one"),
        seconds => format!("{name} {seconds}"),
    };
    timeouts.given().map(one).collect::<Vec<_>>().join(", ")
}

/// What `--timeout NAME=DURATION` gave; the last one of a name counts.
pub(super) fn collected(given: &[parse::OwnTimeout]) -> PartialTimeouts {
    NAMES.map(|name| given.iter().rev().find(|own| own.name == name).map(|own| own.seconds))
}

impl SetArgs {
    fn into_edit(self) -> PartialTimeouts {
        let Self {
            three,
            tcp,
            tcp_fin,
            tcp_syn,
            tcp_time_wait,
            tcp_close,
            udp,
            sctp,
            sctp_init1,
            sctp_init,
            sctp_echoed,
            sctp_shutdown,
            sctp_closed,
        } = self;
        // 0 is "as it is".
        let figure = |at: usize| three.get(at).copied().filter(|seconds| *seconds != 0);
        PartialTimeouts {
            tcp: tcp.or(figure(0)),
            tcp_fin: tcp_fin.or(figure(1)),
            tcp_syn,
            tcp_time_wait,
            tcp_close,
            udp: udp.or(figure(2)),
            sctp,
            sctp_init1,
            sctp_init,
            sctp_echoed,
            sctp_shutdown,
            sctp_closed,
        }
    }
}
