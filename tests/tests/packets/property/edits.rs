//! What is done to the director: edits of services, other tables.

use lb::model::{Endpoint, Guard, Persistence, Scope, Service, sources::rule};

use super::{GROUPED, LARGE, PAIRS, RATE, SERVICES, Step, history::World};
use crate::world::*;
use lb_tests::xdp::SMALL;

/// A template's timeout in seconds.
pub const PERSISTENCE: u32 = 300;

impl World {
    /// Does what a step does to services.
    pub fn edit(&mut self, step: &Step) {
        match *step {
            Step::Service { service } => {
                let (from, to) = match self.services.contains_key(&service) {
                    true => (&mut self.services, &mut self.deleted),
                    false => (&mut self.deleted, &mut self.services),
                };
                to.extend(from.remove_entry(&service));
                // Its id may be given to another one, or stay: see `configure`.
                self.flooded.remove(&service);
            }
            Step::Toggle { service, backend } => self.change(service, |kind, port, service| {
                let mut one = kind.service(port, &[backend]).backends;
                let before = service.backends.len();
                service.backends.retain(|b| b.key != one[0].key);
                if service.backends.len() == before {
                    one.append(&mut service.backends);
                    service.backends = one;
                }
            }),
            Step::Drain { service, backend } => self.of_backend(service, backend, |b| b.drained = !b.drained),
            Step::Weight { service, backend, weight } => {
                self.of_backend(service, backend, |b| b.weight = weight);
            }
            // A deleted one has no checks, and keeps what it had.
            Step::Health { service, backend } if self.services.contains_key(&service) => {
                if !self.out.remove(&(service, backend)) {
                    self.out.insert((service, backend));
                }
            }
            Step::Thresholds { service, backend, upper, lower } => self.of_backend(service, backend, |b| {
                (b.upper_threshold, b.lower_threshold) = (upper, lower);
            }),
            Step::Scheduler { service, scheduler } => {
                self.change(service, |_, _, service| service.scheduler = scheduler);
            }
            Step::Persist { service, network, scope } => self.change(service, |kind, _, service| {
                let on = persistence(kind, network, scope);
                service.options.persistence = service.options.persistence.is_none().then_some(on);
            }),
            Step::Quiescent { service } => self.change(service, |_, _, service| {
                service.options.expire_quiescent_template ^= true;
            }),
            Step::Ops { service } => self.change(service, |_, _, service| service.options.ops ^= true),
            Step::Guard { service } => self.change(service, |_, _, service| {
                let on = service.options.guard == Guard::Off;
                service.options.guard = if on { Guard::Rate(RATE) } else { Guard::Off };
            }),
            Step::Group { service } => self.change(service, |kind, port, service| {
                if port == PORT {
                    let second = Endpoint::new(kind.vip(), GROUPED, kind.protocol());
                    if !service.group.remove(&second) {
                        service.group.insert(second);
                    }
                }
            }),
            Step::Nodest { service, nodest } => {
                let pair = PAIRS.iter().find(|(one, other)| [*one, *other].contains(&service));
                let these = pair.map_or(vec![service], |(one, other)| vec![*one, *other]);
                // A deleted one keeps what it had.
                if these.iter().all(|service| self.services.contains_key(service)) {
                    for service in these {
                        self.change(service, |_, _, service| service.options.expire_nodest = nodest);
                    }
                }
            }
            Step::Deny { service } => self.change(service, |kind, _, service| {
                let all = if kind.is_ipv6 { "::/0 deny" } else { "0.0.0.0/0 deny" };
                service.sources = match service.sources.is_empty() {
                    true => [rule(all).expect("a rule")].into(),
                    false => Default::default(),
                };
            }),
            Step::Health { .. }
            | Step::Packet { .. }
            | Step::Flood { .. }
            | Step::Resize
            | Step::Sweep { .. }
            | Step::Wait => {}
        }
    }

    fn change(&mut self, index: usize, edit: impl FnOnce(Kind, u16, &mut Service)) {
        let (kind, port) = SERVICES[index];
        if let Some(service) = self.services.get_mut(&index) {
            edit(kind, port, service);
        }
    }

    fn of_backend(&mut self, service: usize, backend: u8, edit: impl Fn(&mut lb::model::Backend)) {
        self.change(service, |kind, _, service| {
            let these = service.backends.iter_mut().filter(|b| b.key.address == kind.backend(backend));
            these.for_each(edit);
        });
    }

    /// Begins to move the flows to tables of another size, or goes on with it.
    pub fn resize(&mut self) {
        let meta = *self.director.meta();
        if !meta.is_migrating() {
            let other = if meta.narrow_generation.is_multiple_of(2) { LARGE } else { SMALL };
            self.director.begin_resize(other).expect("it begins");
        } else if self.director.move_flows().left == 0 {
            self.director.end_resize().expect("it ends");
        }
    }

    /// Whether each endpoint of a service has templates of its own.
    pub fn is_apart(&self, service: usize) -> bool {
        let persistence = self.services.get(&service).and_then(|service| service.options.persistence);
        persistence.is_some_and(|persistence| persistence.scope == Scope::Endpoint)
    }
}

pub fn persistence(kind: Kind, network: bool, scope: Scope) -> Persistence {
    let prefix = if kind.is_ipv6 { 64 } else { 24 };
    Persistence { timeout: PERSISTENCE, granularity: network.then_some(prefix), scope }
}
