//! Changes of a running [`Model`]: what `lb service ...` and `lb backend ...` do.
//!
//! PURE. Every function checks everything first and changes nothing when it fails.

pub use super::refusal::EditError;
use super::{
    Backend, BackendKey, Endpoint, Maintenance, Model, PartialTimeouts, Persistence, Service, ServiceName,
    ServiceOptions,
    check::{BackendHealth, Check, ServiceHealth},
    edit_sources::{check_sources, edited_sources},
    nearest::nearest,
    persistence::longest_prefix,
    rules::{backend_fault, check_fault, option_fault, same_family, thresholds_ok, vip_fault},
    timeouts::MAX_TIMEOUT,
};
use crate::api::types::{BackendAdd, BackendEdit, EndpointsEdit, OptionsEdit, ServiceAdd, ServiceEdit};

/// Adds a service without backends to the end of the list. Returns it as it stands.
pub fn add_service(model: &mut Model, body: &ServiceAdd) -> Result<Service, EditError> {
    let name = body.name.clone().unwrap_or_else(|| body.endpoint.default_name());
    let ServiceAdd { name: _, endpoint, group, scheduler, options, sources } = body.clone();
    let (backends, health) = (Vec::new(), ServiceHealth::default());
    let service = Service { name, endpoint, group, scheduler, backends, options, sources, health };
    insert_service(model, service.clone())?;
    Ok(service)
}

/// Changes a service. Returns it as it stands afterwards.
pub fn edit_service(model: &mut Model, name: &ServiceName, body: &ServiceEdit) -> Result<Service, EditError> {
    let service = service_mut(model, name)?;
    if body.endpoints.del.contains(&service.endpoint) {
        return Err(EditError::FirstEndpoint { service: name.clone(), endpoint: service.endpoint });
    }
    if let Some(gone) = body.endpoints.del.iter().find(|gone| !service.group.contains(gone)) {
        return Err(EditError::NoSuchEndpoint { service: name.clone(), endpoint: *gone });
    }
    let edited = edited_service(service, body);
    let is_new = edited.group != service.group;
    check_options(&edited)?;
    check_sources(model, &edited)?;
    if is_new {
        check_endpoints(model, &edited)?;
    }
    *service_mut(model, name)? = edited.clone();
    Ok(edited)
}

/// Changes the global timeouts.
pub fn edit_timeouts(model: &mut Model, given: PartialTimeouts) -> Result<(), EditError> {
    check_timeouts(given)?;
    model.timeouts = model.timeouts.with(given);
    Ok(())
}

/// Takes a service out, backends and all. Returns what was there.
pub fn delete_service(model: &mut Model, name: &ServiceName) -> Result<Service, EditError> {
    match model.services.iter().position(|s| s.name == *name) {
        Some(at) => Ok(model.services.remove(at)),
        None => Err(no_such_service(model, name)),
    }
}

/// Adds a backend to the head of the service's list, where IPVS puts a new destination. Returns it.
pub fn add_backend(
    model: &mut Model,
    service: &ServiceName,
    body: &BackendAdd,
) -> Result<Backend, EditError> {
    let backend = Backend {
        key: body.key,
        weight: body.weight,
        upper_threshold: body.upper_threshold,
        lower_threshold: body.lower_threshold,
        drained: false,
        maintenance: None,
        health: BackendHealth::default(),
    };
    insert_backend(model, service, backend.clone())?;
    Ok(backend)
}

/// Changes a backend. Returns it as it stands afterwards.
pub fn edit_backend(
    model: &mut Model,
    service: &ServiceName,
    key: BackendKey,
    body: &BackendEdit,
) -> Result<Backend, EditError> {
    let backend = backend_mut(model, service, key)?;
    let edited = edited(backend, body);
    check_thresholds(&edited)?;
    *backend = edited.clone();
    Ok(edited)
}

/// Takes a backend out. Returns what was there.
pub fn delete_backend(
    model: &mut Model,
    service: &ServiceName,
    key: BackendKey,
) -> Result<Backend, EditError> {
    let service = service_mut(model, service)?;
    match service.backends.iter().position(|b| b.key == key) {
        Some(at) => Ok(service.backends.remove(at)),
        None => Err(no_such_backend(service, key)),
    }
}

/// Drains (`true`) or undrains (`false`) a backend; to do it twice is no error. Returns the backend.
pub fn set_drained(
    model: &mut Model,
    service: &ServiceName,
    key: BackendKey,
    drained: bool,
) -> Result<Backend, EditError> {
    let backend = backend_mut(model, service, key)?;
    backend.drained = drained;
    Ok(backend.clone())
}

/// Begins or ends a maintenance; to do it twice is no error. Returns the backend.
pub fn set_maintenance(
    model: &mut Model,
    service: &ServiceName,
    key: BackendKey,
    maintenance: Option<&Maintenance>,
) -> Result<Backend, EditError> {
    let backend = backend_mut(model, service, key)?;
    backend.maintenance = maintenance.cloned();
    Ok(backend.clone())
}

/// Adds a whole service, with its backends in the order given, to the end of the list.
pub fn insert_service(model: &mut Model, service: Service) -> Result<(), EditError> {
    if model.service(&service.name).is_some() {
        return Err(EditError::ServiceExists { name: service.name });
    }
    check_endpoints(model, &service)?;
    check_options(&service)?;
    check_sources(model, &service)?;
    for (at, backend) in service.backends.iter().enumerate() {
        check_backend(&service, &service.backends[..at], backend)?;
    }
    check_room("services", model.services.len() + 1, model.limits.services)?;
    check_room("destinations", destinations(model) + service.backends.len(), model.limits.destinations)?;
    model.services.push(service);
    Ok(())
}

/// Adds a whole backend to the head of the service's list.
pub fn insert_backend(model: &mut Model, service: &ServiceName, backend: Backend) -> Result<(), EditError> {
    let room = check_room("destinations", destinations(model) + 1, model.limits.destinations);
    let service = service_mut(model, service)?;
    check_backend(service, &service.backends, &backend)?;
    room?;
    service.backends.insert(0, backend);
    Ok(())
}

/// `service` with the fields of `body` that are given.
pub fn edited_service(service: &Service, body: &ServiceEdit) -> Service {
    let ServiceEdit { scheduler, options, endpoints: EndpointsEdit { add, del }, sources } = body;
    let options = edited_options(&service.options, options);
    let kept = service.group.difference(del);
    let group = kept.chain(add).filter(|endpoint| **endpoint != service.endpoint).copied().collect();
    let sources = edited_sources(&service.sources, sources);
    Service { scheduler: scheduler.unwrap_or(service.scheduler), options, group, sources, ..service.clone() }
}

/// `before` with what is given.
pub fn edited_options(before: &ServiceOptions, given: &OptionsEdit) -> ServiceOptions {
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
    } = *given;
    let own = before.timeouts.zip(timeouts);
    ServiceOptions {
        timeouts: own.map(|(before, given)| given.or(before).filter(|seconds| *seconds != 0)),
        persistence: persistence.or(before.persistence).filter(Persistence::is_on),
        expire_nodest: expire_nodest.unwrap_or(before.expire_nodest),
        expire_quiescent_template: expire_quiescent_template.unwrap_or(before.expire_quiescent_template),
        reject: reject.unwrap_or(before.reject),
        guard: guard.unwrap_or(before.guard),
        sloppy_tcp: sloppy_tcp.unwrap_or(before.sloppy_tcp),
        sloppy_sctp: sloppy_sctp.unwrap_or(before.sloppy_sctp),
        classic_load: classic_load.unwrap_or(before.classic_load),
        ops: ops.unwrap_or(before.ops),
    }
}

/// The edit that makes `options` of any others.
pub fn to_options(options: &ServiceOptions) -> OptionsEdit {
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
    OptionsEdit {
        timeouts: timeouts.map(|own| Some(own.unwrap_or(0))),
        persistence: Some(persistence.unwrap_or(Persistence::OFF)),
        expire_nodest: Some(expire_nodest),
        expire_quiescent_template: Some(expire_quiescent_template),
        reject: Some(reject),
        guard: Some(guard),
        sloppy_tcp: Some(sloppy_tcp),
        sloppy_sctp: Some(sloppy_sctp),
        classic_load: Some(classic_load),
        ops: Some(ops),
    }
}

/// `backend` with the fields of `body` that are given.
pub fn edited(backend: &Backend, body: &BackendEdit) -> Backend {
    Backend {
        weight: body.weight.unwrap_or(backend.weight),
        upper_threshold: body.upper_threshold.unwrap_or(backend.upper_threshold),
        lower_threshold: body.lower_threshold.unwrap_or(backend.lower_threshold),
        ..backend.clone()
    }
}

/// `service`'s endpoints, against each other and those of the other services.
fn check_endpoints(model: &Model, service: &Service) -> Result<(), EditError> {
    let first = service.endpoint;
    let others = || model.services.iter().filter(|other| other.name != service.name);
    let taken = |endpoint: &Endpoint, other: &Endpoint, name: &ServiceName| {
        Err(EditError::EndpointTaken { endpoint: *endpoint, other: *other, name: name.clone() })
    };
    for (at, endpoint) in service.endpoints().enumerate() {
        let Endpoint { address, .. } = *endpoint;
        if let Some(why) = vip_fault(address) {
            return Err(EditError::BadVip { address, why });
        }
        if let Some(why) = endpoint.range_fault() {
            return Err(EditError::BadEndpoint { endpoint: *endpoint, why });
        }
        if !same_family(address, first.address) {
            return Err(EditError::EndpointFamily {
                service: service.name.clone(),
                endpoint: *endpoint,
                first,
            });
        }
        if let Some(own) = service.endpoints().take(at).find(|own| own.collides(endpoint)) {
            return taken(endpoint, own, &service.name);
        }
        let found =
            others().find_map(|other| Some((other.endpoints().find(|it| it.collides(endpoint))?, other)));
        if let Some((other, owner)) = found {
            return taken(endpoint, other, &owner.name);
        }
    }
    let all: usize = others().map(|other| other.endpoints().count()).sum();
    check_room("endpoints", all + service.endpoints().count(), model.limits.endpoints)
}

fn check_backend(service: &Service, others: &[Backend], backend: &Backend) -> Result<(), EditError> {
    let key = backend.key;
    if let Some(why) = backend_fault(key.address) {
        return Err(EditError::BadBackend { address: key.address, why });
    }
    let vip = service.endpoint.address;
    if !same_family(vip, key.address) {
        return Err(EditError::WrongFamily { service: service.name.clone(), vip, backend: key.address });
    }
    let port = service.endpoint.port;
    if key.port != port {
        return Err(EditError::PortMismatch { service: service.name.clone(), key, port });
    }
    if others.iter().any(|b| b.key == key) {
        return Err(EditError::BackendExists { service: service.name.clone(), key });
    }
    check_checks(service, backend.health.checks.as_deref().unwrap_or_default())?;
    check_thresholds(backend)
}

fn check_options(service: &Service) -> Result<(), EditError> {
    if let Some((option, its)) = option_fault(|protocol| service.has(protocol), &service.options) {
        return Err(EditError::WrongProtocol { service: service.name.clone(), option, its });
    }
    check_checks(service, &service.health.checks)?;
    let mut own = service.backends.iter().filter_map(|backend| backend.health.checks.as_ref());
    own.try_for_each(|checks| check_checks(service, checks))?;
    check_timeouts(service.options.timeouts)?;
    let Some(persistence) = service.options.persistence else { return Ok(()) };
    if !(1..=MAX_TIMEOUT).contains(&persistence.timeout) {
        return Err(EditError::BadTimeout { name: "persistence", seconds: persistence.timeout });
    }
    let longest = longest_prefix(service.endpoint.address);
    match persistence.granularity {
        Some(length) if length > longest => Err(EditError::BadGranularity { length, longest }),
        _ => Ok(()),
    }
}

fn check_checks(service: &Service, checks: &[Check]) -> Result<(), EditError> {
    let wrong = checks.iter().find(|check| check_fault(|protocol| service.has(protocol), check));
    wrong.map_or(Ok(()), |check| {
        Err(EditError::CheckProtocol { service: service.name.clone(), check: check.kind.name() })
    })
}

fn check_timeouts(given: PartialTimeouts) -> Result<(), EditError> {
    let bad = given.given().find(|(_, seconds)| !(1..=MAX_TIMEOUT).contains(seconds));
    bad.map_or(Ok(()), |(name, seconds)| Err(EditError::BadTimeout { name, seconds }))
}

fn check_thresholds(backend: &Backend) -> Result<(), EditError> {
    let (upper, lower) = (backend.upper_threshold, backend.lower_threshold);
    if thresholds_ok(upper, lower) { Ok(()) } else { Err(EditError::BadThresholds { upper, lower }) }
}

fn check_room(what: &'static str, wanted: usize, limit: u32) -> Result<(), EditError> {
    if wanted as u64 <= u64::from(limit) { Ok(()) } else { Err(EditError::LimitReached { what, limit }) }
}

fn destinations(model: &Model) -> usize {
    model.services.iter().map(|s| s.backends.len()).sum()
}

fn service_mut<'a>(model: &'a mut Model, name: &ServiceName) -> Result<&'a mut Service, EditError> {
    match model.services.iter().position(|s| s.name == *name) {
        Some(at) => Ok(&mut model.services[at]),
        None => Err(no_such_service(model, name)),
    }
}

fn backend_mut<'a>(
    model: &'a mut Model,
    service: &ServiceName,
    key: BackendKey,
) -> Result<&'a mut Backend, EditError> {
    let service = service_mut(model, service)?;
    match service.backends.iter().position(|b| b.key == key) {
        Some(at) => Ok(&mut service.backends[at]),
        None => Err(no_such_backend(service, key)),
    }
}

/// The error for an unknown service; a public function because reading needs it too (`lb service show`).
pub fn no_such_service(model: &Model, name: &ServiceName) -> EditError {
    // Somebody who says tcp/172.18.14.100:3306 means the service there, whatever it is called.
    let by_endpoint = model.services.iter().find(|s| s.endpoints().any(|at| at.default_name() == *name));
    let by_name = || {
        let near = nearest(name.as_str(), model.services.iter().map(|s| s.name.as_str()))?;
        model.services.iter().find(|s| s.name.as_str() == near)
    };
    let nearest = by_endpoint.or_else(by_name).map(|s| s.name.clone());
    EditError::NoSuchService { name: name.clone(), nearest }
}

fn no_such_backend(service: &Service, key: BackendKey) -> EditError {
    // Only the port may be guessed: a near address is another machine.
    let nearest = service.backends.iter().find(|b| b.key.address == key.address).map(|b| b.key);
    EditError::NoSuchBackend { service: service.name.clone(), key, nearest }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
