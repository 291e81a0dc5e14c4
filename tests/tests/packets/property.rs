//! Whatever happens to services, backends, tables and clients: an established flow never changes its backend, what is
//! counted is what is there, a template lives as long as it controls connections, who has too many connections gets no
//! new ones, a flood gets no more entries than its guard allows, and in the end nothing is left.

mod clients;
mod edits;
mod history;
mod rules;
mod templates;

use lb::model::{ExpireNodest, FlowSizes, HashFlags, Scheduler, Scope};
use lb_common::{sctp::chunk, tcp::flag::*};
use proptest::prelude::*;

use self::history::{FOREVER, World};
use crate::world::*;

/// The services there may be, by index: of a port, the wildcards of two kinds, and ranges from a port on.
const SERVICES: [(Kind, u16); 10] = [
    (TCP4, PORT),
    (TCP4, 0),
    (UDP4, PORT),
    (TCP6, PORT),
    (UDP6, PORT),
    (UDP6, 0),
    (TCP4, PORT - 6),
    (UDP6, PORT - 6),
    (SCTP4, PORT),
    (SCTP6, 0),
];
const RANGES: [usize; 2] = [6, 7];
/// A range and the wildcard behind it. What happens to what a removed backend had is the same with both: the flows of
/// the one go to the other when it is deleted.
const PAIRS: [(usize, usize); 2] = [(1, 6), (5, 7)];
/// What happens to what a removed backend of each had, at first.
const NODEST: [ExpireNodest; 10] = {
    use ExpireNodest::*;
    [Reset, Reschedule, Drop, Reset, Auto, Auto, Reschedule, Auto, Auto, Reschedule]
};
/// Those that are persistent at first; their clients do not stay with a drained backend.
const PERSISTENT: [usize; 3] = [1, 4, 9];
/// Targets that are theirs.
const TEMPLATED: [usize; 4] = [3, 6, 9, 11];
/// What clients connect to, and the services that may serve it: the first that there is.
const TARGETS: [(Kind, u16, &[usize]); 12] = [
    (TCP4, PORT, &[0, 6, 1]),
    (TCP4, PORT + 1, &[6, 1]),
    (TCP4, GROUPED, &[0, 1]),
    (TCP4, 9, &[1]),
    (UDP4, PORT, &[2]),
    (TCP6, PORT, &[3]),
    (UDP6, PORT, &[4, 7, 5]),
    (UDP6, PORT + 1, &[7, 5]),
    (UDP6, 9, &[5]),
    (UDP6, GROUPED, &[4, 5]),
    (SCTP4, PORT, &[8]),
    (SCTP6, PORT, &[9]),
];
/// A port of the VIP that a service of one port has besides, while it is a group.
const GROUPED: u16 = PORT + 200;
/// Clients differ by their port. The first three share an address, and so a persistence template; another one is of
/// their network, and the last one of another. Those with higher numbers are of a flood.
const CLIENTS: u16 = 5;
/// Connections of one flood: more than a guard has room for at once.
const FLOOD: u16 = 16;
/// New connections a second that a guard allows; it has room for those of eight seconds at most.
const RATE: u32 = 1;
/// Client 0's.
const FIRST_PORT: u16 = 1000;
const LARGE: FlowSizes = FlowSizes { ipv4: 4096, wide: 2048 };

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Packet {
        client: u16,
        target: usize,
        /// TCP flags, or the type of an SCTP packet's first chunk.
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
    Weight {
        service: usize,
        backend: u8,
        weight: u16,
    },
    /// Its checks take a backend out, or let it come back.
    Health {
        service: usize,
        backend: u8,
    },
    Scheduler {
        service: usize,
        scheduler: Scheduler,
    },
    /// A service becomes persistent, or ceases to be.
    Persist {
        service: usize,
        /// A client's whole network goes together.
        network: bool,
        scope: Scope,
    },
    /// Whether clients of a drained backend stay there.
    Quiescent {
        service: usize,
    },
    /// Other thresholds of a backend.
    Thresholds {
        service: usize,
        backend: u8,
        upper: u32,
        lower: u32,
    },
    /// Datagrams are scheduled one by one, or not any more.
    Ops {
        service: usize,
    },
    /// A service gets a guard, or loses it.
    Guard {
        service: usize,
    },
    /// A second port for a service of one port, or no more.
    Group {
        service: usize,
    },
    Nodest {
        service: usize,
        nodest: ExpireNodest,
    },
    /// Connections of strangers are opened all at once, or go on.
    Flood {
        target: usize,
        opens: bool,
    },
    /// Nobody may open connections any more, or everybody again.
    Deny {
        service: usize,
    },
    /// A service is added, or deleted.
    Service {
        service: usize,
    },
    /// Flow tables of another size, and one step after the other on the way to them.
    Resize,
    /// Seven seconds pass.
    Wait,
    /// The sweeper comes this many seconds later: 0; beyond every timeout but that of established flows, while templates
    /// are due that are as old, or some are due that were armed again; beyond all.
    Sweep {
        seconds: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES.len();
    let backend = (service.clone(), 1..4u8);
    let flags = prop_oneof![
        5 => Just(SYN),
        6 => Just(ACK),
        1 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => Just(0u8),
    ];
    let chunk = prop_oneof![
        5 => Just(chunk::INIT),
        4 => Just(chunk::COOKIE_ECHO),
        2 => Just(chunk::DATA),
        1 => Just(chunk::SHUTDOWN),
        1 => Just(chunk::SHUTDOWN_COMPLETE),
        1 => Just(chunk::ABORT),
    ];
    let thresholds = prop::sample::select(vec![(0, 0), (1, 0), (2, 0), (2, 1), (4, 2), (4, 4)]);
    let thresholds = (backend.clone(), thresholds)
        .prop_map(|((service, backend), (upper, lower))| Step::Thresholds { service, backend, upper, lower });
    let scope = prop_oneof![2 => Just(Scope::Service), 1 => Just(Scope::Endpoint)];
    let persist = (service.clone(), any::<bool>(), scope);
    let persist = persist.prop_map(|(service, network, scope)| Step::Persist { service, network, scope });
    let nodest = (service.clone(), prop::sample::select(ExpireNodest::ALL.to_vec()));
    let flood = (0..TARGETS.len(), prop::bool::weighted(0.7));
    let packet = (0..CLIENTS, 0..TARGETS.len(), flags, chunk);
    let packet = packet.prop_map(|(client, target, flags, chunk)| {
        let flags = if TARGETS[target].0.is_sctp { chunk } else { flags };
        Step::Packet { client, target, flags }
    });
    let health = backend.clone();
    let weight = (backend.clone(), prop::sample::select(vec![0, 1, 3]));
    let seconds = prop_oneof![3 => Just(0), 3 => Just(330), 1 => Just(420), 1 => Just(FOREVER)];
    prop_oneof![
        120 => packet,
        4 => backend.clone().prop_map(|(service, backend)| Step::Toggle { service, backend }),
        3 => backend.prop_map(|(service, backend)| Step::Drain { service, backend }),
        3 => health.prop_map(|(service, backend)| Step::Health { service, backend }),
        2 => weight.prop_map(|((service, backend), weight)| Step::Weight { service, backend, weight }),
        2 => (service.clone(), scheduler()).prop_map(|(service, scheduler)| Step::Scheduler { service, scheduler }),
        4 => persist,
        1 => service.clone().prop_map(|service| Step::Quiescent { service }),
        4 => thresholds,
        2 => service.clone().prop_map(|service| Step::Ops { service }),
        3 => service.clone().prop_map(|service| Step::Guard { service }),
        3 => service.clone().prop_map(|service| Step::Group { service }),
        2 => nodest.prop_map(|(service, nodest)| Step::Nodest { service, nodest }),
        4 => flood.prop_map(|(target, opens)| Step::Flood { target, opens }),
        2 => service.clone().prop_map(|service| Step::Deny { service }),
        2 => service.prop_map(|service| Step::Service { service }),
        1 => Just(Step::Resize),
        4 => Just(Step::Wait),
        4 => seconds.prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

/// Steps that belong together, one out of so many that happen for themselves: what a rule is about would seldom come
/// about by chance.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![20 => step().prop_map(|step| vec![step]), 1 => scene()]
}

/// A client connects, and then something happens to the backends: it goes on, or another of its network comes.
fn scene() -> impl Strategy<Value = Vec<Step>> {
    let place = (0..TARGETS.len(), 0..CLIENTS, 0..CLIENTS, any::<bool>());
    let what = prop_oneof![
        2 => Just(Scene::Quiesced),
        2 => Just(Scene::Sick),
        2 => Just(Scene::Removed),
        1 => Just(Scene::Swept),
        1 => Just(Scene::Flooded),
        1 => Just(Scene::Renewed),
        1 => Just(Scene::Emptied),
    ];
    (place, what, 1..3u8).prop_map(|((target, client, other, established), what, backend)| {
        let target = match what {
            Scene::Renewed | Scene::Emptied => TEMPLATED[target % TEMPLATED.len()],
            _ => target,
        };
        let (kind, _, services) = TARGETS[target];
        // That serves it, as long as there is one of the port.
        let service = services[0];
        let packet = |client, flags| Step::Packet { client, target, flags };
        let (open, later) = if kind.is_sctp { (chunk::INIT, chunk::COOKIE_ECHO) } else { (SYN, ACK) };
        let drain = |backend| Step::Drain { service, backend };
        let sick = |backend| Step::Health { service, backend };
        let toggle = |backend| Step::Toggle { service, backend };
        let mut steps = vec![packet(client, open)];
        steps.extend(established.then(|| packet(client, later)));
        steps.extend(match what {
            // One after the other, so that the client's is among them and somebody is left.
            Scene::Quiesced => {
                vec![drain(backend), packet(client, later), packet(other, open), drain(backend)]
            }
            Scene::Sick => {
                vec![sick(backend), packet(client, later), packet(other, open), sick(backend)]
            }
            Scene::Removed => {
                vec![toggle(backend), packet(client, later), packet(other, open), toggle(backend)]
            }
            // Template and connection end by turns.
            Scene::Swept => vec![
                Step::Sweep { seconds: 330 },
                packet(other, open),
                Step::Sweep { seconds: 330 },
                packet(client, later),
            ],
            // What is held and held again goes to the same backend, whose turn it is or not.
            Scene::Flooded => vec![
                Step::Guard { service },
                Step::Flood { target, opens: true },
                packet(other, open),
                packet(other, open),
                Step::Flood { target, opens: false },
            ],
            // A packet leaves the template's time alone, a connection of its clients begins it anew.
            Scene::Renewed => {
                vec![Step::Wait, packet(client, later), packet(other, open), Step::Wait, packet(other, later)]
            }
            // The connections to removed backends end before the templates that lead there.
            Scene::Emptied => {
                let sweep = Step::Sweep { seconds: 0 };
                vec![
                    toggle(1),
                    toggle(2),
                    sweep,
                    packet(other, open),
                    toggle(2),
                    toggle(1),
                    packet(client, open),
                ]
            }
        });
        steps
    })
}

#[derive(Clone, Copy, Debug)]
enum Scene {
    Quiesced,
    Sick,
    Removed,
    Swept,
    Flooded,
    Renewed,
    Emptied,
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    let flags = (any::<bool>(), any::<bool>()).prop_map(|(fallback, port)| HashFlags { fallback, port });
    (prop::sample::select(Scheduler::ALL.to_vec()), flags).prop_map(|(scheduler, flags)| match scheduler {
        Scheduler::Sh(_) => Scheduler::Sh(flags),
        Scheduler::Mh(_) => Scheduler::Mh(flags),
        other => other,
    })
}

proptest! {
    #![proptest_config(random(16, 100))]
    #[test]
    fn an_established_flow_never_changes_its_backend(steps in prop::collection::vec(steps(), 50..250)) {
        let mut world = World::new();
        for step in steps.iter().flatten() {
            world.act(step)?;
        }
        world.end()?;
    }
}
