//! What both directors show, in the same words, and how it differs.

use std::{collections::BTreeMap, fmt, net::IpAddr, net::SocketAddr};

use lb::model::Endpoint;
use lb_common::counters::Counters;
use lb_tests::packet::difference;

use crate::lab;

/// What became of a packet.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// The frame that left for a backend.
    Forwarded(Vec<u8>),
    /// ICMP port unreachable.
    Unreachable,
    /// ICMP protocol unreachable, or its like in IPv6: the stack has no SCTP.
    NoProtocol,
    /// A TCP reset of the director's stack.
    Reset,
    Nothing,
    Other(String),
}

/// Services and connections.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub services: BTreeMap<Endpoint, BTreeMap<IpAddr, Load>>,
    pub flows: BTreeMap<FlowKey, Flow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub weight: u64,
    pub active: u64,
    pub inactive: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    pub to: Endpoint,
    pub client: SocketAddr,
}

impl FlowKey {
    /// Of all that a client sends to the service.
    pub fn is_template(&self) -> bool {
        self.client.port() == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub backend: IpAddr,
    pub state: String,
    /// Until it expires.
    pub seconds: f64,
    pub template: Option<Template>,
}

/// A persistence template is listed as the connection of a port 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Template {
    /// It has run out once; of IPVS's nobody knows.
    pub armed_again: bool,
}

/// IPVS shows whole seconds, cut off: half of one to either side of the middle. Ours is a tick coarse, and lets an
/// expiry be half a second too early (`REFRESH`). A second more, for what passes between two readings.
pub const TOLERANCE: f64 = 0.5 + 0.128 + 1.0;
/// Between two looks at templates that run out.
pub const LOOK: f64 = 0.5;
/// However long our sweeper was kept waiting, a template's timer is held to this, in seconds.
pub const MOST_HELD: f64 = 10.0;

/// What differs between two answers to one packet.
pub fn answers(ipvs: &Answer, ours: &Answer) -> Vec<String> {
    if ipvs == ours {
        return Vec::new();
    }
    let mut text = format!("IPVS: {ipvs:?}, lb: {ours:?}");
    if let (Answer::Forwarded(ipvs), Answer::Forwarded(ours)) = (ipvs, ours)
        && lab::backend_of(ipvs) == lab::backend_of(ours)
    {
        text += &format!("; IPVS's frame (-) and lb's (+):\n{}", difference(ipvs, ours));
    }
    vec![text]
}

/// What a packet added to the counters, of all services together.
pub fn since(after: Counters, before: Counters) -> Counters {
    Counters {
        connections: after.connections.wrapping_sub(before.connections),
        packets: after.packets.wrapping_sub(before.packets),
        bytes: after.bytes.wrapping_sub(before.bytes),
    }
}

/// What differs between what one packet added.
pub fn counts(ipvs: Counters, ours: Counters) -> Option<String> {
    (ipvs != ours).then(|| format!("counted by IPVS: {ipvs:?}, by lb: {ours:?}"))
}

/// How two views compare.
#[derive(Default)]
pub struct Comparison {
    /// What differs.
    pub found: Vec<String>,
    /// Templates whose timers are alike only because our sweeper was kept waiting.
    pub widened: usize,
}

/// Compares two views. `held` is for how long our sweeper was kept waiting for IPVS's timers, in seconds: a template is
/// armed again when it comes.
pub fn views(ipvs: &View, ours: &View, held: f64) -> Comparison {
    let Comparison { mut found, mut widened } = Comparison::default();
    each(&ipvs.services, &ours.services, |endpoint, ipvs, ours| match (ipvs, ours) {
        (Some(ipvs), Some(ours)) => each(ipvs, ours, |backend, ipvs, ours| {
            if ipvs != ours {
                found.push(format!("{endpoint} -> {backend}: IPVS: {}, lb: {}", shown(ipvs), shown(ours)));
            }
        }),
        (ipvs, ours) => {
            found.push(format!("{endpoint}: IPVS has it: {}, lb: {}", ipvs.is_some(), ours.is_some()));
        }
    });
    each(&ipvs.flows, &ours.flows, |key, ipvs, ours| {
        let is_like = |held| ipvs.zip(ours).is_some_and(|(ipvs, ours)| ipvs.is_like(ours, held));
        if !is_like(held) {
            found.push(format!("{key}: IPVS: {}, lb: {}", shown(ipvs), shown(ours)));
        } else if !is_like(0.0) {
            widened += 1;
        }
    });
    Comparison { found, widened }
}

fn each<K: Ord, V>(
    ipvs: &BTreeMap<K, V>,
    ours: &BTreeMap<K, V>,
    mut look: impl FnMut(&K, Option<&V>, Option<&V>),
) {
    for (key, value) in ipvs {
        look(key, Some(value), ours.get(key));
    }
    for (key, value) in ours.iter().filter(|(key, _)| !ipvs.contains_key(key)) {
        look(key, None, Some(value));
    }
}

fn shown<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or("not there".to_owned(), ToString::to_string)
}

impl Flow {
    fn is_like(&self, other: &Self, held: f64) -> bool {
        let armed_again = other.template.is_some_and(|template| template.armed_again);
        let tolerance = if armed_again { TOLERANCE + LOOK + held.min(MOST_HELD) } else { TOLERANCE };
        (self.backend, &self.state, self.template.is_some())
            == (other.backend, &other.state, other.template.is_some())
            && (self.seconds - other.seconds).abs() <= tolerance
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded(frame) => match lab::backend_of(frame) {
                Some(number) => write!(f, "to backend {number}"),
                None => write!(f, "to MAC {:02x?}", &frame[..frame.len().min(6)]),
            },
            Self::Unreachable => f.write_str("port unreachable"),
            Self::NoProtocol => f.write_str("protocol unreachable"),
            Self::Reset => f.write_str("reset"),
            Self::Nothing => f.write_str("nothing"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weight {}, {} active, {} inactive", self.weight, self.active, self.inactive)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_template() { "template" } else { "connection" };
        write!(f, "{what} {} to {}", self.client, self.to)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {} {}, {:.1} s left", self.backend, self.state, self.seconds)
    }
}
