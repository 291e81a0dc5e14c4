//! What becomes of the overlay when the file changes.

use super::{Change, Overlay};
use crate::{
    api::types::{BackendEdit, EndpointsEdit, ServiceEdit},
    model::{
        Backend, BackendKey, Maintenance, Model, ServiceName,
        edit::{edited, edited_service, to_options},
        edit_sources::to_sources,
    },
};

impl Overlay {
    /// The overlay over a new file, and one sentence for each change that is discarded.
    ///
    /// The file wins; drains and maintenance are kept as long as their backend exists. With `keep_runtime` every change is
    /// kept that still applies, also against what the file says. A change that the new file makes itself
    /// is neither kept nor mentioned.
    pub fn reload(&self, new_file: &Model, keep_runtime: bool) -> (Self, Vec<String>) {
        if keep_runtime { self.keep_all(new_file) } else { self.keep_drains(new_file) }
    }

    fn keep_drains(&self, file: &Model) -> (Self, Vec<String>) {
        let mut kept = Self::default();
        let mut discarded = Vec::new();
        for (at, change) in self.changes.iter().enumerate() {
            for (service, key) in drains(change) {
                if backend(file, service, key).is_some() {
                    kept.push(file, Change::Drain { service: service.clone(), key });
                }
            }
            for (service, key, maintenance) in maintained(change) {
                if backend(file, service, key).is_some() {
                    let (service, maintenance) = (service.clone(), maintenance.clone());
                    kept.push(file, Change::Maintain { service, key, maintenance });
                }
            }
            let superseded = || self.changes[at + 1..].iter().any(|later| adds_again(later, change));
            if !is_made_by(file, change, &self.later_edits(at)) && !superseded() {
                discarded.push(change.to_string());
            }
        }
        (kept, discarded)
    }

    /// The edits of a service that was added or edited at `at`, those that could not be folded into that.
    fn later_edits(&self, at: usize) -> Vec<&ServiceEdit> {
        let name = self.changes[at].service();
        let later = self.changes[at + 1..].iter().filter(|later| later.service() == name);
        let until_gone = later.take_while(|later| !matches!(later, Change::DeleteService { .. }));
        until_gone
            .filter_map(|later| if let Change::EditService { edit, .. } = later { Some(edit) } else { None })
            .collect()
    }

    fn keep_all(&self, file: &Model) -> (Self, Vec<String>) {
        let mut kept = Self::default();
        let mut discarded = Vec::new();
        let mut model = file.clone();
        for (at, whole) in self.changes.iter().enumerate() {
            for change in adapted(whole, &model) {
                match change.apply(&mut model) {
                    Ok(()) => kept.push(file, change),
                    // An endpoint on its way through several services, whose end the file has already.
                    Err(_) if is_made_by(file, whole, &self.later_edits(at)) => {}
                    Err(error) => discarded.push(format!("{change}, because {error}")),
                }
            }
        }
        (kept, discarded)
    }
}

fn backend<'a>(model: &'a Model, service: &ServiceName, key: BackendKey) -> Option<&'a Backend> {
    model.service(service)?.backend(key)
}

/// The backends that `change` leaves drained.
fn drains(change: &Change) -> Vec<(&ServiceName, BackendKey)> {
    match change {
        Change::Drain { service, key } => vec![(service, *key)],
        Change::AddBackend { service, backend } if backend.drained => vec![(service, backend.key)],
        Change::AddService { service } => {
            service.backends.iter().filter(|b| b.drained).map(|b| (&service.name, b.key)).collect()
        }
        _ => Vec::new(),
    }
}

/// The backends that `change` leaves in maintenance.
fn maintained(change: &Change) -> Vec<(&ServiceName, BackendKey, &Maintenance)> {
    match change {
        Change::Maintain { service, key, maintenance } => vec![(service, *key, maintenance)],
        Change::AddBackend { service, backend } => {
            backend.maintenance.iter().map(|it| (service, backend.key, it)).collect()
        }
        Change::AddService { service } => {
            let backends = service.backends.iter();
            backends.filter_map(|b| Some((&service.name, b.key, b.maintenance.as_ref()?))).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether `later` adds what `change` deleted, so that the deletion is no news.
fn adds_again(later: &Change, change: &Change) -> bool {
    let about_the_same = (later.service(), later.backend()) == (change.service(), change.backend());
    let deletes = matches!(change, Change::DeleteService { .. } | Change::DeleteBackend { .. });
    deletes && about_the_same && matches!(later, Change::AddService { .. } | Change::AddBackend { .. })
}

/// Whether `file` itself is as `change` wanted it, or will be with the drains and maintenances that are kept.
fn is_made_by(file: &Model, change: &Change, later: &[&ServiceEdit]) -> bool {
    let edited_later = |service| later.iter().fold(service, |service, edit| edited_service(&service, edit));
    match change {
        Change::AddService { service } => file.service(&service.name).is_some_and(|s| {
            let service = edited_later(service.clone());
            let has = |wanted: &Backend| s.backend(wanted.key).is_some_and(|b| values(b) == values(wanted));
            (s.endpoint, &s.group) == (service.endpoint, &service.group)
                && (s.scheduler, s.options) == (service.scheduler, service.options)
                && s.sources == service.sources
                && service.backends.iter().all(has)
        }),
        Change::EditService { name, edit } => {
            file.service(name).is_some_and(|s| edited_later(edited_service(s, edit)) == *s)
        }
        Change::DeleteService { name } => file.service(name).is_none(),
        Change::AddBackend { service, backend: wanted } => {
            backend(file, service, wanted.key).is_some_and(|b| values(b) == values(wanted))
        }
        Change::EditBackend { service, key, edit } => {
            backend(file, service, *key).is_some_and(|b| edited(b, edit) == *b)
        }
        Change::DeleteBackend { service, key } => backend(file, service, *key).is_none(),
        Change::Drain { service, key }
        | Change::Maintain { service, key, .. }
        | Change::EndMaintenance { service, key } => backend(file, service, *key).is_some(),
        Change::Undrain { service, key } => backend(file, service, *key).is_some_and(|b| !b.drained),
        Change::EditTimeouts { timeouts } => file.timeouts.with(*timeouts) == file.timeouts,
    }
}

/// What a backend is, apart from being drained or in maintenance.
fn values(backend: &Backend) -> (u16, u32, u32) {
    (backend.weight, backend.upper_threshold, backend.lower_threshold)
}

/// `change` as it must be made on `model`: what was added and is there already becomes an edit, what was
/// deleted and is gone already becomes nothing.
fn adapted(change: &Change, model: &Model) -> Vec<Change> {
    match change {
        Change::AddService { service } => match model.service(&service.name) {
            Some(there) if there.endpoint == service.endpoint => {
                let options = to_options(&service.options);
                let endpoints =
                    EndpointsEdit { add: &service.group - &there.group, del: &there.group - &service.group };
                let sources = to_sources(&there.sources, &service.sources);
                let edit = ServiceEdit { scheduler: Some(service.scheduler), options, endpoints, sources };
                let mut changes = vec![Change::EditService { name: service.name.clone(), edit }];
                // The head of the list is where the next one goes, so the last must go first.
                for backend in service.backends.iter().rev() {
                    changes.extend(adapted_backend(&service.name, backend, model));
                }
                changes
            }
            _ => vec![change.clone()],
        },
        Change::EditService { name, edit } => {
            let mut edit = edit.clone();
            edit.endpoints
                .del
                .retain(|gone| model.service(name).is_some_and(|s| s.endpoints().any(|e| e == gone)));
            vec![Change::EditService { name: name.clone(), edit }]
        }
        Change::AddBackend { service, backend } => adapted_backend(service, backend, model),
        Change::DeleteService { name } if model.service(name).is_none() => Vec::new(),
        Change::DeleteBackend { service, key } if backend(model, service, *key).is_none() => Vec::new(),
        _ => vec![change.clone()],
    }
}

fn adapted_backend(service: &ServiceName, wanted: &Backend, model: &Model) -> Vec<Change> {
    let (service, key) = (service.clone(), wanted.key);
    if backend(model, &service, key).is_none() {
        return vec![Change::AddBackend { service, backend: wanted.clone() }];
    }
    let (weight, upper, lower) = values(wanted);
    let edit =
        BackendEdit { weight: Some(weight), upper_threshold: Some(upper), lower_threshold: Some(lower) };
    let drain = match wanted.drained {
        true => Change::Drain { service: service.clone(), key },
        false => Change::Undrain { service: service.clone(), key },
    };
    let maintenance = match wanted.maintenance.clone() {
        Some(maintenance) => Change::Maintain { service: service.clone(), key, maintenance },
        None => Change::EndMaintenance { service: service.clone(), key },
    };
    vec![Change::EditBackend { service, key, edit }, drain, maintenance]
}
