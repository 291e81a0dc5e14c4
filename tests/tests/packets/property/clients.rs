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
    tick::{self, Tick},
    value::{self, Value},
    verdict::{Event, Verdict},
};
use lb_tests::clock;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{
    CLIENTS, FIRST_PORT, FLOOD, RATE, TARGETS,
    history::{Flow, Held, Known, World, address, no_short_timeouts},
    templates::Change,
};
use crate::world::*;

/// When a packet was sent, and when it was done with.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: Tick,
    pub end: Tick,
}

impl Span {
    pub fn ticks(self) -> i32 {
        self.end.until(self.start)
    }
}

/// What became of a packet.
struct Sent {
    outcome: Result<u8, Verdict>,
    /// It got no entry because of a guard.
    guarded: bool,
    span: Span,
}

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
    /// Its entries, and whether the client knew of one.
    entries: Vec<FlowEntry>,
    was_there: bool,
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
            let table = self.table();
            let before = self.entry(&table, flow, known, known.state);
            let Sent { outcome, span, .. } = self.send(&packet);
            prop_assert_eq!(outcome, expected, "{:?} of {:?} {:?}", flags, flow, known);
            let state = if outcome.is_ok() { next(kind, known.state, does) } else { known.state };
            let after = self.entry(&self.table(), flow, known, state);
            if outcome.is_ok() {
                self.flows.insert(flow, Known { state, ..known });
                self.lives_on(after, state, span, state == known.state)?;
            } else {
                prop_assert_eq!(after, before, "what is dropped keeps no flow alive");
            }
            let assures = known.controlled && state.is_established() && state != known.state;
            let change = if assures { Change::Assured(known.backend) } else { Change::Nothing };
            // What options a deleted service had when it was deleted, its templates are found by.
            if !assures || self.services.contains_key(&known.service) {
                let owner = self.owner(known.service, flow);
                self.templates_follow(&self.templates(&table), owner, &[change], span)?;
            }
            return self.thresholds_hold(false);
        }
        // What goes on is placed by the first that places by hash: one of a port, one of many ports.
        let chain = [
            serving.first().filter(|it| super::SERVICES[**it].1 == PORT),
            serving.iter().find(|it| super::SERVICES[**it].1 != PORT),
        ];
        let service = match goes_on {
            true => chain.into_iter().flatten().copied().find(|it| self.flooded.get(it) == Some(&true)),
            false => serving.first().copied(),
        };
        let table = self.table();
        let templates = self.templates(&table);
        let service_of = service.filter(|_| opens || goes_on);
        let led = service_of.and_then(|service| self.led(&templates, service, flow));
        let owner = service_of.and_then(|service| self.owner(service, flow));
        let entries = self.entries(&table, flow);
        let seen =
            Seen { flow, flags: does, abandoned, opens, goes_on, led, entries, was_there: known.is_some() };
        let sent = self.send(&packet);
        let (outcome, mut changes) = (sent.outcome, vec![Change::Nothing]);
        let message =
            format!("{flags:#x} of {flow:?}: {outcome:?} by {service:?}, known {known:?}, led {led:?}");
        match (outcome, service) {
            (Ok(backend), Some(service)) if opens || goes_on => {
                changes = self
                    .placed(&seen, service, backend, &sent)
                    .map_err(|error| TestCaseError::fail(format!("{message}: {error}")))?;
            }
            (Err(Verdict::DroppedDenied), Some(service)) if opens || goes_on => {
                prop_assert!(self.denies(service), "{}", message);
            }
            (Err(Verdict::DroppedNoBackend), Some(service)) if opens || goes_on => {
                let nobody = !(1..4).any(|backend| self.takes_new(service, backend));
                prop_assert!(self.may_refuse(service) || nobody, "{}", message);
                prop_assert_eq!(led, None, "a template holds: {}", message);
                changes = vec![Change::Ended];
            }
            (Err(Verdict::DroppedNoFlow), _) if !opens && !serving.is_empty() => {
                prop_assert!(!goes_on || service.is_none(), "it is placed by hash: {}", message);
            }
            (Err(Verdict::PassedNoService), _) if serving.is_empty() => {}
            _ => prop_assert!(false, "{}", message),
        }
        self.templates_follow(&templates, owner, &changes, sent.span)
            .map_err(|error| TestCaseError::fail(format!("{message}: {error}")))?;
        // What was to be scheduled anew has ended though nobody takes it; what else is over may have.
        let nobody = abandoned && outcome == Err(Verdict::DroppedNoBackend);
        let has_ended = |world: &Self| world.entries(&world.table(), flow).is_empty();
        if known.is_some() && outcome.is_err() && (nobody || has_ended(self)) {
            self.flows.remove(&flow);
        }
        self.thresholds_hold(opens)
    }

    fn send(&mut self, packet: &lb_tests::packet::Packet) -> Sent {
        let start = self.director.clock.now();
        let ran = self.director.run(&packet.bytes()).expect("it ran");
        let guarded = ran.moved.iter().any(|(name, _)| *name == Event::Guarded.name());
        Sent { outcome: outcome(packet, &ran), guarded, span: Span { start, end: self.director.clock.now() } }
    }

    /// The value of the flow's entry that the client knows of.
    fn entry(&self, table: &[FlowEntry], flow: Flow, known: Known, state: State) -> Option<Value> {
        let place = (known.service, known.backend);
        let entries = self.entries(table, flow).into_iter().map(|entry| entry.value);
        let is_known =
            |value: &Value| self.places.get(&value.dest()) == Some(&place) && value.state() == state;
        entries.into_iter().find(is_known)
    }

    /// A packet has taken a flow to `state`, and it lives for that one's timeout from then on. Where it `stays` in a state,
    /// less than half a second is not written.
    fn lives_on(
        &self,
        entry: Option<Value>,
        state: State,
        span: Span,
        stays: bool,
    ) -> Result<(), TestCaseError> {
        let hz = self.director.clock.hz();
        let timeout = tick::ticks(no_short_timeouts().of(state), hz);
        let late = entry.map(|value| span.end.after(timeout).until(value.expiry()));
        let slack = if stays { tick::ticks(1, hz) as i32 / 2 } else { 1 };
        let in_time = late.is_some_and(|late| (-1..=span.ticks() + slack).contains(&late));
        prop_assert!(in_time, "{} for {:?} of {} ticks: {:?}", state.name(), late, timeout, entry);
        Ok(())
    }

    /// A packet of no flow that goes on was given to a backend. What may become of its client's template.
    fn placed(
        &mut self,
        seen: &Seen,
        service: usize,
        backend: u8,
        sent: &Sent,
    ) -> Result<Vec<Change>, TestCaseError> {
        let guarded = sent.guarded;
        let Seen { flow, flags, abandoned, opens, led, .. } = *seen;
        let (kind, ..) = TARGETS[flow.0];
        let table = self.table();
        let entries = self.entries(&table, flow);
        let stored = entries.iter().find(|entry| {
            let is_new = !seen.entries.iter().any(|before| before.value == entry.value);
            self.places.get(&entry.value.dest()) == Some(&(service, backend)) && (is_new || !abandoned)
        });
        // A wildcard's flow from before may have been waiting.
        let waited = abandoned && self.has(service, backend) && !guarded;
        let mut changes = vec![led.map_or(Change::Made(backend), |_| Change::Led)];
        if waited {
            changes.push(Change::Nothing);
        }
        prop_assert!(waited || !self.denies(service), "a client that is denied");
        // Flows come too fast, and its old entry takes the connection.
        let again = stored.is_some_and(|entry| entry.value.flags() & value::flag::HASHED != 0);
        let flooded = self.flooded.get(&service) == Some(&true);
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
            return Ok(changes);
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
            // What leads nobody is over; none is made for what gets no entry.
            return Ok(vec![led.map_or(Change::Ended, |_| Change::Led)]);
        }
        let Some(entry) = stored else {
            prop_assert!(false, "no entry was made");
            return Ok(changes);
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
        // Held, and in its old entry, it makes no template.
        let kept = has_guard && again && led.is_none() && seen.was_there;
        prop_assert!(waited || controlled == persists || kept, "controlled: {}", controlled);
        if kept && !controlled {
            changes = vec![Change::Ended];
        }
        if !waited {
            self.lives_on(Some(entry.value), state, sent.span, false)?;
        }
        self.held.remove(&flow);
        self.flows.insert(flow, Known { service, backend, state, controlled });
        Ok(changes)
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
        let drained = drained || self.out.contains(&(known.service, known.backend));
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
