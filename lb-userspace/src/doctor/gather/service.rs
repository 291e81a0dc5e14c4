//! The services that the agent has.

use crate::{
    api::types::{BackendState, ServiceView},
    doctor::judge::service::Facts,
};

pub fn gather(services: &[ServiceView]) -> Vec<Facts> {
    let facts = services.iter().map(|service| Facts {
        name: service.name.to_string(),
        backends: service
            .backends
            .iter()
            .map(|it| {
                // As serde names it, which is what `lb backend list` shows.
                let state = format!("{:?}", it.state).to_lowercase();
                (it.key.to_string(), state, it.state == BackendState::Up)
            })
            .collect(),
    });
    facts.collect()
}
