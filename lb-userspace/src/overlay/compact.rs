//! Keeps the overlay short: it says how the running state differs from the file, not how it came about.
//!
//! Invariant: for changes that were all made with success, one after the other, on `file`, the overlay
//! made by [`Overlay::push`] gives the same model as making them again. A change that undoes an earlier
//! one takes it away; one that refines an earlier one is folded into it.

use std::collections::BTreeSet;

use super::{Change, Overlay};
use crate::{
    api::types::{BackendEdit, EndpointsEdit, OptionsEdit, ServiceEdit, SourcesEdit},
    model::{
        Backend, BackendKey, Maintenance, Model, PartialTimeouts, Service, ServiceName, Sources, edit,
        edit_sources::{edited_sources, to_sources},
    },
};

/// Where a thing that exists now comes from.
enum Origin {
    /// From the change at this index.
    Change(usize),
    /// From the file.
    File,
    /// It does not exist: a later change deleted it.
    Gone,
}

impl Overlay {
    /// Takes in a change that was made with success on `apply(file)`.
    pub fn push(&mut self, file: &Model, change: Change) {
        match change {
            Change::AddService { .. } | Change::AddBackend { .. } => self.changes.push(change),
            Change::EditService { name, edit } => self.edit_service_checked(file, name, edit),
            Change::DeleteService { name } => self.delete_service(name),
            Change::EditBackend { service, key, edit } => self.edit_backend(file, service, key, &edit),
            Change::DeleteBackend { service, key } => self.delete_backend(service, key),
            Change::Drain { service, key } => self.set_drained(file, service, key, true),
            Change::Undrain { service, key } => self.set_drained(file, service, key, false),
            Change::Maintain { service, key, maintenance } => {
                self.set_maintenance(service, key, Some(maintenance));
            }
            Change::EndMaintenance { service, key } => self.set_maintenance(service, key, None),
            Change::EditTimeouts { timeouts } => self.edit_timeouts(file, timeouts),
        }
    }

    fn service_origin(&self, name: &ServiceName) -> Origin {
        let about = |c: &Change| match c {
            Change::AddService { service } => service.name == *name,
            Change::DeleteService { name: deleted } => deleted == name,
            _ => false,
        };
        match self.changes.iter().rposition(about) {
            None => Origin::File,
            Some(at) if matches!(self.changes[at], Change::AddService { .. }) => Origin::Change(at),
            Some(_) => Origin::Gone,
        }
    }

    /// The change is an `AddBackend`, or an `AddService` that brought the backend along.
    fn backend_origin(&self, name: &ServiceName, key: BackendKey) -> Origin {
        for (at, change) in self.changes.iter().enumerate().rev().filter(|(_, c)| c.service() == Some(name)) {
            match change {
                Change::AddBackend { backend, .. } if backend.key == key => return Origin::Change(at),
                Change::AddService { service } if service.backend(key).is_some() => {
                    return Origin::Change(at);
                }
                Change::DeleteBackend { key: deleted, .. } if *deleted == key => return Origin::Gone,
                Change::AddService { .. } | Change::DeleteService { .. } => return Origin::Gone,
                _ => {}
            }
        }
        Origin::File
    }

    /// The backend inside of the change that added it.
    fn added_backend(&mut self, at: usize, key: BackendKey) -> Option<&mut Backend> {
        match &mut self.changes[at] {
            Change::AddBackend { backend, .. } => Some(backend),
            Change::AddService { service } => service.backend_mut(key),
            _ => None,
        }
    }

    /// Endpoints go from one service to another: where folding an edit into an earlier change would give
    /// an endpoint to one before the other has lost it, the edit is kept as it is.
    fn edit_service_checked(&mut self, file: &Model, name: ServiceName, edit: ServiceEdit) {
        let moves_endpoints =
            |c: &Change| matches!(c, Change::EditService { edit, .. } if !edit.endpoints.is_empty());
        let change = Change::EditService { name: name.clone(), edit: edit.clone() };
        if !moves_endpoints(&change) && !self.changes.iter().any(moves_endpoints) {
            return self.edit_service(file, name, &edit);
        }
        let mut appended = self.clone();
        appended.changes.push(change);
        let wanted = appended.apply(file);
        if wanted == self.apply(file) {
            return;
        }
        self.edit_service(file, name, &edit);
        if self.apply(file) != wanted {
            *self = appended;
        }
    }

    fn edit_service(&mut self, file: &Model, name: ServiceName, new: &ServiceEdit) {
        if let Origin::Change(at) = self.service_origin(&name) {
            if let Change::AddService { service } = &mut self.changes[at] {
                *service = edit::edited_service(service, new);
            }
            return;
        }
        let is_it = |c: &Change| matches!(c, Change::EditService { name: edited, .. } if *edited == name);
        let before = match self.take(is_it) {
            Some(Change::EditService { edit, .. }) => edit,
            _ => ServiceEdit::default(),
        };
        let of_file = file.service(&name);
        let edit = ServiceEdit {
            scheduler: pick(new.scheduler, before.scheduler, of_file.map(|s| s.scheduler)),
            options: pick_options(
                &new.options,
                &before.options,
                &of_file.map(|s| edit::to_options(&s.options)).unwrap_or_default(),
            ),
            endpoints: pick_endpoints(&new.endpoints, before.endpoints, of_file),
            sources: pick_sources(&new.sources, &before.sources, of_file),
        };
        if edit != ServiceEdit::default() {
            self.changes.push(Change::EditService { name, edit });
        }
    }

    fn edit_timeouts(&mut self, file: &Model, new: PartialTimeouts) {
        let before = match self.take(|c| matches!(c, Change::EditTimeouts { .. })) {
            Some(Change::EditTimeouts { timeouts }) => timeouts,
            _ => PartialTimeouts::default(),
        };
        let timeouts = pick_timeouts(new, before, file.timeouts.map(Some));
        if !timeouts.is_empty() {
            self.changes.push(Change::EditTimeouts { timeouts });
        }
    }

    fn delete_service(&mut self, name: ServiceName) {
        match self.service_origin(&name) {
            Origin::Change(added) => {
                let since = self.changes.split_off(added);
                self.changes.extend(since.into_iter().filter(|c| c.service() != Some(&name)));
            }
            Origin::File => {
                // In the place of the first change that it makes void: what was deleted there had made
                // room (`limits.destinations`) for what was added since.
                let first = self.changes.iter().position(|c| c.service() == Some(&name));
                self.changes.retain(|c| c.service() != Some(&name));
                let at = first.unwrap_or(self.changes.len());
                self.changes.insert(at, Change::DeleteService { name });
            }
            Origin::Gone => {}
        }
    }

    fn edit_backend(&mut self, file: &Model, service: ServiceName, key: BackendKey, new: &BackendEdit) {
        if let Origin::Change(at) = self.backend_origin(&service, key) {
            if let Some(backend) = self.added_backend(at, key) {
                *backend = edit::edited(backend, new);
            }
            return;
        }
        let is_it = |c: &Change| match c {
            Change::EditBackend { service: s, key: k, .. } => (s, *k) == (&service, key),
            _ => false,
        };
        let before = match self.take(is_it) {
            Some(Change::EditBackend { edit, .. }) => edit,
            _ => BackendEdit::default(),
        };
        let of_file = file.service(&service).and_then(|s| s.backend(key));
        let edit = BackendEdit {
            weight: pick(new.weight, before.weight, of_file.map(|b| b.weight)),
            upper_threshold: pick(
                new.upper_threshold,
                before.upper_threshold,
                of_file.map(|b| b.upper_threshold),
            ),
            lower_threshold: pick(
                new.lower_threshold,
                before.lower_threshold,
                of_file.map(|b| b.lower_threshold),
            ),
        };
        if edit != BackendEdit::default() {
            self.changes.push(Change::EditBackend { service, key, edit });
        }
    }

    fn delete_backend(&mut self, service: ServiceName, key: BackendKey) {
        match self.backend_origin(&service, key) {
            Origin::Change(at) => match &mut self.changes[at] {
                Change::AddService { service } => service.backends.retain(|b| b.key != key),
                _ => {
                    self.changes.remove(at);
                }
            },
            Origin::File => {
                self.changes.retain(|c| (c.service(), c.backend()) != (Some(&service), Some(key)));
                self.changes.push(Change::DeleteBackend { service, key });
            }
            Origin::Gone => {}
        }
    }

    fn set_drained(&mut self, file: &Model, service: ServiceName, key: BackendKey, drained: bool) {
        if let Origin::Change(at) = self.backend_origin(&service, key) {
            if let Some(backend) = self.added_backend(at, key) {
                backend.drained = drained;
            }
            return;
        }
        self.take(|c| match c {
            Change::Drain { service: s, key: k } | Change::Undrain { service: s, key: k } => {
                (s, *k) == (&service, key)
            }
            _ => false,
        });
        let of_file = file.service(&service).and_then(|s| s.backend(key)).map(|b| b.drained);
        if of_file != Some(drained) {
            self.changes.push(match drained {
                true => Change::Drain { service, key },
                false => Change::Undrain { service, key },
            });
        }
    }

    /// The file has none: what ends is simply gone.
    fn set_maintenance(&mut self, service: ServiceName, key: BackendKey, maintenance: Option<Maintenance>) {
        if let Origin::Change(at) = self.backend_origin(&service, key) {
            if let Some(backend) = self.added_backend(at, key) {
                backend.maintenance = maintenance;
            }
            return;
        }
        self.take(|c| match c {
            Change::Maintain { service: s, key: k, .. } => (s, *k) == (&service, key),
            _ => false,
        });
        if let Some(maintenance) = maintenance {
            self.changes.push(Change::Maintain { service, key, maintenance });
        }
    }

    /// Takes out the change that `is_it`; there is at most one.
    fn take(&mut self, is_it: impl Fn(&Change) -> bool) -> Option<Change> {
        let at = self.changes.iter().position(is_it)?;
        Some(self.changes.remove(at))
    }
}

fn pick_options(new: &OptionsEdit, before: &OptionsEdit, of_file: &OptionsEdit) -> OptionsEdit {
    OptionsEdit {
        timeouts: pick_timeouts(new.timeouts, before.timeouts, of_file.timeouts),
        persistence: pick(new.persistence, before.persistence, of_file.persistence),
        expire_nodest: pick(new.expire_nodest, before.expire_nodest, of_file.expire_nodest),
        expire_quiescent_template: pick(
            new.expire_quiescent_template,
            before.expire_quiescent_template,
            of_file.expire_quiescent_template,
        ),
        reject: pick(new.reject, before.reject, of_file.reject),
        guard: pick(new.guard, before.guard, of_file.guard),
        sloppy_tcp: pick(new.sloppy_tcp, before.sloppy_tcp, of_file.sloppy_tcp),
        sloppy_sctp: pick(new.sloppy_sctp, before.sloppy_sctp, of_file.sloppy_sctp),
        classic_load: pick(new.classic_load, before.classic_load, of_file.classic_load),
        ops: pick(new.ops, before.ops, of_file.ops),
    }
}

/// Both one after the other, as a difference to the file.
fn pick_endpoints(new: &EndpointsEdit, before: EndpointsEdit, of_file: Option<&Service>) -> EndpointsEdit {
    let none = BTreeSet::new();
    let of_file = of_file.map_or(&none, |service| &service.group);
    let (add, del) = (&(&before.add - &new.del) | &new.add, &(&before.del - &new.add) | &new.del);
    EndpointsEdit { add: &add - of_file, del: &del & of_file }
}

/// Both one after the other, as a difference to the file.
fn pick_sources(new: &SourcesEdit, before: &SourcesEdit, of_file: Option<&Service>) -> SourcesEdit {
    let none = Sources::new();
    let of_file = of_file.map_or(&none, |service| &service.sources);
    to_sources(of_file, &edited_sources(&edited_sources(of_file, before), new))
}

fn pick_timeouts(new: PartialTimeouts, before: PartialTimeouts, of_file: PartialTimeouts) -> PartialTimeouts {
    new.zip(before).zip(of_file).map(|((new, before), of_file)| pick(new, before, of_file))
}

/// The newest value that was given, unless it is the file's.
fn pick<T: PartialEq>(new: Option<T>, before: Option<T>, of_file: Option<T>) -> Option<T> {
    new.or(before).filter(|value| Some(value) != of_file.as_ref())
}
