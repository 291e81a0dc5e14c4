//! What clients send, and what may become of it.

use lb::{
    dataplane::FlowEntry,
    model::{ExpireNodest, Guard, Scheduler},
    plan::address_bytes,
};
use lb_common::{
    tcp::{
        self, State,
        flag::{ACK, RST, SYN},
    },
    value,
    verdict::{Event, Verdict},
};
use lb_tests::{clock, packet::masked};
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{
    CLIENTS, FIRST_PORT, FLOOD, RATE, TARGETS,
    history::{Flow, Held, Known, World, address},
};
use crate::world::*;

/// A packet, and what was known before it came.
struct Seen {
    flow: Flow,
    flags: u8,
    /// What began on the known flow is scheduled anew.
    abandoned: bool,
    opens: bool,
    /// In the middle of a connection: it may belong to one that was placed by hash.
    goes_on: bool,
    /// Where the client's template leads.
    led: Option<u8>,
    /// Its entries.
    entries: Vec<FlowEntry>,
}

impl World {
    pub fn flood(&mut self, target: usize, opens: bool) -> Result<(), TestCaseError> {
        let (kind, ..) = TARGETS[target];
        let first = if opens { self.strangers } else { self.strangers.saturating_sub(FLOOD) };
        self.strangers = first + FLOOD;
        let flags = match (opens, kind.is_sctp) {
            (true, true) => kind.open().flags,
            (true, false) => SYN,
            (false, _) => kind.later().flags,
        };
        let since = clock::now();
        for client in first..first + FLOOD {
            self.packet((target, CLIENTS + client), flags)?;
        }
        let mut stored = 0;
        for client in first..first + FLOOD {
            let known = self.flows.get(&(target, CLIENTS + client));
            stored += u64::from(known.is_some_and(|known| self.guard(known.service) != Guard::Off));
        }
        // Eight seconds' burst, and the one that overflows; what has leaked since, a tick more or less.
        let room = u64::from(RATE) * (10 + since.elapsed().as_secs() + 1);
        prop_assert!(!opens || stored <= room, "{} of a flood were stored", stored);
        Ok(())
    }

    pub fn packet(&mut self, flow: Flow, flags: u8) -> Result<(), TestCaseError> {
        let (kind, port, services) = TARGETS[flow.0];
        let from = kind.open().from_port(FIRST_PORT + flow.1).to_port(port);
        let packet = from.with(|p| p.source.set_ip(address(kind, flow.1)));
        let packet = if kind.is_udp { packet } else { packet.flags(flags) };
        let does = if kind.is_sctp { lb_common::sctp::flags(flags) } else { flags };
        let opens = kind.is_udp || tcp::opens(does);
        let goes_on = !opens && does & (ACK | RST) == ACK;
        let known = self.flows.get(&flow).copied();
        let abandoned = known.is_some_and(|known| opens && self.is_abandoned(known));
        let over = |known: Known| abandoned || opens && known.state.is_reusable() && !known.controlled;
        let serving: Vec<usize> =
            services.iter().copied().filter(|service| self.serves(*service, port)).collect();
        if let Some(known) = known.filter(|known| !over(*known)) {
            let expected = match self.has(known.service, known.backend) {
                true => Ok(known.backend),
                false => Err(self.removed(known, does)),
            };
            let (outcome, _) = self.send(&packet);
            prop_assert_eq!(outcome, expected, "{:?} of {:?} {:?}", flags, flow, known);
            // What is dropped keeps no flow alive.
            if outcome.is_ok() {
                let state = next(kind, known.state, does);
                self.flows.insert(flow, Known { state, ..known });
            }
            return self.thresholds_hold(false);
        }
        // What goes on is placed by the first that places by hash: one of a port, one of many ports.
        let chain = [
            serving.first().filter(|it| super::SERVICES[**it].1 == PORT),
            serving.iter().find(|it| super::SERVICES[**it].1 != PORT),
        ];
        let service = match goes_on {
            true => chain.into_iter().flatten().copied().find(|it| self.flooded.get(it) != Some(&false)),
            false => serving.first().copied(),
        };
        let table = self.director.flows();
        let led = service.filter(|_| opens || goes_on).and_then(|service| self.led(&table, service, flow));
        let entries = self.entries(&table, flow);
        let seen = Seen { flow, flags: does, abandoned, opens, goes_on, led, entries };
        let (outcome, guarded) = self.send(&packet);
        let message =
            format!("{flags:#x} of {flow:?}: {outcome:?} by {service:?}, known {known:?}, led {led:?}");
        match (outcome, service) {
            (Ok(backend), Some(service)) if opens || goes_on => {
                self.placed(&seen, service, backend, guarded)
                    .map_err(|error| TestCaseError::fail(format!("{message}: {error}")))?;
            }
            (Err(Verdict::DroppedDenied), Some(service)) if opens || goes_on => {
                prop_assert!(self.denies(service), "{}", message);
            }
            (Err(Verdict::DroppedNoBackend), Some(service)) if opens || goes_on => {
                let nobody = !(1..4).any(|backend| self.takes_new(service, backend));
                prop_assert!(self.may_refuse(service) || nobody, "{}", message);
                prop_assert_eq!(led, None, "a template holds: {}", message);
            }
            (Err(Verdict::DroppedNoFlow), _) if !opens && !serving.is_empty() => {
                let placed =
                    service.filter(|_| goes_on).is_some_and(|it| self.flooded.get(&it) == Some(&true));
                prop_assert!(!placed, "it is placed by hash: {}", message);
            }
            (Err(Verdict::PassedNoService), _) if serving.is_empty() => {}
            _ => prop_assert!(false, "{}", message),
        }
        // What was to be scheduled anew has ended though nobody takes it; what else is over may have.
        let nobody = abandoned && outcome == Err(Verdict::DroppedNoBackend);
        let has_ended = |world: &Self| world.entries(&world.director.flows(), flow).is_empty();
        if known.is_some() && outcome.is_err() && (nobody || has_ended(self)) {
            self.flows.remove(&flow);
        }
        self.thresholds_hold(opens)
    }

    /// What becomes of a packet, and whether it got no entry because of a guard.
    fn send(&mut self, packet: &lb_tests::packet::Packet) -> (Result<u8, Verdict>, bool) {
        let ran = self.director.run(&packet.bytes()).expect("it ran");
        let guarded = ran.moved.iter().any(|(name, _)| *name == Event::Guarded.name());
        (outcome(packet, &ran), guarded)
    }

    /// A packet of no flow that goes on was given to a backend.
    fn placed(
        &mut self,
        seen: &Seen,
        service: usize,
        backend: u8,
        guarded: bool,
    ) -> Result<(), TestCaseError> {
        let Seen { flow, flags, abandoned, opens, led, .. } = *seen;
        let (kind, ..) = TARGETS[flow.0];
        let table = self.director.flows();
        let entries = self.entries(&table, flow);
        let stored = entries.iter().find(|entry| {
            let is_new = !seen.entries.iter().any(|before| before.value == entry.value);
            self.places.get(&entry.value.dest()) == Some(&(service, backend)) && (is_new || !abandoned)
        });
        // A wildcard's flow from before may have been waiting.
        let waited = abandoned && self.has(service, backend) && !guarded;
        prop_assert!(waited || !self.denies(service), "a client that is denied");
        // Flows come too fast, and its old entry takes the connection.
        let again = stored.is_some_and(|entry| entry.value.flags() & value::flag::HASHED != 0);
        let flooded = self.flooded.get(&service) != Some(&false);
        prop_assert!(
            waited || flooded || !again || self.guard(service) != Guard::Off,
            "by hash without a guard"
        );
        let by_hash = guarded || again || seen.goes_on || flooded;
        let may = match led {
            Some(led) => led == backend,
            None if by_hash => self.has_weight(service, backend),
            // What lblc has for the VIP goes on whatever its thresholds (`ip_vs_lblc_schedule`).
            None if self.is_lblc(service) => self.has_weight(service, backend),
            None => self.takes_new(service, backend),
        };
        prop_assert!(waited || may, "to {} that takes nothing new", backend);
        let held = self
            .held
            .get(&flow)
            .filter(|held| (held.service, held.epoch, held.led) == (service, self.epoch, led));
        if let Some(held) = held {
            prop_assert_eq!(held.backend, backend, "placed by hash before");
        }
        if self.is_one_packet(service, kind) {
            prop_assert!(
                !guarded && entries.len() <= seen.entries.len(),
                "one-packet scheduling remembers nothing"
            );
            if entries.is_empty() {
                self.flows.remove(&flow);
            }
            return Ok(());
        }
        let has_guard = self.guard(service) != Guard::Off;
        if guarded || stored.is_none() && seen.goes_on {
            prop_assert!(has_guard, "it has no guard");
            prop_assert!(entries.len() <= seen.entries.len(), "what is held gets no entry");
            self.flooded.insert(service, true);
            if entries.is_empty() {
                self.flows.remove(&flow);
                self.held.insert(flow, Held { service, backend, epoch: self.epoch, led });
            }
            return Ok(());
        }
        let Some(entry) = stored else {
            prop_assert!(false, "no entry was made");
            return Ok(());
        };
        let state = entry.value.state();
        let flag = |flag: u8| entry.value.flags() & flag != 0;
        let expected = match (opens, kind.is_sctp) {
            (true, _) => next(kind, State::NONE, flags),
            (false, true) => State::SCTP_NONE,
            (false, false) => State::SYN_RECV,
        };
        prop_assert!(waited || state == expected, "{} instead of {}", state.name(), expected.name());
        prop_assert!(opens || flag(value::flag::HASHED), "it went on by hash");
        let controlled = flag(value::flag::CONTROLLED);
        let persists = self.services.get(&service).is_some_and(|it| it.options.persistence.is_some());
        prop_assert!(waited || controlled == persists, "controlled: {}", controlled);
        if !waited && persists {
            prop_assert_eq!(self.led(&table, service, flow), Some(backend), "its template");
        }
        self.held.remove(&flow);
        self.flows.insert(flow, Known { service, backend, state, controlled });
        Ok(())
    }

    /// Where the client's template of a service leads, if that holds.
    fn led(&self, table: &[FlowEntry], service: usize, (target, client): Flow) -> Option<u8> {
        let (kind, port, _) = TARGETS[target];
        let options = self.services.get(&service)?.options;
        let network = masked(address(kind, client), options.persistence?.prefix(kind.vip()));
        let endpoint = if self.is_apart(service) { Some(self.endpoint(service, kind, port)?) } else { None };
        let templates = table.iter().filter(|entry| {
            entry.value.is_template() && entry.client == address_bytes(network) && entry.endpoint == endpoint
        });
        let mut places = templates.filter_map(|entry| self.places.get(&entry.value.dest()).copied());
        let (_, backend) = places.find(|(of, _)| *of == service)?;
        let holds = self.has(service, backend)
            && (!options.expire_quiescent_template || self.has_weight(service, backend));
        holds.then_some(backend)
    }

    /// Its slots: one, unless one of a wildcard waits behind it.
    fn entries(&self, table: &[FlowEntry], (target, client): Flow) -> Vec<FlowEntry> {
        let (kind, port, _) = TARGETS[target];
        let source = address_bytes(address(kind, client));
        let is_its = |entry: &&FlowEntry| {
            let of = entry.endpoint.and_then(|id| self.endpoints.get(&id));
            !entry.value.is_template()
                && (entry.client, entry.client_port) == (source, FIRST_PORT + client)
                && of.is_some_and(|of| {
                    of.protocol == Some(kind.protocol()) && [of.port, entry.port].contains(&port)
                })
        };
        table.iter().filter(is_its).copied().collect()
    }

    /// What becomes of a packet of a removed backend's flow.
    fn removed(&self, known: Known, flags: u8) -> Verdict {
        let (kind, _) = super::SERVICES[known.service];
        let resets = self.nodest(known.service) == ExpireNodest::Reset;
        match resets && kind.protocol() == lb::model::Protocol::Tcp && flags & RST == 0 {
            true => Verdict::AnsweredBackendRemoved,
            false => Verdict::DroppedBackendRemoved,
        }
    }

    fn guard(&self, service: usize) -> Guard {
        self.services.get(&service).map_or(Guard::Off, |service| service.options.guard)
    }

    fn is_one_packet(&self, service: usize, kind: Kind) -> bool {
        kind.is_udp && self.services.get(&service).is_some_and(|service| service.options.ops)
    }

    fn denies(&self, service: usize) -> bool {
        self.services.get(&service).is_some_and(|service| !service.sources.is_empty())
    }

    fn is_lblc(&self, service: usize) -> bool {
        self.services.get(&service).is_some_and(|service| service.scheduler == Scheduler::Lblc)
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

    /// Whether what begins on it is scheduled anew: its backend was removed, or is drained and it is no UDP.
    fn is_abandoned(&self, known: Known) -> bool {
        let (kind, _) = super::SERVICES[known.service];
        let there = self.has(known.service, known.backend);
        let service = self.services.get(&known.service).or(self.deleted.get(&known.service));
        let drained = service.is_some_and(|s| {
            s.backends
                .iter()
                .any(|b| b.key.address == kind.backend(known.backend) && b.effective_weight() == 0)
        });
        self.reschedules(known) && (!there || drained && !kind.is_udp)
    }
}

fn next(kind: Kind, state: State, flags: u8) -> State {
    match (kind.is_udp, kind.is_sctp) {
        (true, _) => State::UDP,
        (_, true) => lb_common::sctp::next(state, flags),
        (..) => tcp::next(state, flags),
    }
}
