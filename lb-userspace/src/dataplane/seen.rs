//! What a round of the sweeper sees, by id.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::value::Value;

use crate::plan::Census;

/// Arrays, as every flow is looked up here: with maps most of a round's time went to them.
#[derive(Debug, Default)]
pub struct Seen {
    endpoints: Vec<bool>,
    dests: Vec<Dest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dest {
    seen: bool,
    active: u64,
    inactive: u64,
    half_open: u64,
}

impl Seen {
    /// For destination ids below `dests`.
    pub fn new(dests: u32) -> Self {
        let endpoints = usize::from(u16::MAX) + 1;
        Self { endpoints: vec![false; endpoints], dests: vec![Dest::default(); dests as usize] }
    }

    /// An entry of either kind; a template may be of no endpoint, but of a service.
    pub fn entry(&mut self, endpoint: Option<u16>, dest: u32) {
        if let Some(endpoint) = endpoint.and_then(|id| self.endpoints.get_mut(usize::from(id))) {
            *endpoint = true;
        }
        if let Some(dest) = self.dests.get_mut(dest as usize) {
            dest.seen = true;
        }
    }

    pub fn connection(&mut self, value: Value) {
        if let Some(dest) = self.dests.get_mut(value.dest() as usize) {
            *(if value.state().is_active() { &mut dest.active } else { &mut dest.inactive }) += 1;
            dest.half_open += u64::from(value.is_incomplete());
        }
    }

    pub fn census(&self) -> Census {
        let endpoints = (0..=u16::MAX).filter(|id| self.endpoints.get(usize::from(*id)) == Some(&true));
        let dests = self.seen().map(|(id, _)| id).collect::<BTreeSet<u32>>();
        Census { endpoints: endpoints.collect(), dests }
    }

    /// Live connections by destination: active, inactive.
    pub fn counts(&self) -> BTreeMap<u32, (u64, u64)> {
        let counted = self.seen().filter(|(_, dest)| dest.active + dest.inactive != 0);
        counted.map(|(id, dest)| (id, (dest.active, dest.inactive))).collect()
    }

    /// Handshakes under way by destination, where there are any.
    pub fn half_open(&self) -> BTreeMap<u32, u64> {
        let half_open = self.seen().filter(|(_, dest)| dest.half_open != 0);
        half_open.map(|(id, dest)| (id, dest.half_open)).collect()
    }

    fn seen(&self) -> impl Iterator<Item = (u32, &Dest)> {
        (0u32..).zip(&self.dests).filter(|(_, dest)| dest.seen)
    }
}
