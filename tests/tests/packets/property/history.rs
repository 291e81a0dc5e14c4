//! A director, what is wanted of it, and what its clients know.

use std::collections::BTreeMap;

use lb::{
    dataplane::FlowEntry,
    model::{Persistence, Scheduler, Scope, Service, Timeouts, sources::rule},
    plan::{Desired, dest_address, name_of},
};
use lb_common::{
    dest,
    tcp::{self, State},
    template, value,
    verdict::Verdict,
};
use lb_tests::xdp::{Director, SMALL};
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{FIRST_PORT, LARGE, NODEST, RANGES, SERVICES, Step, TARGETS};
use crate::world::*;

/// Beyond every timeout, of templates that were armed again too.
pub const FOREVER: u32 = 2000;

/// None so short that it passes for real while a case runs.
fn no_short_timeouts() -> Timeouts {
    Timeouts {
        tcp_fin: 200,
        tcp_syn: 200,
        tcp_time_wait: 200,
        tcp_close: 200,
        sctp_init1: 200,
        sctp_init: 200,
        sctp_echoed: 200,
        sctp_shutdown: 200,
        sctp_closed: 200,
        ..Timeouts::default()
    }
}

/// What a client knows of its connection.
#[derive(Clone, Copy, Debug)]
struct Known {
    service: usize,
    backend: u8,
    state: State,
    /// By a persistence template.
    controlled: bool,
}

/// A connection: target, client.
type Flow = (usize, u16);

/// A destination: service and backend.
type Place = (usize, u8);

pub struct World {
    pub director: Director,
    services: BTreeMap<usize, Service>,
    /// Services that were deleted come back as they were.
    deleted: BTreeMap<usize, Service>,
    /// Of every destination that there is.
    places: BTreeMap<u32, Place>,
    flows: BTreeMap<Flow, Known>,
}

impl World {
    pub fn new() -> Self {
        let make = |(index, (kind, port)): (usize, &(Kind, u16))| {
            let mut service = kind.service(*port, &[1, 2]);
            service.options.expire_nodest = NODEST[index];
            if RANGES.contains(&index) {
                service.endpoint.last_port = Some(PORT + 100);
                service.name = service.endpoint.default_name();
            }
            (index, service)
        };
        let services: BTreeMap<usize, Service> = SERVICES.iter().enumerate().map(make).collect();
        let (director, deleted) = (director(&lab()), BTreeMap::new());
        let mut world = Self { director, services, deleted, places: BTreeMap::new(), flows: BTreeMap::new() };
        world.configure();
        world
    }

    fn configure(&mut self) {
        let services = self.services.values().cloned().collect();
        let want = Desired { services, timeouts: no_short_timeouts(), ..lab() };
        self.director.configure(&want).expect("configured");
        let snapshot = self.director.maps().snapshot().expect("a snapshot");
        let all = self.services.iter().chain(&self.deleted);
        let numbers: BTreeMap<String, usize> =
            all.map(|(index, service)| (service.name.to_string(), *index)).collect();
        let place = |dest: &dest::Dest| {
            let service = *numbers.get(&name_of(&snapshot.services.get(&dest.service)?.name))?;
            let address = dest_address(dest);
            Some((service, (1..4).find(|number| SERVICES[service].0.backend(*number) == address)?))
        };
        self.places = snapshot.dests.iter().filter_map(|(id, dest)| Some((*id, place(dest)?))).collect();
    }

    pub fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Packet { client, target, flags } => return self.packet((*target, *client), *flags),
            Step::Sweep { seconds } => return self.sweep(*seconds),
            Step::Resize => {
                self.resize();
                return Ok(());
            }
            Step::Service { service } => {
                let (from, to) = match self.services.contains_key(service) {
                    true => (&mut self.services, &mut self.deleted),
                    false => (&mut self.deleted, &mut self.services),
                };
                to.extend(from.remove_entry(service));
            }
            Step::Toggle { service, backend } => self.edit(*service, |kind, port, service| {
                let mut one = kind.service(port, &[*backend]).backends;
                let before = service.backends.len();
                service.backends.retain(|b| b.key != one[0].key);
                if service.backends.len() == before {
                    one.append(&mut service.backends);
                    service.backends = one;
                }
            }),
            Step::Drain { service, backend } => self.edit(*service, |kind, _, service| {
                let backends = service.backends.iter_mut();
                let these = backends.filter(|b| b.key.address == kind.backend(*backend));
                these.for_each(|b| b.drained = !b.drained);
            }),
            Step::Weight { service, backend, weight } => self.edit(*service, |kind, _, service| {
                let backends = service.backends.iter_mut();
                let these = backends.filter(|b| b.key.address == kind.backend(*backend));
                these.for_each(|b| b.weight = *weight);
            }),
            Step::Scheduler { service, scheduler } => {
                self.edit(*service, |_, _, service| service.scheduler = *scheduler)
            }
            Step::Persist { service } => self.edit(*service, |_, _, service| {
                let on = Persistence { timeout: 300, granularity: None, scope: Scope::Service };
                service.options.persistence = service.options.persistence.is_none().then_some(on);
            }),
            Step::Deny { service } => self.edit(*service, |kind, _, service| {
                let all = if kind.is_ipv6 { "::/0 deny" } else { "0.0.0.0/0 deny" };
                service.sources = match service.sources.is_empty() {
                    true => [rule(all).expect("a rule")].into(),
                    false => Default::default(),
                };
            }),
        }
        self.configure();
        Ok(())
    }

    fn edit(&mut self, index: usize, edit: impl FnOnce(Kind, u16, &mut Service)) {
        let (kind, port) = SERVICES[index];
        if let Some(service) = self.services.get_mut(&index) {
            edit(kind, port, service);
        }
    }

    /// Begins to move the flows to tables of another size, or goes on with it.
    fn resize(&mut self) {
        let meta = *self.director.meta();
        if !meta.is_migrating() {
            let other = if meta.narrow_generation.is_multiple_of(2) { LARGE } else { SMALL };
            self.director.begin_resize(other).expect("it begins");
        } else if self.director.move_flows().left == 0 {
            self.director.end_resize().expect("it ends");
        }
    }

    fn sweep(&mut self, seconds: u32) -> Result<(), TestCaseError> {
        // Before, since the sweeper heals counts.
        self.counts_equal_a_recount()?;
        let due = self.templates_due(seconds);
        for _ in 0..2 {
            self.director.sweep_in(seconds).expect("swept");
        }
        self.templates_kept_their_rule(seconds, &due)?;
        // The client knows what the timeouts are, and that what is not kept for a removed backend is over.
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain(|_, known| {
            let over = self.reschedules(*known) && !self.has(known.service, known.backend);
            no_short_timeouts().of(known.state) > seconds && !over
        });
        self.flows = flows;
        Ok(())
    }

    /// The templates that will have run out.
    fn templates_due(&self, seconds: u32) -> Vec<FlowEntry> {
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
        self.templates().into_iter().filter(is_due).collect()
    }

    fn templates(&self) -> Vec<FlowEntry> {
        self.director.flows().into_iter().filter(|flow| flow.value.is_template()).collect()
    }

    /// A template that has run out is armed again if it controls a connection, and otherwise gone.
    fn templates_kept_their_rule(&self, seconds: u32, due: &[FlowEntry]) -> Result<(), TestCaseError> {
        let then = self.director.tick_in(seconds);
        let left = self.director.flows();
        let leads = |flow: &FlowEntry, of: &FlowEntry| flow.value.dest() == of.value.dest();
        for flow in due {
            // One whose slot ends too was left alone for a minute.
            let controls = !flow.value.expiry().is_past(then)
                && left.iter().any(|other| {
                    !other.value.is_template()
                        && other.value.flags() & value::flag::CONTROLLED != 0
                        && leads(other, flow)
                });
            let stays = left.iter().any(|other| other.value.is_template() && leads(other, flow));
            prop_assert_eq!(stays, controls, "{:?} {:?}", self.places.get(&flow.value.dest()), flow);
        }
        if seconds == FOREVER {
            prop_assert!(!left.iter().any(|flow| flow.value.is_template()), "a template outlives everything");
        }
        Ok(())
    }

    fn packet(&mut self, flow: Flow, flags: u8) -> Result<(), TestCaseError> {
        let (kind, port, services) = TARGETS[flow.0];
        let packet = kind.open().from_port(FIRST_PORT + flow.1).to_port(port);
        let packet = if kind.is_udp { packet } else { packet.flags(flags) };
        let does = if kind.is_sctp { lb_common::sctp::flags(flags) } else { flags };
        let opens = kind.is_udp || tcp::opens(does);
        let next = |state| match (kind.is_udp, kind.is_sctp) {
            (true, _) => State::UDP,
            (_, true) => lb_common::sctp::next(state, does),
            (..) => tcp::next(state, does),
        };
        let known = self.flows.get(&flow).copied();
        let abandoned = known.is_some_and(|known| opens && self.is_abandoned(known));
        let over = |known: Known| abandoned || opens && known.state.is_reusable() && !known.controlled;
        let server = services.iter().copied().find(|service| self.services.contains_key(service));
        let led = server.filter(|_| opens).and_then(|server| self.led(server));
        let outcome = send(&mut self.director, &packet);
        match known {
            Some(known) if !over(known) => {
                let there = self.has(known.service, known.backend);
                let expected = if there { Ok(known.backend) } else { Err(Verdict::DroppedBackendRemoved) };
                prop_assert_eq!(outcome, expected, "{:?} of {:?} {:?}", packet.flags, flow, known);
                // What is dropped keeps no flow alive.
                if there {
                    self.flows.insert(flow, Known { state: next(known.state), ..known });
                }
            }
            _ => match (outcome, server) {
                (Ok(backend), Some(service)) if opens => {
                    // A wildcard's flow from before may have been waiting.
                    let waited = abandoned && self.has(service, backend);
                    let may = match led {
                        Some(led) => led == backend,
                        None => self.takes_new(service, backend),
                    };
                    prop_assert!(
                        waited || may,
                        "to {} that takes nothing new; a template: {:?}",
                        backend,
                        led
                    );
                    prop_assert!(waited || !self.denies(service), "a client that is denied");
                    let controlled = self.is_controlled((service, backend), flow);
                    let state = next(State::NONE);
                    self.flows.insert(flow, Known { service, backend, state, controlled });
                }
                (Err(Verdict::DroppedDenied), Some(service)) if opens => {
                    prop_assert!(self.denies(service));
                }
                (Err(Verdict::DroppedNoBackend), Some(service)) if opens => {
                    let may_refuse = self.may_refuse(service);
                    prop_assert!(may_refuse || !(1..4).any(|backend| self.takes_new(service, backend)));
                    prop_assert_eq!(led, None, "a template holds");
                    // What was to be scheduled anew has ended all the same.
                    if abandoned {
                        self.flows.remove(&flow);
                    }
                }
                (Err(Verdict::DroppedNoFlow), Some(_)) if !opens => {}
                (Err(Verdict::PassedNoService), None) => {}
                _ => prop_assert!(false, "{:?} of {:?}: {:?} by {:?}", packet.flags, flow, outcome, server),
            },
        }
        Ok(())
    }

    /// Where the client's template of a service leads, if that holds. All clients have one address.
    fn led(&self, service: usize) -> Option<u8> {
        self.services.get(&service)?.options.persistence?;
        let places =
            self.templates().into_iter().filter_map(|flow| self.places.get(&flow.value.dest()).copied());
        let mut backends = places.filter(|(of, _)| *of == service).map(|(_, backend)| backend);
        backends.find(|backend| self.has(service, *backend))
    }

    fn is_controlled(&self, place: Place, (target, client): Flow) -> bool {
        let port = TARGETS[target].1;
        self.director.flows().iter().any(|flow| {
            self.places.get(&flow.value.dest()) == Some(&place)
                && flow.client_port == FIRST_PORT + client
                && [0, port].contains(&flow.port)
                && !flow.value.is_template()
                && flow.value.flags() & value::flag::CONTROLLED != 0
        })
    }

    /// Whether flows of the service may go to the backend: it has it, or was deleted when it had it.
    fn has(&self, service: usize, backend: u8) -> bool {
        let address = SERVICES[service].0.backend(backend);
        let found = self.services.get(&service).or(self.deleted.get(&service));
        found.is_some_and(|s| s.backends.iter().any(|b| b.key.address == address))
    }

    fn denies(&self, service: usize) -> bool {
        self.services.get(&service).is_some_and(|service| !service.sources.is_empty())
    }

    /// Whether it refuses clients though somebody takes connections: the one that their hash points to does not, or
    /// all have as many active ones as their weight.
    fn may_refuse(&self, service: usize) -> bool {
        use Scheduler::*;
        let scheduler = self.services.get(&service).map(|service| service.scheduler);
        scheduler.is_some_and(|scheduler| match scheduler {
            Sh(flags) | Mh(flags) => !flags.fallback,
            Dh | Ovf => true,
            _ => false,
        })
    }

    /// Whether a service schedules flows of removed backends anew.
    fn reschedules(&self, known: Known) -> bool {
        let service = self.services.get(&known.service).or(self.deleted.get(&known.service));
        service.is_some_and(|service| NODEST[known.service].reschedules(service.endpoint.protocol))
    }

    /// Whether what begins on it is scheduled anew: its backend was removed, or is drained and it is no UDP.
    fn is_abandoned(&self, known: Known) -> bool {
        let (kind, _) = SERVICES[known.service];
        let address = kind.backend(known.backend);
        let service = self.services.get(&known.service).or(self.deleted.get(&known.service));
        let drained = service.is_some_and(|s| {
            s.backends.iter().any(|b| b.key.address == address && b.effective_weight() == 0)
        });
        self.reschedules(known) && (!self.has(known.service, known.backend) || drained && !kind.is_udp)
    }

    fn takes_new(&self, service: usize, backend: u8) -> bool {
        let address = SERVICES[service].0.backend(backend);
        let backends = self.services.get(&service).map(|s| &s.backends).into_iter().flatten();
        backends.into_iter().any(|b| b.key.address == address && b.effective_weight() != 0)
    }

    /// The kernel's counts, and all slots of its tables counted anew, by destination: active, inactive.
    fn counts_equal_a_recount(&self) -> Result<(), TestCaseError> {
        let maps = self.director.maps();
        let dests = maps.snapshot().expect("a snapshot").dests;
        let mut recount: BTreeMap<u32, (u64, u64)> = dests.keys().map(|id| (*id, (0, 0))).collect();
        for value in slots(&self.director).into_iter().filter(|value| !value.is_template()) {
            prop_assert!(value.is_flow(), "a slot is locked: {:?}", value);
            let (active, inactive) = recount.entry(value.dest()).or_default();
            *(if value.state().is_active() { active } else { inactive }) += 1;
        }
        let kernel: BTreeMap<u32, (u64, u64)> = recount
            .keys()
            .map(|id| (*id, maps.conn_counts(*id)))
            .map(|(id, counts)| (id, (counts.active, counts.inactive)))
            .collect();
        prop_assert_eq!(kernel, recount);
        Ok(())
    }

    /// What is left when all has ended: the flows that clients know of until then, and then nothing.
    pub fn end(&mut self) -> Result<(), TestCaseError> {
        self.counts_equal_a_recount()?;
        prop_assert!(self.director.flows().len() >= self.flows.len(), "flows were lost");
        self.sweep(FOREVER)?;
        self.sweep(FOREVER)?;
        prop_assert_eq!(slots(&self.director), [], "slots leak");
        self.counts_equal_a_recount()?;
        if self.director.meta().is_migrating() {
            self.resize();
            prop_assert!(!self.director.meta().is_migrating());
        }
        self.services.clear();
        self.configure();
        for _ in 0..2 {
            self.director.sweep_in(FOREVER).expect("swept");
        }
        self.configure();
        let left = self.director.maps().snapshot().expect("a snapshot");
        prop_assert!(
            left.dests.is_empty() && left.services.is_empty() && left.endpoints.is_empty(),
            "{:?}",
            left
        );
        Ok(())
    }
}
