//! What went where, as the fuzzer saw it, and what must go there too from then on.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use lb::model::{Guard, Protocol, Service};
use lb_common::{
    fragment::{LIFETIME, PLACES},
    protocol,
    verdict::{
        Event,
        Verdict::{self, *},
    },
};
use lb_tests::packet::masked;

use super::reading::{Connection, Datagram, Reading, Segment, Size};
use crate::world::*;

/// Less than the time for which a first fragment is remembered: until then its later ones must follow.
const FOLLOWED: Duration = Duration::from_secs(LIFETIME as u64 - 1);
/// More than that.
const FORGOTTEN: Duration = Duration::from_secs(2 * LIFETIME as u64);

/// What became of a frame.
pub struct Became {
    pub verdict: Verdict,
    /// The backend that it was sent to.
    pub to: Option<u8>,
    pub events: Vec<&'static str>,
    /// Before it was sent.
    pub at: Instant,
}

/// What is remembered of the services' connections.
pub struct Memory {
    services: Vec<Service>,
    /// MTU of the way to each backend.
    mtu: fn(u8) -> usize,
    flows: HashMap<Connection, Flow>,
    /// Where new connections of a client or its network go, by protocol.
    templates: HashMap<(u8, IpAddr), u8>,
    datagrams: HashMap<Datagram, First>,
    /// Datagrams that were ever remembered.
    firsts: usize,
    /// When something last had an effect that cannot be told; since the connections were forgotten, whether it did.
    blurred_at: Option<Instant>,
    is_blurred: bool,
    pub tally: Tally,
}

/// How many packets of each kind were held against what was remembered.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub followed: u64,
    pub begun: u64,
    /// Of those that begin: led by a template.
    pub led: u64,
    pub fragments: u64,
    pub errors: u64,
    /// That could not be told, by why: all, and those that were not passed.
    pub unsure: BTreeMap<&'static str, [u64; 2]>,
}

/// A connection that was served.
struct Flow {
    /// None: what opened it was not sent, a SYN whose TTL ended at the director.
    backend: Option<u8>,
    /// It may have been ended: what opens it again may go to another backend.
    is_shaken: bool,
}

/// A first fragment.
struct First {
    went: Went,
    at: Instant,
}

#[derive(Clone, Copy)]
enum Went {
    /// To the stack: it was for no service.
    Nowhere,
    /// To a backend; none that was seen, if it was not sent.
    To(Option<u8>),
}

impl Memory {
    pub fn new(services: Vec<Service>, mtu: fn(u8) -> usize) -> Self {
        Self {
            services,
            mtu,
            flows: HashMap::new(),
            templates: HashMap::new(),
            datagrams: HashMap::new(),
            firsts: 0,
            blurred_at: None,
            is_blurred: false,
            tally: Tally::default(),
        }
    }

    /// The director has forgotten all connections; fragments it forgets by itself.
    pub fn begin_anew(&mut self) {
        self.flows.clear();
        self.templates.clear();
        self.is_blurred = false;
    }

    /// Something happened that cannot be told: any connection may be another one now.
    pub fn blur(&mut self, at: Instant) {
        self.begin_anew();
        self.datagrams.clear();
        (self.is_blurred, self.blurred_at) = (true, Some(at));
    }

    /// A packet of [`Kind::open`]'s connection went to `backend`. After a blur it may have been ended.
    pub fn learn(&mut self, kind: Kind, backend: u8) {
        let flow = Flow { backend: Some(backend), is_shaken: self.is_blurred };
        self.flows.insert(Connection::of(kind), flow);
    }

    /// Whether that is what may become of it.
    pub fn judge(&mut self, reading: &Reading, became: &Became) -> Result<(), String> {
        match reading {
            Reading::NotOurs => is_among(became, &NONE_OF_OURS),
            Reading::Segment(segment) => self.judge_segment(segment, became),
            Reading::Later(datagram, size) => self.judge_later(datagram, *size, became),
            Reading::Error(connection, size) => self.judge_error(connection, *size, became),
            Reading::Unsure(why) => {
                let [all, not_passed] = self.tally.unsure.entry(why).or_default();
                *all += 1;
                *not_passed += u64::from(!became.verdict.name().starts_with("passed-"));
                Ok(())
            }
        }
    }

    /// The service of a connection: the exact one of its port first, unless that has no backend, so no connections.
    fn service(&self, connection: &Connection) -> Option<&Service> {
        let [exact, wild] = [true, false].map(|exact| self.endpoint(connection, exact));
        exact.filter(|service| !service.backends.is_empty()).or(wild).or(exact)
    }

    /// The service with that very port, or the one with a range or all of them.
    fn endpoint(&self, connection: &Connection, is_exact: bool) -> Option<&Service> {
        self.services.iter().find(|service| {
            let (first, last) = (service.endpoint.port, service.endpoint.last_port);
            let is_wild = first == 0 || last.is_some();
            let has_port = first == 0 || (first..=last.unwrap_or(first)).contains(&connection.port);
            service.endpoint.address.is_ipv4() == connection.client.is_ipv4()
                && number(service.endpoint.protocol) == connection.protocol
                && is_wild != is_exact
                && has_port
        })
    }

    fn judge_segment(&mut self, segment: &Segment, became: &Became) -> Result<(), String> {
        let Some(service) = self.service(&segment.connection).cloned() else {
            is_among(became, &NONE_OF_OURS)?;
            if let Some(datagram) = segment.first_of {
                self.remember(datagram, Went::Nowhere, became);
            }
            return Ok(());
        };
        let nobody = [AnsweredNoBackend, DroppedNoBackend];
        let refused = if segment.begins { nobody } else { [AnsweredNoFlow, DroppedNoFlow] };
        let is_known = self.flows.contains_key(&segment.connection);
        // What begins does so under the exact service; what is known, or may have been placed by hash, goes on.
        let exact = self.endpoint(&segment.connection, true).filter(|exact| exact.backends.is_empty());
        if exact.is_some() && segment.begins && (!is_known || nobody.contains(&became.verdict)) {
            return is_among(became, &nobody);
        }
        if service.backends.is_empty() {
            return is_among(became, &refused);
        }
        // A connection without an entry is placed by hash, but for what cannot be in its middle, a reset.
        let may_hash = service.options.guard != Guard::Off;
        let may_be_refused = !segment.begins && (may_hash || !is_known);
        if may_be_refused && refused.contains(&became.verdict) {
            return Ok(());
        }
        if !is_known && !segment.begins && !may_hash && !self.is_blurred {
            return Err(format!("of no connection, and {}", became.verdict.name()));
        }
        let went = self.follow(&service, segment, became)?;
        if let Some(datagram) = segment.first_of {
            self.remember(datagram, Went::To(went), became);
        }
        Ok(())
    }

    /// A packet of a connection that is known or begins with it: where that is now, if this was seen.
    fn follow(
        &mut self,
        service: &Service,
        segment: &Segment,
        became: &Became,
    ) -> Result<Option<u8>, String> {
        let flow = self.flows.get(&segment.connection);
        let (before, is_shaken) = flow.map_or((None, false), |flow| (flow.backend, flow.is_shaken));
        let begins_again = is_shaken && segment.begins;
        let client = self.client(service, &segment.connection);
        let template = client.and_then(|client| self.templates.get(&client).copied());
        let is_led = became.events.contains(&Event::TemplateHit.name());
        let backend = match (flow.is_some(), begins_again) {
            // One without an entry follows its client's template as soon as there is one.
            (true, false) if is_led && service.options.guard != Guard::Off => {
                self.arrives(segment.size, became, template, true)?.or(template)
            }
            (true, false) => self.arrives(segment.size, became, before, true)?.or(before),
            // What a template controls keeps its entry (`conn_reuse_mode`), and one of before it need not.
            (true, true) => {
                let went = self.arrives(segment.size, became, None, true)?;
                let all_known = client.is_some() && [before, template, went].iter().all(Option::is_some);
                if all_known && went != before && went != template {
                    return Err(format!("{went:?}: opened again, and neither {before:?} nor {template:?}"));
                }
                went
            }
            (false, _) => self.arrives(segment.size, became, template, true)?.or(template),
        };
        self.tally.followed += u64::from(flow.is_some() && !begins_again);
        self.tally.begun += u64::from(segment.begins && (flow.is_none() || begins_again));
        self.tally.led += u64::from(is_led);
        let is_guarded = became.events.contains(&Event::Guarded.name());
        // Of a packet in the middle it is not told whether the guard held it.
        let leads = segment.begins && flow.is_none() && !self.is_blurred && !is_guarded;
        if let (Some(client), Some(backend)) = (client, backend)
            && (is_led || leads)
        {
            self.templates.insert(client, backend);
        }
        let is_shaken = is_shaken || segment.may_end || self.is_blurred;
        self.flows.insert(segment.connection, Flow { backend, is_shaken });
        Ok(backend)
    }

    /// Of a persistent service.
    fn client(&self, service: &Service, connection: &Connection) -> Option<(u8, IpAddr)> {
        let persistence = service.options.persistence?;
        let address = connection.client.ip();
        let prefix = persistence.granularity.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        Some((connection.protocol, masked(address, prefix)))
    }

    /// A packet that goes to a backend, `expected` if that is known, unless its TTL or the MTU keeps it.
    fn arrives(
        &self,
        size: Size,
        became: &Became,
        expected: Option<u8>,
        is_answered: bool,
    ) -> Result<Option<u8>, String> {
        let kept = |answered, dropped| {
            let all = [dropped, answered];
            is_among(became, if is_answered { &all } else { &all[..1] })
        };
        let is_too_big = |backend| size.bytes > (self.mtu)(backend);
        match (became.to.or(expected), became.to) {
            _ if size.ttl <= 1 => kept(AnsweredTtl, DroppedTtl).map(|()| None),
            (Some(backend), None) if is_too_big(backend) => {
                kept(AnsweredTooBig, DroppedTooBig).map(|()| None)
            }
            (None, None) => kept(AnsweredTooBig, DroppedTooBig).and_then(|()| {
                let may_be = BACKENDS.iter().any(|backend| is_too_big(*backend));
                if may_be { Ok(None) } else { Err("it fits everywhere".to_owned()) }
            }),
            (_, Some(went)) if is_too_big(went) => Err(format!("too big for {went}")),
            (_, Some(went)) if expected.is_none_or(|expected| expected == went) => Ok(Some(went)),
            _ => Err(format!("to {:?} instead of {expected:?}", became.to)),
        }
    }

    /// Whether it went to this backend, or was to go and did not fit.
    fn may_have_gone_to(&self, backend: u8, size: Size, became: &Became) -> bool {
        became.to.map_or(size.bytes > (self.mtu)(backend), |to| to == backend)
    }

    fn remember(&mut self, datagram: Datagram, went: Went, became: &Became) {
        self.firsts += 1;
        self.datagrams.insert(datagram, First { went, at: became.at });
    }

    fn judge_later(&mut self, datagram: &Datagram, size: Size, became: &Became) -> Result<(), String> {
        let Some(first) = self.datagrams.get(datagram) else {
            // Its first may have been one that was not read.
            let is_blurred = self.blurred_at.is_some_and(|at| at.elapsed() < FORGOTTEN);
            return if is_blurred { Ok(()) } else { is_among(became, &[DroppedFragment]) };
        };
        let (went, may_be_gone) =
            (first.went, first.at.elapsed() > FOLLOWED || self.firsts > PLACES as usize / 2);
        if may_be_gone && became.verdict == DroppedFragment {
            return Ok(());
        }
        self.tally.fragments += 1;
        let Went::To(expected) = went else { return is_among(became, &[PassedNoService]) };
        let seen = self.arrives(size, became, expected, false)?;
        if let Some(first) = self.datagrams.get_mut(datagram) {
            first.went = Went::To(seen.or(expected));
        }
        Ok(())
    }

    fn judge_error(&mut self, connection: &Connection, size: Size, became: &Became) -> Result<(), String> {
        let Some(service) = self.service(connection).filter(|service| !service.backends.is_empty()) else {
            return is_among(became, &[PassedNotIp, PassedNoFlow]);
        };
        let may_hash = service.options.guard != Guard::Off;
        let client = self.client(service, connection);
        let template = client.filter(|_| may_hash).and_then(|client| self.templates.get(&client).copied());
        match self.flows.get(connection).map(|flow| flow.backend) {
            // A packet in the middle of another connection may have made a template, which is not seen.
            Some(_) if may_hash && client.is_some() && template.is_none() => {
                self.arrives(size, became, None, false).map(|_| ())
            }
            // Perhaps of one without an entry, which has followed its client's template since it was seen.
            Some(_) if template.is_some_and(|template| self.may_have_gone_to(template, size, became)) => {
                self.tally.errors += 1;
                self.arrives(size, became, template, false).map(|_| ())
            }
            Some(expected) => {
                self.tally.errors += 1;
                let seen = self.arrives(size, became, expected, false)?;
                if let Some(flow) = self.flows.get_mut(connection) {
                    flow.backend = seen.or(expected);
                }
                Ok(())
            }
            // A hash has a backend for every connection.
            None if became.verdict != PassedNoFlow && (may_hash || self.is_blurred) => {
                self.arrives(size, became, None, false).map(|_| ())
            }
            None => is_among(became, &[PassedNoFlow]),
        }
    }
}

pub const BACKENDS: [u8; 3] = [1, 2, 3];
const NONE_OF_OURS: [Verdict; 4] = [PassedNotForUs, PassedNotIp, PassedMalformed, PassedNoService];

impl Connection {
    /// The one that [`Kind::open`] opens.
    pub fn of(kind: Kind) -> Self {
        let client = std::net::SocketAddr::new(kind.client(), CLIENT_PORT);
        Self { protocol: number(kind.protocol()), client, port: PORT }
    }
}

fn number(of: Protocol) -> u8 {
    match of {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

fn is_among(became: &Became, verdicts: &[Verdict]) -> Result<(), String> {
    if verdicts.contains(&became.verdict) {
        return Ok(());
    }
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict.name()).collect();
    Err(format!("{} instead of {}", became.verdict.name(), names.join(" or ")))
}
