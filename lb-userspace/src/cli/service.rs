//! `lb service`: IPVS's virtual servers.

use clap::{ArgGroup, Args, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser};
use comfy_table::{Cell, Table};
use ipnet::IpNet;

use super::{
    CliError, Exit, Output, backend, number,
    output::{Column, Tone},
    parse::{self, OwnTimeout, Place, ServiceArg},
    timeout,
};
use crate::{
    api::{
        client::Client,
        types::{
            BackendState, EndpointsEdit, OptionsEdit, ServiceAdd, ServiceEdit, ServiceView, SourcesEdit,
        },
    },
    config,
    model::{
        Endpoint, ExpireNodest, Guard, Persistence, Protocol, Reject, Scheduler, Scope, ServiceName,
        ServiceOptions, SourceRule,
        edit::edited_options,
        persistence::granularity,
        sources::{network, rule},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Adds a service: lb service add mysql -t 172.18.14.100:3306 -s wrr
    Add(AddArgs),
    /// Changes a service; connections stay
    Edit(EditArgs),
    /// Removes a service and its backends; open connections go on until they end
    Del {
        /// The service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
        #[arg(value_parser = parse::service)]
        service: ServiceArg,
    },
    /// Lists the services
    List,
    /// Shows one service with its backends
    Show {
        /// The service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
        #[arg(value_parser = parse::service)]
        service: ServiceArg,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The service's name [default: its endpoint, PROTOCOL/VIP:PORT]
    pub(super) name: Option<ServiceName>,
    /// The same as NAME
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
    pub(super) name_option: Option<ServiceName>,
    #[command(flatten)]
    pub(super) endpoint: EndpointArgs,
    /// Which backend a new connection gets
    #[arg(short, long, value_name = "SCHEDULER", default_value = "wlc", value_parser = schedulers())]
    pub(super) scheduler: Scheduler,
    /// Flags of sh and mh: sh-fallback, sh-port, mh-fallback, mh-port
    #[arg(short = 'b', long = "flags", alias = "sched-flags", value_name = "FLAG", value_delimiter = ',')]
    pub(super) flags: Vec<String>,
    /// Who may open connections, as often as needed: 'PREFIX allow', 'PREFIX deny' or
    /// 'PREFIX limit RATE [burst N] [per LENGTH]'; the longest prefix decides
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub(super) source: Vec<(IpNet, SourceRule)>,
    #[command(flatten)]
    pub(super) options: OptionArgs,
}

/// How the service treats its connections. What is not given stays as it is.
#[derive(Debug, Args)]
pub(super) struct OptionArgs {
    /// Idle timeouts of its own, for example tcp=30m,tcp_fin=20s; NAME=default: the global one again.
    /// Names: tcp, tcp_fin, tcp_syn, tcp_time_wait, tcp_close, udp, sctp, sctp_init1, sctp_init, sctp_echoed,
    /// sctp_shutdown, sctp_closed
    #[arg(long, value_name = "NAME=DURATION", value_delimiter = ',', value_parser = parse::own_timeout)]
    pub(super) timeout: Vec<OwnTimeout>,
    /// What happens to connections of a removed backend: drop their packets, reschedule a SYN or a datagram, or
    /// that and a reset for the rest of TCP; auto is drop for TCP, reschedule for UDP
    #[arg(long, value_name = "auto|drop|reschedule|reset", value_parser = config::expire_nodest)]
    pub(super) expire_nodest: Option<ExpireNodest>,
    /// Of persistence: new connections of a client whose backend is drained or has weight 0 go to another
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(super) expire_quiescent_template: Option<bool>,
    /// What a client is told whose connection no backend takes, or whose TCP segment belongs to no known one:
    /// ICMP port unreachable and a reset; always a reset; nothing; or the director's own stack gets the packet
    #[arg(long, value_name = "icmp|reset|drop|pass", value_parser = config::reject)]
    pub(super) reject: Option<Reject>,
    /// New connections a second above which they get no entry in the flow table until their handshake is complete
    #[arg(long, value_name = "auto|off|RATE")]
    pub(super) guard: Option<Guard>,
    /// Take TCP connections up in their middle: any segment but a reset opens one
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(super) sloppy_tcp: Option<bool>,
    /// Take SCTP associations up in their middle: any packet but an ABORT opens one
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(super) sloppy_sctp: Option<bool>,
    /// Of lc, wlc, lblc, lblcr and twos: a backend's load is 256 x active + inactive connections, as with kernels
    /// before 2026, instead of 256 x active + all
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(super) classic_load: Option<bool>,
    /// One-packet scheduling of UDP: each datagram goes to the next backend, none is remembered
    #[arg(long, alias = "one-packet", value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(super) ops: Option<bool>,
    /// A client's connections go to one backend, until it has opened none for so many seconds (360 if not
    /// said); 0: each by itself
    #[arg(short, long, alias = "persistent", value_name = "DURATION", num_args = 0..=1)]
    #[arg(default_missing_value = "360", value_parser = parse::figure)]
    pub(super) persistence: Option<u32>,
    /// Of persistence: clients that share this prefix count as one; a length, or an IPv4 netmask
    #[arg(short = 'M', long, alias = "netmask", value_name = "PREFIX", requires = "persistence")]
    #[arg(value_parser = granularity)]
    pub(super) granularity: Option<u8>,
    /// Of persistence: whether a client comes back to one backend by all endpoints of the service, or by each
    /// of them [default: service]
    #[arg(long, value_name = "service|endpoint", requires = "persistence")]
    #[arg(value_parser = config::persistence_scope)]
    pub(super) persistence_scope: Option<Scope>,
}

/// Where clients connect.
#[derive(Debug, Args)]
#[group(id = "where", required = true, multiple = true)]
pub(super) struct EndpointArgs {
    /// A TCP service; IPv6 as [VIP]:PORT, port 0 is every port of the address, FIRST-LAST a range of ports
    #[arg(short = 't', long, alias = "tcp-service", value_name = "VIP:PORT", conflicts_with_all = ["udp", "sctp"])]
    #[arg(value_parser = parse::vip_and_port)]
    pub(super) tcp: Option<Place>,
    /// A UDP service
    #[arg(short = 'u', long, alias = "udp-service", value_name = "VIP:PORT", conflicts_with = "sctp")]
    #[arg(value_parser = parse::vip_and_port)]
    pub(super) udp: Option<Place>,
    /// An SCTP service
    #[arg(long, alias = "sctp-service", value_name = "VIP:PORT")]
    #[arg(value_parser = parse::vip_and_port)]
    pub(super) sctp: Option<Place>,
    /// A further endpoint of the same service, as often as needed: tcp/VIP:PORT, udp/VIP:FIRST-LAST, sctp/VIP:PORT.
    /// Without -t, -u and --sctp the first one gives the backends their port
    #[arg(short, long, value_name = "PROTOCOL/VIP:PORT", value_parser = parse::endpoint)]
    pub(super) endpoint: Vec<Endpoint>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["scheduler", "timeout", "persistence", "expire_nodest", "expire_quiescent_template", "reject", "guard",
           "sloppy_tcp", "sloppy_sctp", "classic_load", "ops", "add_endpoint", "del_endpoint", "source",
           "del_source"]))]
pub(super) struct EditArgs {
    /// The service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
    #[arg(value_parser = parse::service)]
    pub(super) service: ServiceArg,
    #[command(flatten)]
    pub(super) change: Change,
}

/// What is not given stays as it is.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// Which backend a new connection gets
    #[arg(short, long, value_name = "SCHEDULER", value_parser = schedulers())]
    pub(super) scheduler: Option<Scheduler>,
    /// Flags of sh and mh: sh-fallback, sh-port, mh-fallback, mh-port
    #[arg(short = 'b', long = "flags", alias = "sched-flags", value_name = "FLAG", value_delimiter = ',')]
    #[arg(requires = "scheduler")]
    pub(super) flags: Vec<String>,
    /// One more endpoint, as often as needed: tcp/VIP:PORT, udp/VIP:FIRST-LAST
    #[arg(long, value_name = "PROTOCOL/VIP:PORT", value_parser = parse::endpoint)]
    pub(super) add_endpoint: Vec<Endpoint>,
    /// Take an endpoint away; its connections go on until they end
    #[arg(long, value_name = "PROTOCOL/VIP:PORT", value_parser = parse::endpoint)]
    pub(super) del_endpoint: Vec<Endpoint>,
    /// Who may open connections, as often as needed, in the place of what the prefix had: 'PREFIX allow',
    /// 'PREFIX deny' or 'PREFIX limit RATE [burst N] [per LENGTH]'; the longest prefix decides
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub(super) source: Vec<(IpNet, SourceRule)>,
    /// Take a prefix's rule away
    #[arg(long, value_name = "PREFIX", value_parser = network)]
    pub(super) del_source: Vec<IpNet>,
    #[command(flatten)]
    pub(super) options: OptionArgs,
}

pub(super) async fn run(
    command: ServiceCommand,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    match command {
        ServiceCommand::Add(args) => {
            let add = args.into_body()?;
            let name = add.name.clone().unwrap_or_else(|| add.endpoint.default_name());
            let done = client.service_add(&add).await?;
            output.done(&done, || format!("service {name} added"))
        }
        ServiceCommand::Edit(EditArgs { service, change }) => {
            let name = find_name(client, &service).await?;
            let edit = change.into_body()?;
            let done = client.service_edit(&name, &edit).await?;
            output.done(&done, || format!("service {name} changed: {}", edited(&edit)))
        }
        ServiceCommand::Del { service } => {
            let name = find_name(client, &service).await?;
            let done = client.service_delete(&name).await?;
            output.done(&done, || format!("service {name} removed"))
        }
        ServiceCommand::List => {
            let services = client.services().await?;
            if output.is_json() {
                return Ok(output.json(&services, false)?);
            }
            let table = list_table(&services, output);
            Ok(output.table(&table)?)
        }
        ServiceCommand::Show { service } => {
            let view = find(client, &service).await?;
            if output.is_json() {
                return Ok(output.json(&view, false)?);
            }
            show(&view, output)
        }
    }
}

/// The service that was typed, by name or by endpoint.
pub(super) async fn find(client: &Client, arg: &ServiceArg) -> Result<ServiceView, CliError> {
    if arg.endpoint.is_none() {
        return Ok(client.service(&arg.name).await?);
    }
    let mut services = client.services().await?;
    let named = services.iter().position(|s| s.name == arg.name);
    let mut meant =
        services.iter().enumerate().filter(|(_, s)| s.endpoints().any(|at| arg.means(at))).map(|(i, _)| i);
    let found = match (named, meant.next(), meant.next()) {
        (Some(index), ..) | (None, Some(index), None) => index,
        (None, Some(_), Some(_)) => {
            let message = format!(
                "{0} is an endpoint of several protocols; write tcp/{0}, udp/{0} or sctp/{0}, or its name",
                arg.name
            );
            return Err(CliError::Local { exit: Exit::Refused, message });
        }
        // For the agent's own refusal, which knows the nearest name.
        (None, None, _) => return Ok(client.service(&arg.name).await?),
    };
    Ok(services.swap_remove(found))
}

/// Its name only, which needs no question if a name was typed.
pub(super) async fn find_name(client: &Client, arg: &ServiceArg) -> Result<ServiceName, CliError> {
    match arg.endpoint {
        None => Ok(arg.name.clone()),
        Some(_) => Ok(find(client, arg).await?.name),
    }
}

fn schedulers() -> impl TypedValueParser<Value = Scheduler> {
    PossibleValuesParser::new(Scheduler::ALL.map(Scheduler::name)).try_map(|typed| typed.parse::<Scheduler>())
}

/// One row per service; `ActiveConn` and `InActConn` are sums over the backends.
pub(super) fn list_table(services: &[ServiceView], output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Service"),
        Text("Prot"),
        Text("LocalAddress:Port"),
        Text("Scheduler"),
        Number("Backends"),
        Number("ActiveConn"),
        Number("InActConn"),
        Number("Conns"),
        Number("Packets"),
        Number("Bytes"),
    ]);
    for service in services {
        table.add_row(vec![
            Cell::new(&service.name),
            Cell::new(service.endpoint.protocol.to_string().to_uppercase()),
            Cell::new(places(service)),
            Cell::new(service.scheduler),
            up_of_all(service),
            Cell::new(number::count(service.backends.iter().map(|b| b.active).sum())),
            Cell::new(number::count(service.backends.iter().map(|b| b.inactive).sum())),
            Cell::new(number::count(service.counters.connections)),
            Cell::new(number::count(service.counters.packets)),
            Cell::new(number::bytes(service.counters.bytes)),
        ]);
    }
    table
}

pub(super) fn show(view: &ServiceView, output: &mut Output<'_>) -> Result<(), CliError> {
    let table = list_table(std::slice::from_ref(view), output);
    output.table(&table)?;
    for endpoint in &view.group {
        output.line(format!("endpoint: {endpoint}"))?;
    }
    for (network, rule) in &view.sources {
        output.line(format!("source: {network} {rule}"))?;
    }
    for line in option_lines(&view.options) {
        output.line(line)?;
    }
    if !view.checks.is_empty() {
        output.line(format!("health checks: {}", view.checks.join("; ")))?;
    }
    output.line("")?;
    if view.backends.is_empty() {
        return Ok(output.line(format!(
            "no backends: clients are refused; add one with `lb backend add {} ADDRESS`",
            view.name
        ))?);
    }
    let table = backend::list_table(std::slice::from_ref(view), output);
    Ok(output.table(&table)?)
}

/// One line for each thing that is not as by default.
fn option_lines(options: &ServiceOptions) -> Vec<String> {
    let ServiceOptions {
        timeouts,
        persistence,
        expire_nodest,
        expire_quiescent_template,
        reject,
        guard,
        sloppy_tcp,
        sloppy_sctp,
        classic_load,
        ops,
    } = *options;
    let lines = [
        (!timeouts.is_empty())
            .then(|| format!("timeouts of its own (seconds): {}", timeout::listed(timeouts))),
        persistence.map(|persistence| format!("persistence: {persistence}")),
        (expire_nodest != ExpireNodest::default())
            .then(|| format!("connections of a removed backend (expire_nodest): {expire_nodest}")),
        expire_quiescent_template
            .then(|| "leaves drained backends to no client (expire_quiescent_template)".to_owned()),
        (reject != Reject::default()).then(|| format!("clients that cannot be served (reject): {reject}")),
        (guard != Guard::default()).then(|| format!("guard against floods: {guard}")),
        sloppy_tcp.then(|| "takes TCP connections up in their middle (sloppy_tcp)".to_owned()),
        sloppy_sctp.then(|| "takes SCTP associations up in their middle (sloppy_sctp)".to_owned()),
        classic_load.then(|| "counts load as 256 x active + inactive connections (classic_load)".to_owned()),
        ops.then(|| "schedules each datagram by itself (ops)".to_owned()),
    ];
    lines.into_iter().flatten().collect()
}

/// What an edit set.
fn edited(edit: &ServiceEdit) -> String {
    let ServiceEdit { scheduler, options, endpoints: EndpointsEdit { add, del }, sources } = edit;
    let OptionsEdit {
        timeouts,
        persistence,
        expire_nodest,
        expire_quiescent_template,
        reject,
        guard,
        sloppy_tcp,
        sloppy_sctp,
        classic_load,
        ops,
    } = options;
    let set = [
        scheduler.map(|scheduler| format!("scheduler {scheduler}")),
        (!timeouts.is_empty()).then(|| format!("timeouts {}", timeout::listed(*timeouts))),
        persistence.map(|persistence| format!("persistence {persistence}")),
        expire_nodest.map(|what| format!("expire_nodest {what}")),
        expire_quiescent_template.map(|is| format!("expire_quiescent_template {is}")),
        reject.map(|what| format!("reject {what}")),
        guard.map(|rate| format!("guard {rate}")),
        sloppy_tcp.map(|is| format!("sloppy_tcp {is}")),
        sloppy_sctp.map(|is| format!("sloppy_sctp {is}")),
        classic_load.map(|is| format!("classic_load {is}")),
        ops.map(|is| format!("ops {is}")),
    ];
    let removed = del.iter().map(|endpoint| format!("endpoint {endpoint} removed"));
    let added = add.iter().map(|endpoint| format!("endpoint {endpoint}"));
    let unruled = sources.del.iter().map(|network| format!("source {network} removed"));
    let ruled = sources.set.iter().map(|(network, rule)| format!("source {network} {rule}"));
    let all = removed.chain(added).chain(set.into_iter().flatten()).chain(unruled).chain(ruled);
    all.collect::<Vec<_>>().join(", ")
}

/// The first endpoint, and how many more there are.
fn places(service: &ServiceView) -> String {
    match service.group.len() {
        0 => service.endpoint.place(),
        more => format!("{} +{more}", service.endpoint.place()),
    }
}

fn up_of_all(service: &ServiceView) -> Cell {
    let all = service.backends.len();
    let up = service.backends.iter().filter(|b| b.state == BackendState::Up).count();
    let tone = match up {
        0 => Tone::Bad,
        up if up < all => Tone::Notice,
        _ => Tone::Good,
    };
    tone.cell(format!("{up}/{all}"))
}

impl AddArgs {
    fn into_body(self) -> Result<ServiceAdd, CliError> {
        let Self { name, name_option, endpoint, scheduler, flags, source, options } = self;
        let scheduler = with_flags(scheduler, &flags)?;
        let options = edited_options(&ServiceOptions::default(), &options.into_edit());
        let (endpoint, group) = endpoint.split();
        let group = group.into_iter().filter(|it| *it != endpoint).collect();
        let sources = source.into_iter().collect();
        Ok(ServiceAdd { name: name.or(name_option), endpoint, group, scheduler, options, sources })
    }
}

impl Change {
    fn into_body(self) -> Result<ServiceEdit, CliError> {
        let Self { scheduler, flags, add_endpoint, del_endpoint, source, del_source, options } = self;
        let scheduler = scheduler.map(|scheduler| with_flags(scheduler, &flags)).transpose()?;
        let endpoints = EndpointsEdit {
            add: add_endpoint.into_iter().collect(),
            del: del_endpoint.into_iter().collect(),
        };
        let sources =
            SourcesEdit { set: source.into_iter().collect(), del: del_source.into_iter().collect() };
        Ok(ServiceEdit { scheduler, options: options.into_edit(), endpoints, sources })
    }
}

impl OptionArgs {
    fn into_edit(self) -> OptionsEdit {
        let Self {
            timeout,
            persistence,
            granularity,
            persistence_scope,
            expire_nodest,
            expire_quiescent_template,
            reject,
            guard,
            sloppy_tcp,
            sloppy_sctp,
            classic_load,
            ops,
        } = self;
        let scope = persistence_scope.unwrap_or_default();
        let persistence = persistence.map(|timeout| Persistence { timeout, granularity, scope });
        OptionsEdit {
            timeouts: timeout::collected(&timeout),
            persistence,
            expire_nodest,
            expire_quiescent_template,
            reject,
            guard,
            sloppy_tcp,
            sloppy_sctp,
            classic_load,
            ops,
        }
    }
}

fn with_flags(scheduler: Scheduler, flags: &[String]) -> Result<Scheduler, CliError> {
    flags
        .iter()
        .try_fold(scheduler, |scheduler, flag| scheduler.with_flag(flag))
        .map_err(|wrong| CliError::Local { exit: Exit::Usage, message: format!("--flags: {wrong}") })
}

impl EndpointArgs {
    /// The first one, and the others.
    pub(super) fn split(self) -> (Endpoint, Vec<Endpoint>) {
        let Self { tcp, udp, sctp, mut endpoint } = self;
        let tcp = tcp.map(|place| place.of(Protocol::Tcp));
        let udp = udp.map(|place| place.of(Protocol::Udp));
        match tcp.or(udp).or(sctp.map(|place| place.of(Protocol::Sctp))) {
            Some(first) => (first, endpoint),
            // clap requires one of the group.
            None => {
                let first = endpoint.remove(0);
                (first, endpoint)
            }
        }
    }
}
