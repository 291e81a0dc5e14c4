//! Services and backends.

use std::{collections::HashMap, net::IpAddr};

use lb_common::source::MAX_RULES;

use super::{
    check::{Of, checks},
    director::partial_timeouts,
    error::{Pos, Problems},
    fields::{Fields, scalar},
    notify::hooks,
    schema,
    sources::{check_count, sources},
    tree::Node,
    values::{Fault, address, boolean, duration, fault, millis, number, word},
};
use crate::model::{
    Backend, BackendKey, Endpoint, ExpireNodest, Guard, Limits, PartialTimeouts, Persistence, Protocol,
    Reject, Scheduler, Scope, Service, ServiceName, ServiceOptions,
    check::{BackendHealth, PassiveMode, ServiceHealth},
    endpoint::Claims,
    persistence::{granularity, longest_prefix},
    rules::{backend_fault, family, option_fault, same_family, thresholds_ok, vip_fault},
    timeouts::MAX_TIMEOUT,
};

pub(super) const DEFAULT_WEIGHT: u16 = 1;
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
/// Reads all services and checks them against each other.
pub(super) fn services(items: &[Node], limits: &Limits, problems: &mut Problems) -> Vec<Service> {
    let mut services = Vec::new();
    let mut names: HashMap<ServiceName, Pos> = HashMap::new();
    let mut claims: Claims<(ServiceName, Pos)> = Claims::default();
    let (mut destinations, mut destinations_told) = (0, false);
    let (mut endpoints, mut endpoints_told) = (0, false);
    let mut rules = 0;
    for (at, item) in items.iter().enumerate() {
        if at == limits.services as usize {
            let wrong =
                format!("{} services are more than `limits.services`, {}", items.len(), limits.services);
            problems.add(item.pos, wrong, "raise `limits.services`, or delete services");
        }
        let Some((service, places)) = service(item, problems) else { continue };
        let mut collides = false;
        for (endpoint, pos) in &places.endpoints {
            match claims.find(endpoint).map(|(taken, (other, first))| (taken, other.clone(), *first)) {
                Some((taken, other, first)) => {
                    collides = true;
                    collision(*endpoint, *pos, taken, &other, first, problems);
                }
                None => claims.take(*endpoint, (service.name.clone(), *pos)),
            }
        }
        if let Some(first) = names.get(&service.name).filter(|_| !collides) {
            let wrong = format!("the name {} is taken by the service on line {}", service.name, first.line);
            problems.add(places.name, wrong, "give each service a name of its own");
        }
        endpoints += places.endpoints.len();
        if endpoints > limits.endpoints as usize && !endpoints_told {
            endpoints_told = true;
            let wrong = format!(
                "from here on there are more endpoints than `limits.endpoints`, {}",
                limits.endpoints
            );
            problems.add(item.pos, wrong, "raise `limits.endpoints`, or delete endpoints");
        }
        if rules <= MAX_RULES as usize {
            rules += service.sources.len();
            check_count(rules, item.pos, problems);
        }
        destinations += service.backends.len();
        if destinations > limits.destinations as usize && !destinations_told {
            destinations_told = true;
            let wrong = format!("from here on there are more backends than `limits.destinations`, {}", {
                limits.destinations
            });
            problems.add(item.pos, wrong, "raise `limits.destinations`, or delete backends");
        }
        names.entry(service.name.clone()).or_insert(places.name);
        services.push(service);
    }
    services
}

fn collision(
    endpoint: Endpoint,
    pos: Pos,
    taken: Endpoint,
    owner: &ServiceName,
    first: Pos,
    problems: &mut Problems,
) {
    let (how, right) = if endpoint == taken {
        ("is already served by".to_owned(), "put the backends of both into one service")
    } else {
        (format!("overlaps {taken} of"), "write ranges that have no port in common")
    };
    problems.add(pos, format!("endpoint {endpoint} {how} {owner} on line {}", first.line), right);
}

/// Where a service's name (or what stands for it) and its endpoints are written.
struct Places {
    name: Pos,
    /// The first one first.
    endpoints: Vec<(Endpoint, Pos)>,
}

fn service(node: &Node, problems: &mut Problems) -> Option<(Service, Places)> {
    use schema::service::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let name = fields.value(&NAME, problems, |text| {
        ServiceName::new(text).or_else(|e| fault(e.to_string(), format!("write {}", NAME.takes)))
    });
    let endpoints = endpoints(&fields, problems);
    let (vip, port, first) =
        endpoints.first().map_or((None, None, None), |first| (first.vip, first.port, first.whole));
    let scheduler = fields.value(&SCHEDULER, problems, scheduler).unwrap_or_default();
    let scheduler = fields.list(&FLAGS, problems).iter().fold(scheduler, |scheduler, flag| {
        let with_flag = |text: &str| {
            scheduler.with_flag(text).or_else(|wrong| fault(wrong, "write flags of the service's scheduler"))
        };
        scalar(flag, &FLAGS, problems, with_flag).unwrap_or(scheduler)
    });
    let endpoints: Vec<(Endpoint, Pos)> = endpoints.into_iter().filter_map(|read| read.whole).collect();
    let has = |protocol| endpoints.is_empty() || endpoints.iter().any(|(it, _)| it.protocol == protocol);
    let options = options(&fields, vip, has, problems);

    let sources = sources(fields.list(&SOURCES, problems), vip, problems);

    let protocols: Vec<Protocol> = endpoints.iter().map(|(endpoint, _)| endpoint.protocol).collect();
    let of = Of { family: vip, port, protocols: &protocols };
    let health = health(&fields, of, problems);
    let mut backends: Vec<Backend> = Vec::new();
    let mut seen: HashMap<BackendKey, Pos> = HashMap::new();
    for item in fields.list(&BACKENDS, problems) {
        // Read even when the service itself is broken, so that every problem is told at once.
        let Some((backend, pos)) = backend(item, vip, of, problems) else {
            continue;
        };
        match seen.get(&backend.key) {
            Some(first) => {
                let wrong =
                    format!("backend {} is given twice, first on line {}", backend.key.address, first.line);
                problems.add(pos, wrong, "keep one of them");
            }
            None => {
                seen.insert(backend.key, pos);
                backends.push(backend);
            }
        }
    }

    let (endpoint, _) = first?;
    let group = endpoints[1..].iter().map(|(endpoint, _)| *endpoint).collect();
    let places = Places { name: fields.node(&NAME).map_or(fields.pos, |n| n.pos), endpoints };
    let name = name.unwrap_or_else(|| endpoint.default_name());
    Some((Service { name, endpoint, group, scheduler, backends, options, sources, health }, places))
}

/// An endpoint as far as it is right.
struct Read {
    vip: Option<IpAddr>,
    port: Option<u16>,
    whole: Option<(Endpoint, Pos)>,
}

impl Read {
    fn new(vip: Option<IpAddr>, ports: Option<(u16, Option<u16>)>, protocol: Protocol, pos: Pos) -> Self {
        let port = ports.map(|(port, _)| port);
        let endpoint = |(address, (port, last_port))| Endpoint { address, port, protocol, last_port };
        Self { vip, port, whole: vip.zip(ports).map(|read| (endpoint(read), pos)) }
    }
}

/// The service's own, or the first of its list, and the others.
fn endpoints(fields: &Fields<'_>, problems: &mut Problems) -> Vec<Read> {
    use schema::service::*;
    let list = fields.list(&ENDPOINTS, problems);
    let protocol = fields.value(&PROTOCOL, problems, protocol).unwrap_or_default();
    let mut all: Vec<Read> = Vec::new();
    let mut vip = None;
    if list.is_empty() || fields.node(&ADDRESS).is_some() || fields.node(&PORT).is_some() {
        vip = fields.required(&ADDRESS, problems, vip_address);
        let port = fields.required(&PORT, problems, ports);
        let pos = fields.node(&ADDRESS).map_or(fields.pos, |n| n.pos);
        all.push(Read::new(vip, port, protocol, pos));
    }
    for node in list {
        use schema::endpoint::*;
        let Some(fields) = Fields::of(node, &SECTION, problems) else { continue };
        let own = match fields.node(&ADDRESS) {
            None if vip.is_some() => vip,
            _ => fields.required(&ADDRESS, problems, |text| {
                let own = vip_address(text)?;
                match all.first().and_then(|first| first.vip).filter(|first| !same_family(own, *first)) {
                    Some(first) => fault(
                        format!(
                            "{own} is {}, but the service's first, {first}, is {}",
                            family(own),
                            family(first)
                        ),
                        format!(
                            "make a service of its own for {0}, with the backends' {0} addresses",
                            family(own)
                        ),
                    ),
                    None => Ok(own),
                }
            }),
        };
        let port = fields.required(&PORT, problems, ports);
        let protocol = fields.value(&PROTOCOL, problems, self::protocol).unwrap_or(protocol);
        all.push(Read::new(own, port, protocol, fields.pos));
    }
    all
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    word(text, "protocol", &PROTOCOLS)
}

fn vip_address(text: &str) -> Result<IpAddr, Fault> {
    let vip = address(text)?;
    match vip_fault(vip) {
        Some(why) => fault(format!("{vip} cannot be a VIP: it is {why}"), "write a unicast address"),
        None => Ok(vip),
    }
}

/// A port, or the first and last of a range.
pub(super) fn ports(text: &str) -> Result<(u16, Option<u16>), Fault> {
    let Some((first, last)) = text.split_once('-').filter(|(first, _)| !first.is_empty()) else {
        return Ok((number(text, 0..=u16::MAX)?, None));
    };
    let (first, last) = (number(first.trim(), 1..=u16::MAX)?, number(last.trim(), 1..=u16::MAX)?);
    match last {
        last if last < first => {
            fault(format!("the range {text} ends before it begins"), format!("write {last}-{first}"))
        }
        last if last == first => Ok((first, None)),
        last => Ok((first, Some(last))),
    }
}

fn health(fields: &Fields<'_>, of: Of<'_>, problems: &mut Problems) -> ServiceHealth {
    use schema::service::*;
    let default = ServiceHealth::default();
    let quorum = fields.value(&QUORUM, problems, |t| number(t, 0..=u32::MAX)).unwrap_or(default.quorum);
    let hysteresis = fields.value(&HYSTERESIS, problems, |t| number(t, 0..=u32::MAX)).unwrap_or_default();
    if let Some(node) = fields.node(&HYSTERESIS).filter(|_| hysteresis > 0 && hysteresis >= quorum) {
        let wrong = format!("hysteresis {hysteresis} is not below quorum {quorum}");
        problems.add(node.pos, wrong, "lower it, or raise `quorum`");
    }
    ServiceHealth {
        checks: checks(fields.list(&CHECKS, problems), of, problems),
        minimum_healthy: fields.value(&MINIMUM_HEALTHY, problems, |t| number(t, 0..=100)).unwrap_or_default(),
        quorum,
        hysteresis,
        inhibit_on_failure: fields.value(&INHIBIT_ON_FAILURE, problems, boolean).unwrap_or_default(),
        slow_start: fields.value(&SLOW_START, problems, millis),
        hooks: hooks(fields, problems),
        flap_hold: fields.value(&FLAP_HOLD, problems, millis),
        passive: fields.value(&PASSIVE, problems, passive).unwrap_or_default(),
        passive_hold: fields.value(&PASSIVE_HOLD, problems, millis).unwrap_or(default.passive_hold),
    }
}

fn options(
    fields: &Fields<'_>,
    vip: Option<IpAddr>,
    has: impl Fn(Protocol) -> bool,
    problems: &mut Problems,
) -> ServiceOptions {
    use schema::service::*;
    let options = ServiceOptions {
        persistence: persistence(fields, vip, problems),
        timeouts: fields.node(&TIMEOUTS).and_then(|node| timeouts(node, problems)).unwrap_or_default(),
        expire_nodest: fields.value(&EXPIRE_NODEST, problems, expire_nodest).unwrap_or_default(),
        expire_quiescent_template: fields.value(&EXPIRE_QUIESCENT, problems, boolean).unwrap_or_default(),
        reject: fields.value(&REJECT, problems, reject).unwrap_or_default(),
        guard: fields.value(&GUARD, problems, guard).unwrap_or_default(),
        sloppy_tcp: fields.value(&SLOPPY_TCP, problems, boolean).unwrap_or_default(),
        sloppy_sctp: fields.value(&SLOPPY_SCTP, problems, boolean).unwrap_or_default(),
        classic_load: fields.value(&CLASSIC_LOAD, problems, boolean).unwrap_or_default(),
        ops: fields.value(&OPS, problems, boolean).unwrap_or_default(),
    };
    if let Some((name, its)) = option_fault(has, &options) {
        let pos = SECTION.key(name).and_then(|key| fields.node(key)).map_or(fields.pos, |node| node.pos);
        let wrong = format!("`{name}` is for {its} services, and this one is none");
        problems.add(pos, wrong, "leave the key out");
    }
    options
}

/// `auto`, `drop`, `reschedule` or `reset`.
pub(super) fn expire_nodest(text: &str) -> Result<ExpireNodest, Fault> {
    word(text, "expire_nodest", &ExpireNodest::ALL.map(|word| (word.name(), word)))
}

/// `icmp`, `reset`, `drop` or `pass`.
pub(super) fn reject(text: &str) -> Result<Reject, Fault> {
    word(text, "reject", &Reject::ALL.map(|word| (word.name(), word)))
}

fn passive(text: &str) -> Result<PassiveMode, Fault> {
    word(text, "passive", &PassiveMode::ALL.map(|word| (word.name(), word)))
}

fn guard(text: &str) -> Result<Guard, Fault> {
    text.parse().or_else(|wrong: String| match wrong.split_once("; ") {
        Some((wrong, right)) => fault(wrong, right),
        None => fault(wrong, format!("write {}", schema::service::GUARD.takes)),
    })
}

fn timeouts(node: &Node, problems: &mut Problems) -> Option<PartialTimeouts> {
    use schema::service_timeouts::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    Some(partial_timeouts(&fields, KEYS, problems))
}

fn scheduler(text: &str) -> Result<Scheduler, Fault> {
    let names = Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler));
    word(text, "scheduler", &names)
}

fn persistence(fields: &Fields<'_>, vip: Option<IpAddr>, problems: &mut Problems) -> Option<Persistence> {
    use schema::service::*;
    let timeout = fields.value(&PERSISTENCE, problems, |text| duration(text, 0..=MAX_TIMEOUT));
    let longest = vip.map_or(128, longest_prefix);
    let granularity = fields.value(&GRANULARITY, problems, |text| match granularity(text) {
        Ok(length) if length <= longest => Ok(length),
        Ok(length) => fault(
            format!("{length} bits are more than an address has"),
            format!("write at most {longest}, or leave the key out"),
        ),
        Err(wrong) => fault(wrong, format!("write {}", GRANULARITY.takes)),
    });
    let timeout = timeout.unwrap_or(0);
    if timeout == 0
        && let Some(node) = fields.node(&GRANULARITY)
    {
        problems.add(
            node.pos,
            "`persistence_granularity` without `persistence`",
            "give the service a `persistence`",
        );
    }
    let scope = fields.value(&SCOPE, problems, persistence_scope).unwrap_or_default();
    Some(Persistence { timeout, granularity, scope }).filter(Persistence::is_on)
}

/// `service` or `endpoint`.
pub(super) fn persistence_scope(text: &str) -> Result<Scope, Fault> {
    let words = [Scope::Service, Scope::Endpoint];
    word(text, "persistence_scope", &words.map(|word| (word.name(), word)))
}

/// The backend, and where its address stands. `vip` and its service's port are `None` where those are wrong.
fn backend(node: &Node, vip: Option<IpAddr>, of: Of<'_>, problems: &mut Problems) -> Option<(Backend, Pos)> {
    use schema::backend::*;
    let port = of.port;
    let fields = Fields::of(node, &SECTION, problems)?;
    let address = fields.required(&ADDRESS, problems, |text| backend_address(text, vip));
    fields.value(&PORT, problems, |text| match (number(text, 0..=u16::MAX)?, port) {
        (own, Some(port)) if own != port => fault(
            format!("backend port {own} differs from the service's port {port}"),
            format!("write {port} or leave the key out: Direct Routing cannot translate ports"),
        ),
        _ => Ok(()),
    });
    let weight = fields.value(&WEIGHT, problems, |t| number(t, 0..=u16::MAX));
    let upper = fields.value(&UPPER_THRESHOLD, problems, |t| number(t, 0..=u32::MAX));
    let lower = fields.value(&LOWER_THRESHOLD, problems, |t| number(t, 0..=u32::MAX));
    let drained = fields.value(&DRAINED, problems, boolean);
    let checks = fields.node(&CHECKS).map(|_| {
        let of = Of { family: address.or(vip), ..of };
        checks(fields.list(&CHECKS, problems), of, problems)
    });
    let backup = fields.value(&BACKUP, problems, boolean);
    let upper_is_known = upper.is_some() || fields.node(&UPPER_THRESHOLD).is_none();
    let (upper, lower) = (upper.unwrap_or(0), lower.unwrap_or(0));
    if upper_is_known && !thresholds_ok(upper, lower) {
        let pos = fields.node(&LOWER_THRESHOLD).map_or(fields.pos, |n| n.pos);
        let wrong = format!("lower_threshold {lower} is above upper_threshold {upper} (IPVS says ERANGE)");
        let right = "lower it, or raise upper_threshold; 0 means three quarters of upper_threshold";
        problems.add(pos, wrong, right);
    }
    let pos = fields.node(&ADDRESS).map_or(fields.pos, |n| n.pos);
    let backend = Backend {
        key: BackendKey { address: address?, port: port? },
        weight: weight.unwrap_or(DEFAULT_WEIGHT),
        upper_threshold: upper,
        lower_threshold: lower,
        drained: drained.unwrap_or(false),
        maintenance: None,
        health: BackendHealth { checks, backup: backup.unwrap_or(false) },
    };
    Some((backend, pos))
}

fn backend_address(text: &str, vip: Option<IpAddr>) -> Result<IpAddr, Fault> {
    let own = address(text)?;
    if let Some(why) = backend_fault(own) {
        return fault(format!("{own} cannot be a backend's address: it is {why}"), "write a unicast address");
    }
    match vip {
        Some(vip) if !same_family(own, vip) => fault(
            format!("{own} is {}, but the VIP {vip} is {}", family(own), family(vip)),
            format!("write the backend's {} address", family(vip)),
        ),
        _ => Ok(own),
    }
}
