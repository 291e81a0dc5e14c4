//! What a packet may do to persistence templates.

use std::collections::BTreeMap;

use lb::{dataplane::FlowEntry, plan::address_bytes};
use lb_common::{
    template::{ASSURED, NONE, REARM},
    tick,
    value::{Value, flag},
};
use lb_tests::packet::masked;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{
    TARGETS,
    clients::Span,
    edits::PERSISTENCE,
    history::{Flow, World, address},
};

/// Whose a template is: the service's or one of its endpoints', and the clients' network.
pub type Owner = (usize, Option<u16>, [u8; 16]);
pub type Templates = BTreeMap<Owner, Value>;

/// What becomes of the template of a packet's client.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Nothing: the connection is known, or none began.
    Nothing,
    /// It leads the connection, and its time begins anew.
    Led,
    /// It is made, or made to lead to this backend.
    Made(u8),
    /// It leads nobody any more, and is over.
    Ended,
    /// A connection to this backend was established.
    Assured(u8),
}

impl World {
    pub fn templates(&self, table: &[FlowEntry]) -> Templates {
        let templates = table.iter().filter(|entry| entry.value.is_template());
        let owned = templates.filter_map(|entry| {
            let (service, _) = self.places.get(&entry.value.dest())?;
            Some(((*service, entry.endpoint, entry.client), entry.value))
        });
        owned.collect()
    }

    /// Whose template is the client's, if the service is persistent.
    pub fn owner(&self, service: usize, (target, client): Flow) -> Option<Owner> {
        let (kind, port, _) = TARGETS[target];
        let persistence = self.services.get(&service)?.options.persistence?;
        let network = masked(address(kind, client), persistence.prefix(kind.vip()));
        let endpoint = if self.is_apart(service) { Some(self.endpoint(service, kind, port)?) } else { None };
        Some((service, endpoint, address_bytes(network)))
    }

    /// Where the client's template of a service leads, if that holds.
    pub fn led(&self, templates: &Templates, service: usize, flow: Flow) -> Option<u8> {
        let (_, backend) = self.places.get(&templates.get(&self.owner(service, flow)?)?.dest()).copied()?;
        let options = self.services.get(&service)?.options;
        let holds = self.has(service, backend)
            && !self.out.contains(&(service, backend))
            && (!options.expire_quiescent_template || self.has_weight(service, backend));
        holds.then_some(backend)
    }

    /// A connection that begins gives its client's template all its time again, or makes one. Nothing else changes any.
    /// `owner`: of the client's, if it is the packet of a service that may begin something.
    pub fn templates_follow(
        &self,
        before: &Templates,
        owner: Option<Owner>,
        changes: &[Change],
        span: Span,
    ) -> Result<(), TestCaseError> {
        let after = self.templates(&self.table());
        let mut may = changes.iter().map(|change| self.follows(before, &after, owner, *change, span));
        prop_assert!(
            may.any(|follows| follows),
            "{:?} of {:?}: {:?} instead of {:?}",
            changes,
            owner,
            after,
            before
        );
        Ok(())
    }

    fn follows(
        &self,
        before: &Templates,
        after: &Templates,
        owner: Option<Owner>,
        change: Change,
        span: Span,
    ) -> bool {
        let mut expected = before.clone();
        let seconds = |seconds| tick::ticks(seconds, self.director.clock.hz());
        let own = owner.and_then(|owner| Some((owner, *before.get(&owner)?)));
        match (change, owner) {
            (Change::Led, Some(owner)) => {
                let (_, was) = own.unwrap_or((owner, Value::FREE));
                let again = was.flags() & flag::ARMED_AGAIN != 0;
                let time = if again { REARM } else { PERSISTENCE };
                let expiry = span.end.after(seconds(time)).after(seconds(REARM));
                expected.insert(owner, was.moved_to(was.state(), expiry));
            }
            (Change::Made(backend), Some(owner)) => {
                let dest = self.places.iter().find(|(_, place)| **place == (owner.0, backend));
                let expiry = span.end.after(seconds(PERSISTENCE)).after(seconds(REARM));
                let dest = dest.map_or(0, |(id, _)| *id);
                expected.insert(owner, Value::new(dest, NONE, flag::TEMPLATE, expiry));
            }
            (Change::Ended, Some(owner)) => drop(expected.remove(&owner)),
            (Change::Assured(backend), Some(owner)) => {
                let its = |value: &&mut Value| self.places.get(&value.dest()) == Some(&(owner.0, backend));
                if let Some(value) = expected.get_mut(&owner).filter(its) {
                    *value = value.moved_to(ASSURED, value.expiry());
                }
            }
            (..) => {}
        }
        let begun =
            |of: &Owner| matches!(change, Change::Led | Change::Made(_)) && owner.as_ref() == Some(of);
        let is = |of: &Owner, expected: Value, now: Value| {
            let late = expected.expiry().until(now.expiry());
            let in_time = if begun(of) { (-1..=span.ticks() + 1).contains(&late) } else { late == 0 };
            // But for the time.
            in_time && now.moved_to(now.state(), expected.expiry()) == expected
        };
        expected.len() == after.len()
            && expected.iter().all(|(of, value)| after.get(of).is_some_and(|now| is(of, *value, *now)))
    }
}
