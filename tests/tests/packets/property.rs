//! Whatever happens to services, backends and clients: an established flow never changes its backend, and what is
//! counted is what is there.

use std::collections::BTreeMap;

use lb::{
    model::{ExpireNodest, Service, Timeouts},
    plan::Desired,
};
use lb_common::{
    tcp::{self, State, flag::*},
    verdict::Verdict,
};
use lb_tests::xdp::Director;
use proptest::prelude::*;

use crate::world::*;

/// The services there may be, by index: of a port, the wildcards of two kinds, and ranges from a port on.
const SERVICES: [(Kind, u16); 8] = [
    (TCP4, PORT),
    (TCP4, 0),
    (UDP4, PORT),
    (TCP6, PORT),
    (UDP6, PORT),
    (UDP6, 0),
    (TCP4, PORT - 6),
    (UDP6, PORT - 6),
];
const RANGES: [usize; 2] = [6, 7];
/// What happens to what a removed backend of each had. A range and the wildcard behind it are of one mind: the
/// flows of the one go to the other when it is deleted.
const NODEST: [ExpireNodest; 8] = {
    use ExpireNodest::*;
    [Auto, Reschedule, Drop, Reschedule, Auto, Auto, Reschedule, Auto]
};
/// What clients connect to, and the services that may serve it: the first that there is.
const TARGETS: [(Kind, u16, &[usize]); 8] = [
    (TCP4, PORT, &[0, 6, 1]),
    (TCP4, PORT + 1, &[6, 1]),
    (TCP4, 9, &[1]),
    (UDP4, PORT, &[2]),
    (TCP6, PORT, &[3]),
    (UDP6, PORT, &[4, 7, 5]),
    (UDP6, PORT + 1, &[7, 5]),
    (UDP6, 9, &[5]),
];
const CLIENTS: u16 = 5;
/// None so short that it passes for real while a case runs.
fn no_short_timeouts() -> Timeouts {
    Timeouts { tcp_fin: 200, tcp_syn: 200, tcp_time_wait: 200, tcp_close: 200, ..Timeouts::default() }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Packet {
        client: u16,
        target: usize,
        flags: u8,
    },
    /// A backend is added at the head, or removed.
    Toggle {
        service: usize,
        backend: u8,
    },
    Drain {
        service: usize,
        backend: u8,
    },
    /// A service is added, or deleted.
    Service {
        service: usize,
    },
    /// The sweeper comes this many seconds later: 0, beyond every timeout but that of established flows, beyond all.
    Sweep {
        seconds: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES.len();
    let flags = prop_oneof![
        5 => Just(SYN),
        6 => Just(ACK),
        1 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => Just(0u8),
    ];
    let packet = (0..CLIENTS, 0..TARGETS.len(), flags);
    let backend = (service.clone(), 1..4u8);
    prop_oneof![
        60 => packet.prop_map(|(client, target, flags)| Step::Packet { client, target, flags }),
        2 => backend.clone().prop_map(|(service, backend)| Step::Toggle { service, backend }),
        2 => backend.prop_map(|(service, backend)| Step::Drain { service, backend }),
        1 => service.prop_map(|service| Step::Service { service }),
        2 => prop_oneof![3 => Just(0), 2 => Just(400), 1 => Just(2000)].prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

/// What a client knows of its connection.
#[derive(Clone, Copy, Debug)]
struct Known {
    service: usize,
    backend: u8,
    state: State,
}

/// A connection: target, client.
type Flow = (usize, u16);

/// The director, what is wanted of it, and what the clients know.
struct World {
    director: Director,
    services: BTreeMap<usize, Service>,
    /// Services that were deleted come back as they were.
    deleted: BTreeMap<usize, Service>,
    flows: BTreeMap<Flow, Known>,
}

impl World {
    fn new() -> Self {
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
        let mut world =
            Self { director: director(&lab()), services, deleted: BTreeMap::new(), flows: BTreeMap::new() };
        world.configure();
        world
    }

    fn configure(&mut self) {
        let services = self.services.values().cloned().collect();
        let want = Desired { services, timeouts: no_short_timeouts(), ..lab() };
        self.director.configure(&want).expect("configured");
    }

    fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Packet { client, target, flags } => self.packet((*target, *client), *flags)?,
            Step::Toggle { service, backend } => {
                let (kind, port) = SERVICES[*service];
                if let Some(service) = self.services.get_mut(service) {
                    let mut one = kind.service(port, &[*backend]).backends;
                    let before = service.backends.len();
                    service.backends.retain(|b| b.key != one[0].key);
                    if service.backends.len() == before {
                        one.append(&mut service.backends);
                        service.backends = one;
                    }
                }
                self.configure();
            }
            Step::Drain { service, backend } => {
                let address = SERVICES[*service].0.backend(*backend);
                let backends = self.services.get_mut(service).map(|s| &mut s.backends).into_iter().flatten();
                backends.filter(|b| b.key.address == address).for_each(|b| b.drained = !b.drained);
                self.configure();
            }
            Step::Service { service } => {
                let (from, to) = match self.services.contains_key(service) {
                    true => (&mut self.services, &mut self.deleted),
                    false => (&mut self.deleted, &mut self.services),
                };
                to.extend(from.remove_entry(service));
                self.configure();
            }
            Step::Sweep { seconds } => {
                self.director.sweep_in(*seconds).expect("swept");
                // The client knows what the timeouts are, and that what is not kept for a removed backend is over.
                let mut flows = std::mem::take(&mut self.flows);
                flows.retain(|_, known| {
                    let over = self.reschedules(*known) && !self.has(known.service, known.backend);
                    no_short_timeouts().of(known.state) > *seconds && !over
                });
                self.flows = flows;
            }
        }
        Ok(())
    }

    fn packet(&mut self, flow: Flow, flags: u8) -> Result<(), TestCaseError> {
        let (kind, port, services) = TARGETS[flow.0];
        let packet = kind.open().from_port(1000 + flow.1).to_port(port);
        let packet = if kind.is_udp { packet } else { packet.flags(flags) };
        let outcome = send(&mut self.director, &packet);
        let opens = kind.is_udp || tcp::opens(flags);
        let next = |state| if kind.is_udp { State::UDP } else { tcp::next(state, flags) };
        let known = self.flows.get(&flow).copied();
        let abandoned = known.is_some_and(|known| opens && self.is_abandoned(known));
        match known {
            Some(known) if !(abandoned || opens && known.state.is_reusable()) => {
                let there = self.has(known.service, known.backend);
                let expected = if there { Ok(known.backend) } else { Err(Verdict::DroppedBackendRemoved) };
                prop_assert_eq!(outcome, expected, "{:?} of {:?} {:?}", packet.flags, flow, known);
                // What is dropped keeps no flow alive.
                if there {
                    self.flows.insert(flow, Known { state: next(known.state), ..known });
                }
            }
            _ => {
                let server = services.iter().copied().find(|service| self.services.contains_key(service));
                match (outcome, server) {
                    (Ok(backend), Some(service)) if opens => {
                        // A wildcard's flow from before may have been waiting.
                        let waited = abandoned && self.has(service, backend);
                        prop_assert!(
                            waited || self.takes_new(service, backend),
                            "to {} that takes nothing new",
                            backend
                        );
                        self.flows.insert(flow, Known { service, backend, state: next(State::NONE) });
                    }
                    (Err(Verdict::DroppedNoBackend), Some(service)) if opens => {
                        prop_assert!(!(1..4).any(|backend| self.takes_new(service, backend)));
                    }
                    (Err(Verdict::DroppedNoFlow), Some(_)) if !opens => {}
                    (Err(Verdict::PassedNoService), None) => {}
                    _ => {
                        prop_assert!(false, "{:?} of {:?}: {:?} by {:?}", packet.flags, flow, outcome, server)
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether flows of the service may go to the backend: it has it, or was deleted when it had it.
    fn has(&self, service: usize, backend: u8) -> bool {
        let address = SERVICES[service].0.backend(backend);
        let found = self.services.get(&service).or(self.deleted.get(&service));
        found.is_some_and(|s| s.backends.iter().any(|b| b.key.address == address))
    }

    /// Whether a service schedules flows of removed backends anew.
    fn reschedules(&self, known: Known) -> bool {
        let service = self.services.get(&known.service).or(self.deleted.get(&known.service));
        service.is_some_and(|service| NODEST[known.service].reschedules(service.endpoint.protocol))
    }

    /// Whether a SYN or datagram of it is scheduled anew: its backend was removed, or is drained and it is TCP.
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

    /// The kernel's counts, and the table counted anew, by destination: active, inactive.
    fn counts(&mut self) -> [BTreeMap<u32, (u64, u64)>; 2] {
        self.director.sweep_in(0).expect("swept");
        let maps = self.director.maps();
        let dests = maps.snapshot().expect("a snapshot").dests;
        let mut recount: BTreeMap<u32, (u64, u64)> = dests.keys().map(|id| (*id, (0, 0))).collect();
        for flow in self.director.flows() {
            let (active, inactive) = recount.entry(flow.value.dest()).or_default();
            *(if flow.value.state().is_active() { active } else { inactive }) += 1;
        }
        let kernel = recount.keys().map(|id| (*id, maps.conn_counts(*id)));
        [kernel.map(|(id, counts)| (id, (counts.active, counts.inactive))).collect(), recount]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn an_established_flow_never_changes_its_backend(steps in prop::collection::vec(step(), 50..300)) {
        let mut world = World::new();
        for step in &steps {
            world.act(step)?;
        }
        // What counts are compared after.
        world.act(&Step::Sweep { seconds: 0 })?;
        let [kernel, recount] = world.counts();
        prop_assert_eq!(kernel, recount);
        prop_assert!(world.director.flows().len() >= world.flows.len(), "flows were lost");
    }
}
