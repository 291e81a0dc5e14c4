//! The running state as the API shows it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use lb_common::{counters, dest::Dest, host::Route, template, value::Value};

use super::{Agent, rates::Counted};
use crate::{
    api::{
        server::Failure,
        types::{
            BackendState, BackendStats, BackendView, CONNS_AT_ONCE, CheckState, CheckView, ConnFilter,
            ConnList, ConnView, Counters, Done, Health, InterfaceView, Rate, ServiceStats, ServiceView,
            Stats, Status, TableStats, VerdictCount,
        },
    },
    clock::monotonic,
    dataplane::FlowEntry,
    health::{self, State},
    model::{Backend, BackendKey, Endpoint, Protocol, Service, ServiceName, edit},
    plan::{ByHealth, EndpointKey, Snapshot, dest_address, name_of},
    pressure::Pressure,
};

pub fn status(agent: &Agent) -> Status {
    let Agent { config, model, pins, network, interfaces, .. } = agent;
    let of_drivers = interfaces.warnings();
    let backends = model.services.iter().flat_map(|service| &service.backends);
    // What fails while somebody works on it is no failure.
    let fails = |service: &Service, backend: &Backend| {
        backend.maintenance.is_none() && !agent.monitor.health.healthy(&service.name, backend.key)
    };
    let unhealthy = model
        .services
        .iter()
        .map(|service| service.backends.iter().filter(|backend| fails(service, backend)).count());
    let unhealthy = unhealthy.sum();
    let interfaces = interfaces.all.iter().filter_map(|interface| {
        let attached = interface.attached.as_ref()?;
        Some(InterfaceView {
            name: interface.spec.name.clone(),
            attached_to: interface.attachment.name.clone(),
            ifindex: interface.attachment.ifindex,
            vlan: interface.attachment.tags().first().copied().unwrap_or(0),
            mode: if attached.generic { "generic" } else { "native" }.to_owned(),
            program_id: attached.program_id,
            mac: mac(interface.attachment.mac),
            mtu: interface.attachment.mtu,
        })
    });
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: config.instance.clone(),
        pid: std::process::id(),
        uptime: monotonic().saturating_sub(agent.started).as_secs(),
        config_file: agent.options.config.display().to_string(),
        bpf_pin_dir: pins.layout.dir().display().to_string(),
        schema_version: pins.meta.schema,
        interfaces: interfaces.collect(),
        services: model.services.len(),
        backends: backends.clone().count(),
        unresolved_backends: backends
            .filter(|backend| network.trouble(backend.key.address).is_some())
            .count(),
        unhealthy_backends: unhealthy,
        overlay: agent.overlay.describe(),
        warnings: agent
            .warnings
            .iter()
            .chain(of_drivers)
            .chain(&agent.growth.warning)
            .cloned()
            .chain(agent.monitor.troubled(model))
            .chain(agent.events.warning.clone())
            .chain(agent.probe_warnings())
            .chain(agent.tracing.warning())
            .collect(),
    }
}

pub fn services(agent: &Agent) -> Result<Vec<ServiceView>> {
    let snapshot = agent.pins.maps.without_rules()?;
    let ids = Ids::new(&snapshot);
    agent.model.services.iter().map(|service| view(agent, &snapshot, &ids, service)).collect()
}

pub fn service(agent: &Agent, name: &ServiceName) -> Result<ServiceView, Failure> {
    let service = agent.model.service(name).ok_or_else(|| edit::no_such_service(&agent.model, name))?;
    let snapshot = agent.pins.maps.without_rules().map_err(super::change::internal)?;
    view(agent, &snapshot, &Ids::new(&snapshot), service).map_err(super::change::internal)
}

/// Ids by what they stand for.
struct Ids {
    services: BTreeMap<String, u16>,
    dests: BTreeMap<(u16, BackendKey), u32>,
}

impl Ids {
    fn new(snapshot: &Snapshot) -> Self {
        let services = snapshot.services.iter().map(|(id, record)| (name_of(&record.name), *id)).collect();
        let dests = snapshot.dests.iter().map(|(id, dest)| {
            let key = BackendKey { address: dest_address(dest), port: u16::from_be_bytes(dest.port) };
            ((dest.service, key), *id)
        });
        Self { services, dests: dests.collect() }
    }

    fn service(&self, name: &ServiceName) -> u16 {
        self.services.get(name.as_str()).copied().unwrap_or(0)
    }

    fn dest(&self, service: u16, key: BackendKey) -> u32 {
        self.dests.get(&(service, key)).copied().unwrap_or(0)
    }
}

fn view(agent: &Agent, snapshot: &Snapshot, ids: &Ids, service: &Service) -> Result<ServiceView> {
    let id = ids.service(&service.name);
    let pool = agent.monitor.health.pool(service);
    let backends = service.backends.iter();
    Ok(ServiceView {
        name: service.name.clone(),
        endpoint: service.endpoint,
        group: service.group.clone(),
        scheduler: service.scheduler,
        options: service.options,
        sources: service.sources.clone(),
        guarded: agent.pins.maps.is_guarded(id, agent.clock.now()),
        checks: service.health.checks.iter().map(ToString::to_string).collect(),
        counters: shown(agent.pins.maps.service_counters(id)?),
        backends: backends
            .map(|backend| {
                let given = pool.given.get(&backend.key).copied();
                let rests = given == Some(ByHealth::Out) && pool.reserve.contains(&backend.key);
                let dest = ids.dest(id, backend.key);
                backend_view(agent, snapshot, dest, service, backend, (given, rests))
            })
            .collect::<Result<_>>()?,
    })
}

fn backend_view(
    agent: &Agent,
    snapshot: &Snapshot,
    dest: u32,
    service: &Service,
    backend: &Backend,
    (given, rests): (Option<ByHealth>, bool),
) -> Result<BackendView> {
    let health_weight = match given {
        None => backend.weight,
        Some(ByHealth::Weight(weight)) => weight,
        Some(ByHealth::Out) => 0,
    };
    let healthy = agent.monitor.health.healthy(&service.name, backend.key);
    let held = agent.monitor.health.held(&service.name, backend.key);
    let suspicion = agent.monitor.health.suspicion(&service.name, backend.key);
    let counts = agent.pins.maps.conn_counts(dest);
    let host = snapshot.dests.get(&dest).and_then(|dest| snapshot.hosts.get(&dest.host));
    let route = host.map_or(Route::UNRESOLVED, |host| Route(host.route));
    let link = snapshot.links.get(&route.link());
    let trouble = agent.network.trouble(backend.key.address);
    let state = if backend.drained {
        BackendState::Drained
    } else if backend.maintenance.is_some() {
        BackendState::Maintenance
    } else if trouble.is_some() {
        BackendState::Unresolved
    } else if (!healthy || held.is_some() || suspicion.is_some()) && health_weight == 0 {
        BackendState::Down
    } else if rests {
        BackendState::Standby
    } else if health_weight == 0 {
        BackendState::Quiesced
    } else if counts.overloaded != 0 {
        BackendState::Overloaded
    } else {
        BackendState::Up
    };
    let checks = agent.monitor.health.checks(&service.name, backend.key);
    let kept = (!healthy && state == BackendState::Up).then(|| "kept by minimum_healthy".to_owned());
    let flaps = held.map(|(failures, until)| {
        let left = until.saturating_sub(monotonic()).as_secs();
        let verb = if state == BackendState::Up { "would be kept" } else { "is kept" };
        format!("flaps ({failures} failures): {verb} out for {left} s more")
    });
    let suspect = suspicion.map(|(_, until, why)| {
        let left = until.saturating_sub(monotonic()).as_secs();
        format!("suspect for {left} s more (passive): {why}")
    });
    let maintenance = backend.maintenance.as_ref().map(ToString::to_string);
    let local = route.link() == lb_common::host::LOCAL;
    Ok(BackendView {
        key: backend.key,
        weight: backend.weight,
        health_weight,
        upper_threshold: backend.upper_threshold,
        lower_threshold: backend.lower_threshold,
        state,
        detail: detail(
            [maintenance, trouble, local.then(|| "this director itself".to_owned()), kept, flaps, suspect],
            &checks,
        ),
        maintenance: backend.maintenance.clone(),
        checks: checks.into_iter().map(check_view).collect(),
        mac: link.map(|_| mac(route.mac())),
        interface: link.map(|link| name_of(&link.name)),
        active: counts.active,
        inactive: counts.inactive,
        counters: shown(agent.pins.maps.dest_counters(dest)?.served),
    })
}

/// Why a backend is as it is: `why`, and the checks that are not simply passing.
fn detail(why: [Option<String>; 6], checks: &[health::CheckView]) -> Option<String> {
    let parts: Vec<String> =
        why.into_iter().flatten().chain(checks.iter().filter_map(health::CheckView::trouble)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn check_view(view: health::CheckView) -> CheckView {
    let health::CheckView { check, state, last, against, weight: _ } = view;
    let (against, needed) = against.unwrap_or_default();
    CheckView {
        check,
        state: match state {
            State::Unproven => CheckState::Unproven,
            State::Up => CheckState::Up,
            State::Down => CheckState::Down,
        },
        result: last.as_ref().map(|outcome| outcome.words().to_owned()),
        passed: last.as_ref().map(|outcome| outcome.result.is_ok()),
        took_us: last.map(|outcome| u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX)),
        against,
        needed,
    }
}

pub fn stats(agent: &Agent) -> Result<Stats> {
    let snapshot = agent.pins.maps.without_rules()?;
    let ids = Ids::new(&snapshot);
    let maps = &agent.pins.maps;
    let (mut total, mut total_rate) = (Counters::default(), Rate::default());
    let mut services = Vec::new();
    for service in &agent.model.services {
        let id = ids.service(&service.name);
        let counters = shown(maps.service_counters(id)?);
        total.connections += counters.connections;
        total.packets += counters.packets;
        total.bytes += counters.bytes;
        let rate = agent.rates.rate(Counted::Service(id));
        total_rate.connections += rate.connections;
        total_rate.packets += rate.packets;
        total_rate.bytes += rate.bytes;
        let mut backends = Vec::new();
        for backend in &service.backends {
            let dest = ids.dest(id, backend.key);
            let counters = maps.dest_counters(dest)?;
            let health = Health {
                incomplete_handshakes: maps.conn_counts(dest).incomplete,
                syn_retransmissions: counters.retransmissions,
                client_resets: counters.resets,
            };
            backends.push(BackendStats {
                key: backend.key,
                counters: shown(counters.served),
                rate: agent.rates.rate(Counted::Dest(dest)),
                health,
            });
        }
        services.push(ServiceStats {
            name: service.name.clone(),
            endpoint: service.endpoint,
            counters,
            rate,
            backends,
        });
    }
    let verdicts = maps.verdicts()?.into_iter().map(|count| VerdictCount {
        name: count.name.to_owned(),
        meaning: count.meaning.to_owned(),
        packets: count.packets,
        rate: agent.rates.rate(Counted::Verdict(count.name)).packets,
    });
    let (narrow, wide) = maps.table_bytes();
    let (narrow_fill, wide_fill) = (&agent.pressure.narrow, &agent.pressure.wide);
    let table = |name: &str, used, rated, memory_bytes, (pressure, pruned): &(Pressure, u64)| TableStats {
        table: name.to_owned(),
        used,
        rated: u64::from(rated),
        pressed: pressure.is_on(),
        pruned: *pruned,
        memory_bytes,
    };
    Ok(Stats {
        monotonic_ns: monotonic().as_nanos() as u64,
        total,
        total_rate,
        services,
        verdicts: verdicts.collect(),
        flows: vec![
            table("ipv4", agent.sweep.narrow_live, agent.pins.meta.narrow_buckets, narrow, narrow_fill),
            table("wide", agent.sweep.wide_live, agent.pins.meta.wide_buckets, wide, wide_fill),
        ],
        checks: agent.monitor.made(),
    })
}

pub fn conns(agent: &Agent, filter: &ConnFilter) -> Result<ConnList, Failure> {
    let mut list = ConnList::default();
    let limit = filter.limit.unwrap_or(CONNS_AT_ONCE);
    matching(agent, filter, |_, view| {
        list.total += 1;
        if list.conns.len() < limit {
            list.conns.push(view);
        }
    })?;
    Ok(list)
}

pub fn flush(agent: &Agent, filter: &ConnFilter) -> Result<Done, Failure> {
    let now = agent.clock.now();
    let mut entries = Vec::new();
    matching(agent, filter, |entry, _| entries.push(*entry))?;
    let asked = entries.len();
    let flushed = entries.iter().filter(|entry| agent.pins.maps.flush(entry, now)).count();
    let mut warnings = Vec::new();
    if flushed < asked {
        warnings.push(format!(
            "{} connections changed while they were flushed and are still there",
            asked - flushed
        ));
    }
    tracing::info!(connections = flushed, "flushed");
    Ok(Done { warnings })
}

/// Calls `each` with every live connection that the filter lets through.
fn matching(
    agent: &Agent,
    filter: &ConnFilter,
    mut each: impl FnMut(&FlowEntry, ConnView),
) -> Result<(), Failure> {
    let client = filter.client.as_deref().map(prefix).transpose()?;
    let snapshot = agent.pins.maps.without_rules().map_err(super::change::internal)?;
    // A deleted service is there as long as it has connections.
    let is_known = |name: &ServiceName| {
        agent.model.service(name).is_some()
            || snapshot.services.values().any(|record| name_of(&record.name) == name.as_str())
    };
    if let Some(name) = filter.service.as_ref().filter(|name| !is_known(name)) {
        return Err(edit::no_such_service(&agent.model, name).into());
    }
    let endpoints: BTreeMap<u16, (&EndpointKey, Protocol)> = snapshot
        .endpoints
        .iter()
        .filter_map(|(key, endpoint)| Some((endpoint.id(), (key, key.protocol?))))
        .collect();
    agent.pins.maps.flows(agent.clock.now(), |entry| {
        let Some(dest) = snapshot.dests.get(&entry.value.dest()) else { return };
        let at = match entry.endpoint {
            Some(id) => endpoints.get(&id).map(|(key, protocol)| listed_at(key, *protocol, &entry)),
            None => agent_service(agent, &snapshot, dest).map(template_at),
        };
        let at = at.unwrap_or_else(|| deleted_at(&snapshot, dest));
        let Some(view) = conn_view(agent, &snapshot, dest, at, &entry) else { return };
        let passes = filter.service.as_ref().is_none_or(|name| *name == view.service)
            && filter.backend.is_none_or(|backend| backend == view.backend)
            && filter.state.as_ref().is_none_or(|state| state.eq_ignore_ascii_case(&view.state))
            && client.is_none_or(|(network, length)| covers(network, length, view.client.ip()));
        if passes {
            each(&entry, view);
        }
    });
    Ok(())
}

/// Where the connection came to.
fn listed_at(key: &EndpointKey, protocol: Protocol, entry: &FlowEntry) -> Endpoint {
    let port = if key.port == 0 { entry.port } else { key.port };
    Endpoint::new(key.address, port, protocol)
}

/// The service of a destination, if it was not deleted.
fn agent_service<'a>(agent: &'a Agent, snapshot: &Snapshot, dest: &Dest) -> Option<&'a Service> {
    let record = snapshot.services.get(&dest.service)?;
    agent.model.service(&ServiceName::new(name_of(&record.name)).ok()?)
}

/// What a service's template is listed by: its endpoint, or the address of the first with port 0 for "more than
/// one".
fn template_at(service: &Service) -> Endpoint {
    let Endpoint { address, port, protocol, last_port } = service.endpoint;
    let is_one = service.group.is_empty() && last_port.is_none();
    Endpoint::new(address, if is_one { port } else { 0 }, protocol)
}

/// The same of a service that was deleted: any endpoint that is left, or its family's unspecified address.
fn deleted_at(snapshot: &Snapshot, dest: &Dest) -> Endpoint {
    let left = snapshot.endpoints.iter().find(|(_, endpoint)| endpoint.service() == dest.service);
    let left = left.and_then(|(key, _)| Some(Endpoint::new(key.address, key.port, key.protocol?)));
    let unspecified = match dest_address(dest) {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    left.unwrap_or(Endpoint::new(unspecified, 0, Protocol::Tcp))
}

fn conn_view(
    agent: &Agent,
    snapshot: &Snapshot,
    dest: &Dest,
    at: Endpoint,
    entry: &FlowEntry,
) -> Option<ConnView> {
    let service = snapshot.services.get(&dest.service)?;
    let client = match at.address {
        IpAddr::V4(_) => IpAddr::from([entry.client[0], entry.client[1], entry.client[2], entry.client[3]]),
        IpAddr::V6(_) => IpAddr::from(entry.client),
    };
    Some(ConnView {
        protocol: at.protocol,
        client: SocketAddr::new(client, entry.client_port),
        virtual_address: SocketAddr::new(at.address, at.port),
        service: ServiceName::new(name_of(&service.name)).ok()?,
        backend: BackendKey { address: dest_address(dest), port: u16::from_be_bytes(dest.port) },
        template: entry.value.is_template(),
        state: if entry.value.is_template() {
            template_state(entry.value)
        } else {
            entry.value.state().name()
        }
        .to_owned(),
        expires: agent.clock.seconds_until(agent.pins.maps.expiry(entry.value)),
    })
}

/// As IPVS shows it.
fn template_state(value: Value) -> &'static str {
    if value.state() == template::ASSURED { "ASSURED" } else { "NONE" }
}

/// `10.0.0.0/8` or a single address.
fn prefix(text: &str) -> Result<(IpAddr, u8), Failure> {
    let bad = || {
        Failure::bad_input(format!("client {text:?} is not an address or prefix"))
            .hint("such as 10.1.2.3 or 10.0.0.0/8")
    };
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Ok(longest), str::parse).map_err(|_| bad())?;
    if length > longest { Err(bad()) } else { Ok((address, length)) }
}

fn covers(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((network, a), (address, b)) = (bits(network), bits(address));
    a == b && (length == 0 || (network ^ address) >> (128 - u32::from(length)) == 0)
}

fn shown(counters: counters::Counters) -> Counters {
    let counters::Counters { connections, packets, bytes } = counters;
    Counters { connections, packets, bytes }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_what_they_should() {
        let covered = |text: &str, address: &str| {
            let (network, length) = prefix(text).expect("a prefix");
            covers(network, length, address.parse().expect("an address"))
        };
        assert!(covered("10.0.0.0/8", "10.255.1.2"));
        assert!(!covered("10.0.0.0/8", "11.0.0.1"));
        assert!(covered("0.0.0.0/0", "1.2.3.4"));
        assert!(!covered("0.0.0.0/0", "::1"));
        assert!(covered("fd00::1", "fd00::1"));
        assert!(!covered("fd00::/64", "fd00:0:0:1::1"));
        assert!(prefix("10.0.0.0/33").is_err());
        assert!(prefix("ten").is_err());
    }
}
