//! What the program's steps mean, in the words of LVS. PURE.

use std::net::SocketAddr;

use lb_common::{
    endpoint::{Endpoint, flag},
    generation::Header,
    host::{LOCAL, Path, Route},
    link::MAC_MASK,
    record::Step,
    source::Rule,
    tcp::State,
    tick,
    value::{Value, flag::HASHED},
    verdict::{Event, Verdict},
    vlan::{Tags, VID_MASK},
};
use serde::Serialize;

use crate::plan::{Snapshot, dest_address, name_of, scheduler_name};

/// A step, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub step: &'static str,
    pub text: String,
}

/// Where a packet would leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leaves {
    pub interface: String,
    /// Destination and source MAC of the frame.
    pub to: String,
    pub from: String,
    /// VLAN ids, the outer one first.
    pub vlans: Vec<u16>,
    /// Of the way, bytes.
    pub mtu: u16,
}

/// What would become of a packet, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Story {
    pub steps: Vec<Line>,
    pub service: Option<String>,
    pub backend: Option<SocketAddr>,
    /// Of its flow, as it is now; none if there is no live one.
    pub state: Option<&'static str>,
    pub seconds_left: Option<u32>,
    /// It opens a connection.
    pub opens: bool,
    pub leaves: Option<Leaves>,
    pub verdict: &'static str,
    pub meaning: &'static str,
}

/// Tells it. `hz`: of the kernel's ticks.
pub fn tell(steps: &[(Step, [u64; 2])], held: &Snapshot, hz: u32) -> Story {
    let mut teller = Teller { held, hz, story: Story::default(), matched: false };
    for (step, [first, second]) in steps {
        teller.hear(*step, *first, *second);
    }
    teller.story
}

struct Teller<'a> {
    held: &'a Snapshot,
    hz: u32,
    story: Story,
    /// An endpoint was found, and nothing said of a flow yet.
    matched: bool,
}

impl Teller<'_> {
    fn say(&mut self, step: &'static str, text: String) {
        self.story.steps.push(Line { step, text });
    }

    fn hear(&mut self, step: Step, first: u64, second: u64) {
        if self.matched && step != Step::Flow {
            self.say("flow", "none is known".to_owned());
        }
        self.matched = false;
        let dest = first as u32;
        match step {
            Step::Filter => self.say("endpoint", "no service has this address".to_owned()),
            Step::Endpoints => self.endpoints(Endpoint(first), Endpoint(second)),
            Step::Flow => self.flow(Value(first), second),
            Step::Source => self.say("source", source(Rule(first), second)),
            Step::Guard => {
                let text =
                    "new connections come faster than the service's guard allows: this one gets no entry";
                self.say("guard", text.to_owned());
            }
            Step::Template if second != 0 => {
                self.say("persistence", format!("the client's template leads to {}", self.backend(dest)));
            }
            Step::Template => {
                let text = format!(
                    "the client's template leads to {}, which takes no new connections: it is given up",
                    self.backend(dest)
                );
                self.say("persistence", text);
            }
            Step::TemplateMade => {
                self.say("persistence", format!("a template is made: {}", self.backend(dest)));
            }
            Step::Scheduled => self.scheduled(dest, second != 0),
            Step::Opened => self.opened(Value(first), Value(second)),
            Step::WithoutEntry => {
                let text =
                    format!("gets no entry; its hash says where each packet goes: {}", self.backend(dest));
                self.story.opens = true;
                self.say("flow", text);
            }
            Step::Dest => self.dest(dest, second as u16),
            Step::Host => self.host(Route(first), Path(second)),
            Step::Event => {
                if let Some(event) = Event::ALL.iter().find(|event| **event as u64 == first) {
                    self.say("event", format!("counts {}: {}", event.name(), event.meaning()));
                }
            }
            Step::Verdict => {
                if let Some(verdict) = Verdict::ALL.iter().find(|verdict| **verdict as u64 == first) {
                    (self.story.verdict, self.story.meaning) = (verdict.name(), verdict.meaning());
                    self.say("verdict", format!("{}: {}", verdict.name(), verdict.meaning()));
                }
            }
        }
    }

    fn service(&self, id: u16) -> String {
        let record = self.held.services.get(&id);
        record.map_or_else(|| format!("service {id}, which is gone"), |record| name_of(&record.name))
    }

    fn backend(&self, id: u32) -> String {
        self.address(id)
            .map_or_else(|| format!("destination {id}, which is gone"), |address| address.to_string())
    }

    fn address(&self, id: u32) -> Option<SocketAddr> {
        let dest = self.held.dests.get(&id)?;
        Some(SocketAddr::new(dest_address(dest), u16::from_be_bytes(dest.port)))
    }

    fn endpoints(&mut self, exact: Endpoint, wildcard: Endpoint) {
        if exact.0 == 0 && wildcard.0 == 0 {
            return self.say("endpoint", "no service has this port of the address".to_owned());
        }
        for (endpoint, what) in
            [(exact, "has this port"), (wildcard, "has a range with this port, or all ports")]
        {
            if endpoint.0 == 0 {
                continue;
            }
            let service = self.service(endpoint.service());
            let deleted = if endpoint.has(flag::OPEN) {
                ""
            } else {
                "; it was deleted, and only known connections go on"
            };
            self.say("endpoint", format!("service {service} {what}{deleted}"));
            self.story.service.get_or_insert(service);
        }
        self.matched = true;
    }

    fn flow(&mut self, value: Value, followed: u64) {
        let (left, next, is_over) =
            (followed as u32 as i32, State((followed >> 32) as u8), followed >> 40 != 0);
        let (state, backend) = (value.state(), self.backend(value.dest()));
        let seconds = tick::seconds(left.max(0) as u32, self.hz);
        if is_over {
            let why = if left <= 0 { "has expired" } else { "is over to this packet" };
            return self.say("flow", format!("an entry to {backend} in {} {why}", state.name()));
        }
        (self.story.state, self.story.seconds_left) = (Some(state.name()), Some(seconds));
        let moves = if next == state { String::new() } else { format!("; goes to {}", next.name()) };
        let hashed = if value.flags() & HASHED != 0 { ", placed by hash" } else { "" };
        let text = format!("known: to {backend}, {}, {seconds} s left{hashed}{moves}", state.name());
        self.say("flow", text);
    }

    fn scheduled(&mut self, dest: u32, by_hash: bool) {
        let text = match (dest, by_hash) {
            (0, _) => "no backend takes new connections".to_owned(),
            (dest, true) => {
                format!("the hash says {}, as for all that is not known at the moment", self.backend(dest))
            }
            (dest, false) => {
                let record = self.held.dests.get(&dest);
                let weight = record.map_or_else(String::new, |record| format!(", weight {}", record.weight));
                let name =
                    record.and_then(|record| self.scheduler(record.service)).unwrap_or("the scheduler");
                format!("{name} picks {}{weight}", self.backend(dest))
            }
        };
        self.say("scheduler", text);
    }

    /// As the service's generation has it.
    fn scheduler(&self, service: u16) -> Option<&'static str> {
        let [first, second, ..] = self.held.regions.get(&service)?.as_slice() else { return None };
        let number = Header::from_words([*first, *second]).scheduler;
        scheduler_name(number)
    }

    fn opened(&mut self, value: Value, before: Value) {
        let instead = if !before.is_flow() {
            String::new()
        } else {
            format!(", in the place of one in {}", before.state().name())
        };
        self.story.opens = true;
        let text = format!("is opened: to {}, {}{instead}", self.backend(value.dest()), value.state().name());
        self.say("flow", text);
    }

    fn dest(&mut self, dest: u32, service: u16) {
        self.story.backend = self.address(dest);
        self.story.service = Some(self.service(service));
        let text = format!("{} of service {}", self.backend(dest), self.service(service));
        self.say("backend", text);
    }

    fn host(&mut self, route: Route, path: Path) {
        if route.link() == LOCAL {
            return self.say("host", "the director itself".to_owned());
        }
        let Some(link) = self.held.links.get(&route.link()).filter(|_| route.link() != 0) else {
            return self.say("host", "its MAC address is not known".to_owned());
        };
        let tags: Tags = path.tags();
        let vlans =
            [tags.outer(), tags.inner()].into_iter().filter(|tag| *tag != 0).map(|tag| tag & VID_MASK);
        let leaves = Leaves {
            interface: name_of(&link.name),
            to: mac(route.mac_word()),
            from: mac(link.mac & MAC_MASK),
            vlans: vlans.collect(),
            mtu: path.mtu(),
        };
        let tagged = match leaves.vlans.as_slice() {
            [] => String::new(),
            vlans => format!(", VLAN {}", vlans.iter().map(u16::to_string).collect::<Vec<_>>().join("/")),
        };
        let text = format!("{} on {}{tagged}, MTU {}", leaves.to, leaves.interface, leaves.mtu);
        self.say("host", text);
        self.story.leaves = Some(leaves);
    }
}

fn source(rule: Rule, judged: u64) -> String {
    match (rule, judged) {
        (Rule::ALLOW, _) => "the service's `sources` allow it".to_owned(),
        (Rule::DENY, _) => "the service's `sources` deny it".to_owned(),
        (_, 0) => "limited by the service's `sources`, and still below the limit".to_owned(),
        _ => "over the limit of the service's `sources`".to_owned(),
    }
}

/// A MAC address out of the low bytes of a word.
fn mac(word: u64) -> String {
    let bytes = word.to_le_bytes();
    bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
