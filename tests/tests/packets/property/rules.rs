//! What must hold at any time.

use std::collections::{BTreeMap, BTreeSet};

use lb::{
    dataplane::FlowEntry,
    plan::{address_bytes, address_from},
};
use lb_common::{
    template,
    tick::{self, Tick},
    value,
};
use lb_tests::packet::masked;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{
    FOREVER, SERVICES,
    history::{Place, World},
};
use crate::world::*;

impl World {
    /// What lives in the tables. What the program has just ended does not, though its clock is up to a tick ahead of ours.
    pub fn table(&self) -> Vec<FlowEntry> {
        let (mut table, now) = (Vec::new(), self.director.clock.now().after(1));
        self.director.maps().flows(now, |flow| table.push(flow));
        table
    }

    /// The templates that will have run out.
    pub fn templates_due(&self, seconds: u32) -> Vec<FlowEntry> {
        let then = self.director.tick_in(seconds);
        let snapshot = self.director.maps().snapshot().expect("a snapshot");
        let is_due = |flow: &FlowEntry| {
            let service = snapshot.dests.get(&flow.value.dest()).map(|dest| dest.service);
            let record = service.and_then(|id| snapshot.services.get(&id));
            // Of a service that is not persistent any more nothing is found by its mask.
            record.is_some_and(|record| {
                record.persistence != 0 && template::expiry(flow.value, record.rearm).is_past(then)
            })
        };
        let templates = self.table().into_iter().filter(|flow| flow.value.is_template());
        templates.filter(is_due).collect()
    }

    /// A template that has run out is armed again if it controls a connection, and otherwise gone. `start`: when the
    /// sweeper began.
    pub fn templates_kept_their_rule(
        &self,
        seconds: u32,
        due: &[FlowEntry],
        start: Tick,
    ) -> Result<(), TestCaseError> {
        let then = self.director.tick_in(seconds);
        let rearm = tick::ticks(template::REARM, self.director.clock.hz());
        let left = self.table();
        for flow in due {
            // One whose slot ends too was left alone for a minute.
            let controls = !flow.value.expiry().is_past(then)
                && left.iter().any(|connection| self.controls(flow, connection));
            let stays = left.iter().find(|other| {
                other.value.is_template()
                    && (other.client, other.endpoint) == (flow.client, flow.endpoint)
                    && other.value.dest() == flow.value.dest()
            });
            prop_assert_eq!(
                stays.is_some(),
                controls,
                "{:?} {:?}",
                self.places.get(&flow.value.dest()),
                flow
            );
            let armed =
                stays.map_or(start, |it| Tick(template::expiry(it.value, rearm).0.wrapping_sub(rearm)));
            let in_time = armed.until(start) >= 0 && armed.until(then) <= 0;
            prop_assert!(in_time, "armed {:?}, from {:?} to {:?}", armed, start, then);
        }
        if seconds == FOREVER {
            prop_assert!(!left.iter().any(|flow| flow.value.is_template()), "a template outlives everything");
        }
        Ok(())
    }

    /// What flows and templates name is there: its number is given to nothing else.
    pub fn nothing_in_use_is_freed(&self) -> Result<(), TestCaseError> {
        let snapshot = self.director.maps().snapshot().expect("a snapshot");
        let endpoints: BTreeSet<u16> = snapshot.endpoints.values().map(|endpoint| endpoint.id()).collect();
        for flow in self.table() {
            prop_assert!(snapshot.dests.contains_key(&flow.value.dest()), "no destination: {:?}", flow);
            prop_assert!(flow.endpoint.is_none_or(|id| endpoints.contains(&id)), "no endpoint: {:?}", flow);
        }
        Ok(())
    }

    /// Whether it is a connection of the template: to the same backend, from its network, by its endpoint if that has
    /// templates of its own. What a service's options were when it was made does not matter.
    fn controls(&self, template: &FlowEntry, connection: &FlowEntry) -> bool {
        let Some((service, _)) = self.places.get(&template.value.dest()) else { return false };
        let found = self.services.get(service).or(self.deleted.get(service));
        let Some(persistence) = found.and_then(|service| service.options.persistence) else { return false };
        let (kind, _) = SERVICES[*service];
        let network = masked(address_from(connection.client, kind.is_ipv6), persistence.prefix(kind.vip()));
        let apart = persistence.scope == lb::model::Scope::Endpoint;
        !connection.value.is_template()
            && connection.value.flags() & value::flag::CONTROLLED != 0
            && connection.value.dest() == template.value.dest()
            && address_bytes(network) == template.client
            && template.endpoint == connection.endpoint.filter(|_| apart)
    }

    /// Who has as many connections as its upper threshold gets no new ones until it has fewer than the lower one.
    /// `opened`: a connection may have ended and another begun since.
    pub fn thresholds_hold(&mut self, opened: bool) -> Result<(), TestCaseError> {
        let mut marks = BTreeMap::new();
        for (id, place) in &self.places {
            let counts = self.director.maps().conn_counts(*id);
            let (total, is) = (counts.active + counts.inactive, counts.overloaded != 0);
            let was = self.marks.get(place).copied().unwrap_or(false);
            if let Some((upper, lower)) = self.limits(*place) {
                // `ip_vs_dest_update_overload`: three quarters if none is given.
                let lower = u64::from(if lower == 0 { (3 * upper).div_ceil(4) } else { lower });
                let upper = u64::from(upper);
                let expected = match total {
                    _ if upper == 0 => vec![false],
                    _ if total >= upper => vec![true],
                    _ if total < lower => vec![false],
                    _ if opened && total == lower => vec![was, false],
                    _ => vec![was],
                };
                prop_assert!(
                    expected.contains(&is),
                    "{:?} is overloaded: {} of {}, {} to {}, before {}",
                    place,
                    is,
                    total,
                    lower,
                    upper,
                    was
                );
            }
            marks.insert(*place, is);
        }
        self.marks = marks;
        Ok(())
    }

    /// A backend's thresholds, if it is there.
    fn limits(&self, (service, backend): Place) -> Option<(u32, u32)> {
        let address = SERVICES[service].0.backend(backend);
        let found = self.services.get(&service)?.backends.iter().find(|b| b.key.address == address)?;
        Some((found.upper_threshold, found.lower_threshold))
    }

    /// The kernel's counts, and all slots of its tables counted anew, by destination: active, inactive.
    pub fn counts_equal_a_recount(&self) -> Result<(), TestCaseError> {
        let [kernel, recount] = recounted(&self.director);
        prop_assert_eq!(kernel, recount);
        Ok(())
    }
}
