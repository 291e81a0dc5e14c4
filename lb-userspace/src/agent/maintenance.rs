//! Backends that somebody works on: begun by command, ended by command or by the clock.

use super::Agent;
use crate::{
    api::{server::Failure, types::MaintenanceBegin},
    clock::realtime,
    model::{BackendKey, Maintenance, ServiceName},
    overlay::Change,
};

/// The change that begins a maintenance.
pub(super) fn maintain(
    service: ServiceName,
    key: BackendKey,
    begin: &MaintenanceBegin,
) -> Result<Change, Failure> {
    let MaintenanceBegin { comment, by, seconds } = begin;
    let maintenance = Maintenance::begin(comment, by, realtime(), *seconds).map_err(Failure::bad_input)?;
    Ok(Change::Maintain { service, key, maintenance })
}

impl Agent {
    /// Ends those whose time is over, also while no agent ran. Once a second: they are made for hours.
    pub(super) async fn end_maintenances(&mut self) {
        let now = realtime();
        let backends = self.model.services.iter().flat_map(|service| {
            service.backends.iter().map(|backend| (&service.name, backend.key, &backend.maintenance))
        });
        let over: Vec<_> = backends
            .filter(|(_, _, maintenance)| maintenance.as_ref().is_some_and(|it| it.is_over(now)))
            .map(|(service, key, _)| Change::EndMaintenance { service: service.clone(), key })
            .collect();
        if over.is_empty() {
            return;
        }
        let (mut model, mut overlay) = (self.model.clone(), self.overlay.clone());
        for change in over {
            // The backend is there: it was found in this model.
            if change.apply(&mut model).is_ok() {
                overlay.push(&self.config.model, change);
            }
        }
        match self.adopt(model, overlay, None).await {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(failure) => tracing::error!("ending a maintenance failed: {failure}; trying again"),
        }
        // Says which.
        self.see_pools();
        self.see_neighbours();
    }
}
