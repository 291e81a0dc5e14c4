//! One change of the running state, as it is journaled.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    api::types::{BackendEdit, EndpointsEdit, OptionsEdit, ServiceEdit},
    model::{
        Backend, BackendKey, Maintenance, Model, PartialTimeouts, Service, ServiceName,
        edit::{self, EditError},
    },
};

/// What an operator did. What is added is kept as it resulted; edits keep only the fields that were
/// given, so that the file stays in force for the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    AddService {
        service: Service,
    },
    EditService {
        name: ServiceName,
        edit: ServiceEdit,
    },
    DeleteService {
        name: ServiceName,
    },
    AddBackend {
        service: ServiceName,
        backend: Backend,
    },
    EditBackend {
        service: ServiceName,
        key: BackendKey,
        edit: BackendEdit,
    },
    DeleteBackend {
        service: ServiceName,
        key: BackendKey,
    },
    Drain {
        service: ServiceName,
        key: BackendKey,
    },
    Undrain {
        service: ServiceName,
        key: BackendKey,
    },
    /// Also in the place of an earlier one.
    Maintain {
        service: ServiceName,
        key: BackendKey,
        maintenance: Maintenance,
    },
    EndMaintenance {
        service: ServiceName,
        key: BackendKey,
    },
    /// The global ones.
    EditTimeouts {
        timeouts: PartialTimeouts,
    },
}

impl Change {
    /// Makes the change; nothing is changed when it fails.
    pub fn apply(&self, model: &mut Model) -> Result<(), EditError> {
        match self {
            Self::AddService { service } => edit::insert_service(model, service.clone()),
            Self::EditService { name, edit } => edit::edit_service(model, name, edit).map(drop),
            Self::DeleteService { name } => edit::delete_service(model, name).map(drop),
            Self::AddBackend { service, backend } => edit::insert_backend(model, service, backend.clone()),
            Self::EditBackend { service, key, edit } => {
                edit::edit_backend(model, service, *key, edit).map(drop)
            }
            Self::DeleteBackend { service, key } => edit::delete_backend(model, service, *key).map(drop),
            Self::Drain { service, key } => edit::set_drained(model, service, *key, true).map(drop),
            Self::Undrain { service, key } => edit::set_drained(model, service, *key, false).map(drop),
            Self::Maintain { service, key, maintenance } => {
                edit::set_maintenance(model, service, *key, Some(maintenance)).map(drop)
            }
            Self::EndMaintenance { service, key } => {
                edit::set_maintenance(model, service, *key, None).map(drop)
            }
            Self::EditTimeouts { timeouts } => edit::edit_timeouts(model, *timeouts),
        }
    }

    /// The service that it is about, if it is about one.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::EditTimeouts { .. } => None,
            Self::AddService { service } => Some(&service.name),
            Self::EditService { name, .. } | Self::DeleteService { name } => Some(name),
            Self::AddBackend { service, .. }
            | Self::EditBackend { service, .. }
            | Self::DeleteBackend { service, .. }
            | Self::Drain { service, .. }
            | Self::Undrain { service, .. }
            | Self::Maintain { service, .. }
            | Self::EndMaintenance { service, .. } => Some(service),
        }
    }

    /// The backend that it is about, if it is about one.
    pub fn backend(&self) -> Option<BackendKey> {
        match self {
            Self::AddService { .. }
            | Self::EditService { .. }
            | Self::DeleteService { .. }
            | Self::EditTimeouts { .. } => None,
            Self::AddBackend { backend, .. } => Some(backend.key),
            Self::EditBackend { key, .. }
            | Self::DeleteBackend { key, .. }
            | Self::Drain { key, .. }
            | Self::Undrain { key, .. }
            | Self::Maintain { key, .. }
            | Self::EndMaintenance { key, .. } => Some(*key),
        }
    }
}

/// One sentence, without a full stop.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService { service } => {
                write!(f, "service {} added ({}, {})", service.name, service.endpoint, service.scheduler)
            }
            Self::EditService { name, edit } => write!(f, "service {name}: {}", service_fields(edit)),
            Self::DeleteService { name } => write!(f, "service {name} deleted"),
            Self::AddBackend { service, backend } => {
                let drained = if backend.drained { ", drained" } else { "" };
                let maintenance = backend.maintenance.as_ref();
                let maintenance = maintenance.map(|it| format!(", {it}")).unwrap_or_default();
                let Backend { key, weight, .. } = backend;
                write!(f, "backend {key} added to service {service} (weight {weight}{drained}{maintenance})")
            }
            Self::EditBackend { service, key, edit } => {
                write!(f, "backend {key} of service {service}: {}", fields(edit))
            }
            Self::DeleteBackend { service, key } => write!(f, "backend {key} of service {service} deleted"),
            Self::Drain { service, key } => write!(f, "backend {key} of service {service} drained"),
            Self::Undrain { service, key } => write!(f, "backend {key} of service {service} undrained"),
            Self::Maintain { service, key, maintenance } => {
                write!(f, "backend {key} of service {service}: {maintenance}")
            }
            Self::EndMaintenance { service, key } => {
                write!(f, "backend {key} of service {service}: maintenance ended")
            }
            Self::EditTimeouts { timeouts } => {
                let figures = timeouts.given().map(|(name, seconds)| format!("{name} set to {seconds}"));
                write!(f, "timeouts: {}", sentence(figures))
            }
        }
    }
}

fn service_fields(edit: &ServiceEdit) -> String {
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
    let timeouts = timeouts.given().map(|(name, seconds)| match seconds {
        0 => format!("timeouts.{name} set to the global one"),
        seconds => format!("timeouts.{name} set to {seconds}"),
    });
    let others = [
        scheduler.map(|scheduler| format!("scheduler set to {scheduler}")),
        persistence.map(|persistence| format!("persistence set to {persistence}")),
        expire_nodest.map(|what| format!("expire_nodest set to {what}")),
        expire_quiescent_template.map(|is| format!("expire_quiescent_template set to {is}")),
        reject.map(|what| format!("reject set to {what}")),
        guard.map(|rate| format!("guard set to {rate}")),
        sloppy_tcp.map(|is| format!("sloppy_tcp set to {is}")),
        sloppy_sctp.map(|is| format!("sloppy_sctp set to {is}")),
        classic_load.map(|is| format!("classic_load set to {is}")),
        ops.map(|is| format!("ops set to {is}")),
    ];
    let removed = del.iter().map(|endpoint| format!("endpoint {endpoint} removed"));
    let added = add.iter().map(|endpoint| format!("endpoint {endpoint} added"));
    let unruled = sources.del.iter().map(|network| format!("source {network} removed"));
    let ruled = sources.set.iter().map(|(network, rule)| format!("source {network} set to {rule}"));
    let all = removed.chain(added).chain(others.into_iter().flatten()).chain(timeouts);
    sentence(all.chain(unruled).chain(ruled))
}

fn fields(edit: &BackendEdit) -> String {
    let all = [
        edit.weight.map(|n| format!("weight set to {n}")),
        edit.upper_threshold.map(|n| format!("upper_threshold set to {n}")),
        edit.lower_threshold.map(|n| format!("lower_threshold set to {n}")),
    ];
    sentence(all.into_iter().flatten())
}

fn sentence(set: impl Iterator<Item = String>) -> String {
    let set: Vec<String> = set.collect();
    if set.is_empty() { "nothing set".to_owned() } else { set.join(", ") }
}
