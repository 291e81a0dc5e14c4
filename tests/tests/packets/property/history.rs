//! A director, what is wanted of it, and what its clients know.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb::{
    model::{ExpireNodest, Scope, Service, Timeouts},
    plan::{ByHealth, Desired, EndpointKey, Weights, dest_address, name_of},
};
use lb_common::{dest, service::Rotation, tcp::State};
use lb_tests::xdp::Director;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{CLIENTS, NODEST, PERSISTENT, RANGES, SERVICES, Step, edits::persistence};
use crate::world::*;

/// Beyond every timeout, of templates that were armed again too.
pub const FOREVER: u32 = 2000;

/// Seconds that pass at once, and in a case at most.
const WAIT: u32 = 7;
const PATIENCE: u32 = 98;

/// Each state's is its own, and none so short that it passes while a case runs, for real and with what it waits.
pub(super) fn no_short_timeouts() -> Timeouts {
    Timeouts {
        tcp: 900,
        tcp_fin: 302,
        tcp_syn: 304,
        tcp_time_wait: 306,
        tcp_close: 308,
        udp: 310,
        sctp: 902,
        sctp_init1: 312,
        sctp_init: 314,
        sctp_echoed: 316,
        sctp_shutdown: 318,
        sctp_closed: 320,
    }
}

/// What a client knows of its connection, which has an entry.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub service: usize,
    pub backend: u8,
    pub state: State,
    /// By a persistence template.
    pub controlled: bool,
}

/// A connection without an entry.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub service: usize,
    pub backend: u8,
    /// As long as that is the same, its backend is.
    pub epoch: u32,
    /// Where its client's template led.
    pub led: Option<u8>,
}

/// A connection: target, client.
pub type Flow = (usize, u16);

/// A destination: service and backend.
pub type Place = (usize, u8);

pub struct World {
    pub director: Director,
    pub(super) services: BTreeMap<usize, Service>,
    /// Services that were deleted come back as they were.
    pub(super) deleted: BTreeMap<usize, Service>,
    /// Whom checks have taken out, of those that there are, or may be.
    pub(super) out: BTreeSet<Place>,
    /// Of every destination that there is.
    pub(super) places: BTreeMap<u32, Place>,
    pub(super) endpoints: BTreeMap<u16, EndpointKey>,
    pub(super) flows: BTreeMap<Flow, Known>,
    pub(super) held: BTreeMap<Flow, Held>,
    /// Counts what moves connections without an entry.
    pub(super) epoch: u32,
    /// Who is overloaded.
    pub(super) marks: BTreeMap<Place, bool>,
    /// Whether a service places by hash what belongs to no flow that is known.
    pub(super) flooded: BTreeMap<usize, bool>,
    /// How many there have been.
    pub(super) strangers: u16,
    /// Seconds.
    waited: u32,
}

impl World {
    pub fn new() -> Self {
        let make = |(index, (kind, port)): (usize, &(Kind, u16))| {
            let mut service = kind.service(*port, &[1, 2]);
            service.options.expire_nodest = NODEST[index];
            (service.backends[0].upper_threshold, service.backends[0].lower_threshold) = (4, 2);
            if !index.is_multiple_of(2) {
                (service.backends[1].upper_threshold, service.backends[1].lower_threshold) = (2, 1);
            }
            if PERSISTENT.contains(&index) {
                service.options.persistence = Some(persistence(*kind, false, Scope::Service));
                service.options.expire_quiescent_template = true;
            }
            if RANGES.contains(&index) {
                service.endpoint.last_port = Some(PORT + 100);
                service.name = service.endpoint.default_name();
            }
            (index, service)
        };
        let mut world = Self {
            director: director(&lab()),
            services: SERVICES.iter().enumerate().map(make).collect(),
            deleted: BTreeMap::new(),
            out: BTreeSet::new(),
            places: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            flows: BTreeMap::new(),
            held: BTreeMap::new(),
            epoch: 0,
            marks: BTreeMap::new(),
            flooded: (0..SERVICES.len()).map(|service| (service, false)).collect(),
            strangers: 0,
            waited: 0,
        };
        world.configure();
        world
    }

    fn configure(&mut self) {
        self.epoch += 1;
        let services = self.services.values().cloned().collect();
        let want = Desired { services, weights: self.weights(), timeouts: no_short_timeouts(), ..lab() };
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
        let endpoints = snapshot.endpoints.iter().filter(|(key, _)| key.protocol.is_some());
        self.endpoints = endpoints.map(|(key, endpoint)| (endpoint.id(), *key)).collect();
        for (id, record) in &snapshot.services {
            let Some(service) = numbers.get(&name_of(&record.name)) else { continue };
            // One that comes back with its old id goes on as it was.
            if self.services.contains_key(service) && !self.flooded.contains_key(service) {
                let rotation = self.director.rotation(*id).expect("a rotation");
                let now = self.director.clock.now();
                self.flooded.insert(*service, Rotation::places_by_hash(rotation.hashed_until, now));
            }
        }
    }

    /// What checks make of the weights.
    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (service, backend) in &self.out {
            let (kind, port) = SERVICES[*service];
            let key = kind.service(port, &[*backend]).backends[0].key;
            if let Some(service) = self.services.get(service) {
                weights.0.entry(service.name.clone()).or_default().insert(key, ByHealth::Out);
            }
        }
        weights
    }

    pub fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Packet { client, target, flags } => self.packet((target, client), flags),
            Step::Flood { target, opens } => self.flood(target, opens),
            Step::Sweep { seconds } => self.sweep(seconds),
            Step::Wait => {
                if self.waited < PATIENCE {
                    self.waited += WAIT;
                    self.director.pass(WAIT).expect("it passed");
                }
                Ok(())
            }
            Step::Resize => {
                self.resize();
                self.thresholds_hold(false)
            }
            _ => {
                self.edit(step);
                self.configure();
                self.thresholds_hold(false)
            }
        }
    }

    fn sweep(&mut self, seconds: u32) -> Result<(), TestCaseError> {
        // Before, since the sweeper heals counts.
        self.counts_equal_a_recount()?;
        let (due, start) = (self.templates_due(seconds), self.director.tick_in(seconds));
        for _ in 0..2 {
            self.director.sweep_in(seconds).expect("swept");
        }
        self.templates_kept_their_rule(seconds, &due, start)?;
        self.nothing_in_use_is_freed()?;
        // The client knows what the timeouts are, and that what is not kept for a removed backend is over.
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain(|_, known| {
            let over = self.reschedules(*known) && !self.has(known.service, known.backend);
            // Where the rest is answered with a reset, the entry says that it is a removed backend's.
            let is_udp = SERVICES[known.service].0.is_udp;
            let kept = self.nodest(known.service) == ExpireNodest::Reset && !is_udp;
            no_short_timeouts().of(known.state) > seconds && (!over || kept)
        });
        self.flows = flows;
        self.thresholds_hold(false)
    }

    /// Whether what is open at this port of the VIP is the service's.
    pub fn serves(&self, service: usize, port: u16) -> bool {
        let mut endpoints = self.services.get(&service).into_iter().flat_map(Service::endpoints);
        endpoints.any(|it| {
            it.port == 0
                || it.port == port
                || it.last_port.is_some_and(|last| (it.port..=last).contains(&port))
        })
    }

    /// The id of the service's endpoint that has the port: those of many ports share one.
    pub fn endpoint(&self, service: usize, kind: Kind, port: u16) -> Option<u16> {
        let is_exact = SERVICES[service].1 == PORT;
        let is = |key: &EndpointKey| {
            key.address == kind.vip()
                && key.protocol == Some(kind.protocol())
                && key.port == if is_exact { port } else { 0 }
        };
        self.endpoints.iter().find(|(_, key)| is(key)).map(|(id, _)| *id)
    }

    /// Whether flows of the service may go to the backend: it has it, or was deleted when it had it.
    pub fn has(&self, service: usize, backend: u8) -> bool {
        let address = SERVICES[service].0.backend(backend);
        let found = self.services.get(&service).or(self.deleted.get(&service));
        found.is_some_and(|s| s.backends.iter().any(|b| b.key.address == address))
    }

    pub fn nodest(&self, service: usize) -> ExpireNodest {
        let found = self.services.get(&service).or(self.deleted.get(&service));
        found.map_or(NODEST[service], |service| service.options.expire_nodest)
    }

    /// Whether a service schedules flows of removed backends anew.
    pub fn reschedules(&self, known: Known) -> bool {
        self.nodest(known.service).reschedules(SERVICES[known.service].0.protocol())
    }

    pub fn takes_new(&self, service: usize, backend: u8) -> bool {
        self.has_weight(service, backend) && self.marks.get(&(service, backend)) != Some(&true)
    }

    pub fn has_weight(&self, service: usize, backend: u8) -> bool {
        let address = SERVICES[service].0.backend(backend);
        let backends = self.services.get(&service).map(|s| &s.backends).into_iter().flatten();
        let has = backends.into_iter().any(|b| b.key.address == address && b.effective_weight() != 0);
        has && !self.out.contains(&(service, backend))
    }

    /// What is left when all has ended: the flows that clients know of until then, and then nothing.
    pub fn end(&mut self) -> Result<(), TestCaseError> {
        self.counts_equal_a_recount()?;
        prop_assert!(self.table().len() >= self.flows.len(), "flows were lost");
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

/// A client's address: see [`CLIENTS`].
pub fn address(kind: Kind, client: u16) -> IpAddr {
    let (network, host) = match client {
        0..=2 => return kind.client(),
        3 => (2, 4),
        4 => (9, 3),
        CLIENTS.. => (7, 1),
    };
    match kind.client() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            Ipv4Addr::new(a, b, network, host).into()
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            // The first clients' network is number 0.
            let network = u16::from(network) & !2;
            Ipv6Addr::new(a, b, c, network, 0, 0, 0, u16::from(host)).into()
        }
    }
}
