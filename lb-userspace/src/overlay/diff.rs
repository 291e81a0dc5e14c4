//! What a reload changed, in sentences.

use std::fmt::Display;

use crate::events::Kind;
use crate::model::{
    Backend, Endpoint, InterfaceSpec, Model, Persistence, Service, ServiceName, ServiceOptions, Sources,
    check::{Check, Millis, ServiceHealth},
};

/// How `new` differs from `old`, one sentence each, without full stops; empty exactly if they are equal.
pub fn diff(old: &Model, new: &Model) -> Vec<String> {
    let mut changes = Vec::new();
    interfaces(&old.interfaces, &new.interfaces, &mut changes);
    let mut figure = |what: &str, old: &dyn Display, new: &dyn Display| {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            changes.push(format!("{what} changed from {old} to {new}"));
        }
    };
    let place = |model: &Model| model.vips.add_to.clone().unwrap_or_else(|| "(none)".to_owned());
    figure("vips.add_to", &place(old), &place(new));
    figure("flows.ipv4", &old.flows.ipv4, &new.flows.ipv4);
    figure("flows.wide", &old.flows.wide, &new.flows.wide);
    figure("limits.services", &old.limits.services, &new.limits.services);
    figure("limits.destinations", &old.limits.destinations, &new.limits.destinations);
    figure("limits.endpoints", &old.limits.endpoints, &new.limits.endpoints);
    figure("probes.ports", &old.probes, &new.probes);
    for (name, (old, new)) in old.timeouts.zip(new.timeouts).named() {
        figure(&format!("timeouts.{name}"), &old, &new);
    }
    services(old, new, &mut changes);
    changes
}

fn interfaces(old: &[InterfaceSpec], new: &[InterfaceSpec], changes: &mut Vec<String>) {
    for gone in old.iter().filter(|o| new.iter().all(|n| n.name != o.name)) {
        changes.push(format!("interface {} removed", gone.name));
    }
    for spec in new {
        match old.iter().find(|o| o.name == spec.name) {
            None => changes.push(format!("interface {} added", spec.name)),
            Some(before) if before != spec => changes.push(format!(
                "interface {}: mode {} and offloads {} (was {} and {})",
                spec.name,
                word(&spec.mode),
                word(&spec.offloads),
                word(&before.mode),
                word(&before.offloads)
            )),
            Some(_) => {}
        }
    }
    order("interfaces", old, new, |i| &i.name, changes);
}

/// A unit variant as it is written in the file.
fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_ascii_lowercase()
}

fn services(old: &Model, new: &Model, changes: &mut Vec<String>) {
    for gone in old.services.iter().filter(|s| new.service(&s.name).is_none()) {
        changes.push(format!("service {} removed ({})", gone.name, gone.endpoint));
    }
    for service in &new.services {
        match old.service(&service.name) {
            None => {
                let Service { name, endpoint, group, scheduler, backends, options: _, sources: _, health: _ } =
                    service;
                let plural = if backends.len() == 1 { "" } else { "s" };
                let n = backends.len();
                let endpoint = match group.len() {
                    0 => endpoint.to_string(),
                    more => format!("{endpoint} and {more} more"),
                };
                changes.push(format!("service {name} added ({endpoint}, {scheduler}, {n} backend{plural})"));
            }
            Some(before) => one_service(before, service, changes),
        }
    }
    order("services", &old.services, &new.services, |s| &s.name, changes);
}

fn one_service(old: &Service, new: &Service, changes: &mut Vec<String>) {
    let name = &new.name;
    if old.endpoint != new.endpoint {
        changes.push(format!("service {name} moved from {} to {}", old.endpoint, new.endpoint));
    }
    let moved = |endpoint: &&Endpoint| **endpoint != old.endpoint && **endpoint != new.endpoint;
    for gone in old.group.difference(&new.group).filter(moved) {
        changes.push(format!("service {name}: endpoint {gone} removed"));
    }
    for added in new.group.difference(&old.group).filter(moved) {
        changes.push(format!("service {name}: endpoint {added} added"));
    }
    if old.scheduler != new.scheduler {
        let (old, new) = (old.scheduler, new.scheduler);
        changes.push(format!("service {name}: scheduler changed from {old} to {new}"));
    }
    options(name, &old.options, &new.options, changes);
    sources(name, &old.sources, &new.sources, changes);
    health(name, &old.health, &new.health, changes);
    for gone in old.backends.iter().filter(|b| new.backend(b.key).is_none()) {
        changes.push(format!("service {name}: backend {} removed", gone.key));
    }
    for backend in &new.backends {
        let key = backend.key;
        match old.backend(key) {
            None => {
                let drained = if backend.drained { ", drained" } else { "" };
                let weight = backend.weight;
                let maintenance = backend.maintenance.as_ref();
                let maintenance = maintenance.map(|it| format!(", {it}")).unwrap_or_default();
                changes.push(format!(
                    "service {name}: backend {key} added (weight {weight}{drained}{maintenance})"
                ));
            }
            Some(before) if before != backend => {
                changes.push(format!("service {name}: backend {key}: {}", one_backend(before, backend)));
            }
            Some(_) => {}
        }
    }
    order(&format!("backends of service {name}"), &old.backends, &new.backends, |b| &b.key, changes);
}

fn options(service: &ServiceName, old: &ServiceOptions, new: &ServiceOptions, changes: &mut Vec<String>) {
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
    } = old;
    let shown = |own: Option<u32>| own.map_or_else(|| "the global one".to_owned(), |own| own.to_string());
    for (name, (old, new)) in
        timeouts.zip(new.timeouts).named().into_iter().filter(|(_, (old, new))| old != new)
    {
        let (old, new) = (shown(old), shown(new));
        changes.push(format!("service {service}: timeouts.{name} changed from {old} to {new}"));
    }
    let mut word = |name: &str, old: &dyn Display, new: &dyn Display| {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            changes.push(format!("service {service}: {name} changed from {old} to {new}"));
        }
    };
    let shown = |it: Option<Persistence>| it.unwrap_or(Persistence::OFF);
    word("persistence", &shown(*persistence), &shown(new.persistence));
    word("expire_nodest", expire_nodest, &new.expire_nodest);
    word("expire_quiescent_template", expire_quiescent_template, &new.expire_quiescent_template);
    word("reject", reject, &new.reject);
    word("guard", guard, &new.guard);
    word("sloppy_tcp", sloppy_tcp, &new.sloppy_tcp);
    word("sloppy_sctp", sloppy_sctp, &new.sloppy_sctp);
    word("classic_load", classic_load, &new.classic_load);
    word("ops", ops, &new.ops);
}

fn sources(service: &ServiceName, old: &Sources, new: &Sources, changes: &mut Vec<String>) {
    for (gone, rule) in old.iter().filter(|(network, _)| !new.contains_key(network)) {
        changes.push(format!("service {service}: source {gone} removed ({rule})"));
    }
    for (network, rule) in new {
        match old.get(network) {
            None => changes.push(format!("service {service}: source {network} added ({rule})")),
            Some(before) if before != rule => {
                changes.push(format!("service {service}: source {network} changed from {before} to {rule}"));
            }
            Some(_) => {}
        }
    }
}

fn one_backend(old: &Backend, new: &Backend) -> String {
    let figure =
        |what, old: u32, new: u32| (old != new).then(|| format!("{what} changed from {old} to {new}"));
    let drained = match (old.drained, new.drained) {
        (false, true) => Some("drained".to_owned()),
        (true, false) => Some("undrained".to_owned()),
        _ => None,
    };
    let maintenance = match (&old.maintenance, &new.maintenance) {
        (old, new) if old == new => None,
        (_, Some(new)) => Some(new.to_string()),
        (_, None) => Some("maintenance ended".to_owned()),
    };
    let own = |backend: &Backend| backend.health.checks.clone();
    let checks = match (own(old), own(new)) {
        (old, new) if old == new => None,
        (old, Some(new)) => Some(checks(&old.unwrap_or_default(), &new)),
        (Some(_), None) => Some("checks changed to the service's".to_owned()),
        (None, None) => None,
    };
    let all = [
        figure("weight", old.weight.into(), new.weight.into()),
        figure("upper_threshold", old.upper_threshold, new.upper_threshold),
        figure("lower_threshold", old.lower_threshold, new.lower_threshold),
        drained,
        maintenance,
        checks,
        (old.health.backup != new.health.backup)
            .then(|| if new.health.backup { "is a backup" } else { "is no backup any more" }.to_owned()),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn health(service: &ServiceName, old: &ServiceHealth, new: &ServiceHealth, changes: &mut Vec<String>) {
    let ServiceHealth {
        checks: of_old,
        minimum_healthy,
        quorum,
        hysteresis,
        inhibit_on_failure,
        slow_start,
        hooks,
        flap_hold,
        passive,
        passive_hold,
    } = old;
    if *of_old != new.checks {
        changes.push(format!("service {service}: {}", checks(of_old, &new.checks)));
    }
    let mut word = |name: &str, old: &dyn Display, new: &dyn Display| {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            changes.push(format!("service {service}: {name} changed from {old} to {new}"));
        }
    };
    word("minimum_healthy", minimum_healthy, &new.minimum_healthy);
    word("quorum", quorum, &new.quorum);
    word("hysteresis", hysteresis, &new.hysteresis);
    word("inhibit_on_failure", inhibit_on_failure, &new.inhibit_on_failure);
    let shown = |it: Option<Millis>| it.map_or_else(|| "none".to_owned(), |it| it.to_string());
    word("slow_start", &shown(*slow_start), &shown(new.slow_start));
    let program = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(" ") };
    for kind in [Kind::BackendUp, Kind::BackendDown, Kind::QuorumUp, Kind::QuorumDown] {
        let (old, new) = (program(hooks.program(kind)), program(new.hooks.program(kind)));
        word(&format!("the program for {kind}"), &old, &new);
    }
    word("flap_hold", &shown(*flap_hold), &shown(new.flap_hold));
    word("passive", passive, &new.passive);
    word("passive_hold", passive_hold, &new.passive_hold);
}

fn checks(old: &[Check], new: &[Check]) -> String {
    let shown = |checks: &[Check]| match checks {
        [] => "(none)".to_owned(),
        some => some.iter().map(Check::to_string).collect::<Vec<_>>().join(" and "),
    };
    let (old, new) = (shown(old), shown(new));
    // Not all of a check is shown in a line.
    if old == new {
        format!("details of the checks changed ({new})")
    } else {
        format!("checks changed from {old} to {new}")
    }
}

/// Says so when what both have stands in another order.
fn order<'a, T, K: PartialEq + 'a>(
    what: &str,
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&'a T) -> &'a K,
    changes: &mut Vec<String>,
) {
    let stay = |here: &'a [T], there: &'a [T]| -> Vec<&'a K> {
        here.iter().map(&key).filter(|k| there.iter().any(|t| key(t) == *k)).collect()
    };
    if stay(old, new) != stay(new, old) {
        changes.push(format!("the order of the {what} changed"));
    }
}
