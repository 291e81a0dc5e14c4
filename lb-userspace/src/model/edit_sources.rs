//! Changes of a service's rules about where clients come from. PURE.

use lb_common::source::MAX_RULES;

use super::{Model, Service, Sources, edit::EditError, sources::fault};
use crate::api::types::SourcesEdit;

/// `before` with what is given.
pub fn edited_sources(before: &Sources, given: &SourcesEdit) -> Sources {
    let mut sources = before.clone();
    sources.retain(|network, _| !given.del.contains(network));
    sources.extend(given.set.iter().map(|(network, rule)| (*network, *rule)));
    sources
}

/// The edit that makes `after` of `before`.
pub fn to_sources(before: &Sources, after: &Sources) -> SourcesEdit {
    let changed = after.iter().filter(|(network, rule)| before.get(network) != Some(rule));
    SourcesEdit {
        set: changed.map(|(network, rule)| (*network, *rule)).collect(),
        del: before.keys().filter(|network| !after.contains_key(network)).copied().collect(),
    }
}

pub(super) fn check_sources(model: &Model, service: &Service) -> Result<(), EditError> {
    let vip = Some(service.endpoint.address);
    if let Some((wrong, right)) =
        service.sources.iter().find_map(|(network, rule)| fault(*network, rule, vip))
    {
        return Err(EditError::BadSource { service: service.name.clone(), wrong, right });
    }
    let others = model.services.iter().filter(|other| other.name != service.name);
    let all = others.map(|other| other.sources.len()).sum::<usize>() + service.sources.len();
    if all > MAX_RULES as usize { Err(EditError::TooManySources { all }) } else { Ok(()) }
}
