//! Scripts out of seeds.

use fastrand::Rng;
use lb::model::{Endpoint, Persistence, Protocol, Scope};
use lb_common::{
    sctp::chunk,
    tcp::flag::{ACK, FIN, RST, SYN},
};

use crate::{
    lab::{ANY_PORTS, BACKENDS, COOKIE_AND_ABORT, Client, endpoints},
    schedulers::{KINDS, Kind},
    script::{Config, Options, Script, Settings, Step, Sysctl},
};

/// Clients of packets to services that are deleted: IPVS drops what belongs to their connections, lb does not
/// (docs/ipvs-differences.md), so no connection of the script may have one of them. The first one is served by the
/// service of all ports of that address.
const STRANGERS: [Client; 2] = [Client { host: 1, port: 998 }, Client { host: 1, port: 999 }];

/// The script of a seed: another one for each scheduler. In every other one most services are persistent.
pub fn script(seed: u64, kind: &'static Kind) -> Script {
    let mut generator = Generator::new(seed, kind);
    generator.begin();
    let length = generator.rng.usize(40..100);
    while generator.steps.len() < length {
        generator.next();
    }
    Script { seed, kind, steps: generator.steps }
}

struct Generator {
    rng: Rng,
    kind: &'static Kind,
    /// The services that there may be. Their options stay: what the templates of a service become whose timeout or
    /// netmask is edited is another thing with lb (docs/ipvs-differences.md).
    endpoints: Vec<(Endpoint, Options)>,
    /// That were deleted at some time.
    deleted: Vec<Endpoint>,
    sysctls: Vec<Sysctl>,
    clients: Vec<Client>,
    config: Config,
    steps: Vec<Step>,
}

impl Generator {
    fn new(seed: u64, kind: &'static Kind) -> Self {
        let name =
            kind.name.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut rng = Rng::with_seed(seed ^ name << 16);
        let sysctls: Vec<_> = Sysctl::ALL.into_iter().filter(|_| rng.u8(..4) == 0).collect();
        let mut endpoints = endpoints();
        rng.shuffle(&mut endpoints);
        endpoints.truncate(rng.usize(1..=3));
        if rng.u8(..3) == 0 {
            // Of all ports of the first one's address.
            let wildcard = Endpoint { port: 0, ..endpoints[0] };
            if sysctls.contains(&Sysctl::ExpireNodest) {
                // Without the others there: a listed connection does not say whose backend's it is.
                endpoints.retain(|it| Endpoint { port: 0, ..*it } != wildcard);
            }
            endpoints.push(wildcard);
        }
        let number = KINDS.iter().position(|it| it == kind).unwrap_or_default();
        let persistent = (seed + number as u64).is_multiple_of(2);
        let endpoints = endpoints.into_iter().map(|it| (it, options(&mut rng, it, persistent))).collect();
        // Of few networks, so that some of a netmask's clients are there together.
        let networks: Vec<u16> = (0..rng.usize(1..=4)).map(|_| rng.u16(..)).collect();
        let mut host = || networks[rng.usize(..networks.len())] & 0xff00 | u16::from(rng.u8(2..));
        let hosts: Vec<u16> = (0..20).map(|_| host()).collect();
        let hosts = &hosts[..rng.usize(1..=20)];
        let mut client = || Client { host: hosts[rng.usize(..hosts.len())], port: rng.u16(1024..) };
        let clients = (0..30).map(|_| client()).collect();
        let (config, deleted, steps) = (Config::default(), Vec::new(), Vec::new());
        Self { rng, kind, endpoints, deleted, sysctls, clients, config, steps }
    }

    /// Services with some backends each.
    fn begin(&mut self) {
        for sysctl in self.sysctls.clone() {
            self.push(Step::Set(sysctl));
        }
        if self.rng.u8(..4) != 0 {
            self.set_timeouts();
        }
        for (endpoint, options) in self.endpoints.clone() {
            self.push(Step::AddService(endpoint, self.kind, options));
            for _ in 0..self.rng.usize(1..=5) {
                self.add_backend(endpoint);
            }
        }
    }

    fn next(&mut self) {
        match self.rng.u8(..100) {
            0..70 => self.packet(),
            70..80 => self.wait(),
            80..98 => self.change_backend(),
            98 => self.set_timeouts(),
            _ => self.change_service(),
        }
    }

    fn packet(&mut self) {
        let (mut to, _) = self.endpoint();
        if to.port == 0 {
            to.port = ANY_PORTS[self.rng.usize(..ANY_PORTS.len())];
        }
        let is_there = self.config.service(to).is_some() || !self.deleted.contains(&to);
        let client = match self.config.serving(to) {
            Some(_) if is_there => self.clients[self.rng.usize(..self.clients.len())],
            Some(_) => STRANGERS[0],
            None => STRANGERS[1],
        };
        let flags = match (to.protocol, self.rng.u8(..100)) {
            (Protocol::Udp, _) => 0,
            (Protocol::Sctp, chance) => self.chunk(chance),
            (_, 0..50) => SYN,
            (_, 50..76) => ACK,
            (_, 76..86) => FIN | ACK,
            (_, 86..90) => RST,
            (_, 90..93) => RST | ACK,
            (_, 93..95) => SYN | FIN,
            (_, 95) => SYN | RST,
            (_, 96) => SYN | ACK,
            (_, 97) => FIN,
            (_, 98) => FIN | RST | ACK,
            (_, _) => 0,
        };
        self.push(Step::Packet { to, client, flags });
    }

    /// The first chunk of an SCTP packet; `chance` is below 100.
    fn chunk(&mut self, chance: u8) -> u8 {
        match chance {
            0..40 => chunk::INIT,
            40..60 => chunk::COOKIE_ECHO,
            60..68 => chunk::DATA,
            68..72 => chunk::SACK,
            72..76 => chunk::ABORT,
            76..81 => chunk::SHUTDOWN,
            81..85 => chunk::SHUTDOWN_ACK,
            85..88 => chunk::SHUTDOWN_COMPLETE,
            88..91 => chunk::INIT_ACK,
            91..94 => chunk::COOKIE_ACK,
            94..96 => chunk::ERROR,
            96..98 => COOKIE_AND_ABORT,
            _ => self.rng.u8(..),
        }
    }

    fn wait(&mut self) {
        let seconds = match self.rng.u8(..10) {
            0..6 => self.rng.u32(1..12),
            6..9 => self.rng.u32(12..70),
            _ => self.rng.u32(70..400),
        };
        self.push(Step::Wait { seconds });
    }

    fn change_backend(&mut self) {
        let (endpoint, _) = self.endpoint();
        let backends =
            self.config.service(endpoint).map(|service| service.backends.clone()).unwrap_or_default();
        let one = (!backends.is_empty()).then(|| backends[self.rng.usize(..backends.len())]);
        match (one, self.rng.u8(..10)) {
            (Some((number, before)), 0..5) => {
                let settings = self.settings();
                // Mostly the weight alone, as health checks and operators do.
                let settings = match self.rng.u8(..3) {
                    0 => settings,
                    _ => self.without_long_turns(Settings { weight: settings.weight, ..before }),
                };
                self.push(Step::EditBackend(endpoint, number, settings));
            }
            (Some((number, _)), 5..7) => self.push(Step::RemoveBackend(endpoint, number)),
            _ => self.add_backend(endpoint),
        }
    }

    fn change_service(&mut self) {
        let (endpoint, options) = self.endpoint();
        // IPVS forgets a deleted service's connections then, which with lb go on.
        let keeps = !self.config.has(Sysctl::ExpireNodest);
        match (self.config.service(endpoint), keeps && self.rng.bool()) {
            (None, _) => self.push(Step::AddService(endpoint, self.kind, options)),
            (Some(_), true) => {
                self.deleted.push(endpoint);
                self.push(Step::DeleteService(endpoint));
            }
            (Some(_), false) => {
                let kind = &KINDS[self.rng.usize(..KINDS.len())];
                self.push(Step::EditService(endpoint, kind, options));
            }
        }
    }

    fn add_backend(&mut self, endpoint: Endpoint) {
        let number = self.rng.u8(1..=BACKENDS);
        let settings = self.settings();
        self.push(Step::AddBackend(endpoint, number, settings));
    }

    /// With wrr an overloaded backend of a great weight takes more than 32 turns in a row, after which lb goes another way
    /// (docs/ipvs-differences.md).
    fn without_long_turns(&self, settings: Settings) -> Settings {
        const TURNS: u16 = 8;
        if self.kind.name == "wrr" && settings.weight > TURNS {
            Settings { upper: 0, lower: 0, ..settings }
        } else {
            settings
        }
    }

    fn settings(&mut self) -> Settings {
        let weight = match self.rng.u8(..20) {
            0..3 => 0,
            3..9 => 1,
            9..15 => self.rng.u16(2..=8),
            15..18 => 100 * self.rng.u16(1..=4),
            18 => self.rng.u16(1..=300),
            _ => self.rng.u16(..),
        };
        let upper = if self.rng.u8(..5) == 0 { self.rng.u32(1..=6) } else { 0 };
        // ipvsadm refuses a lower one above the upper one.
        let lower = if self.rng.bool() { self.rng.u32(0..=upper) } else { 0 };
        self.without_long_turns(Settings { weight, upper, lower })
    }

    /// The states whose timeouts `ipvsadm --set` knows; long enough not to run out between two steps.
    fn set_timeouts(&mut self) {
        let mut timeout = || self.rng.u32(15..=120);
        let step = Step::SetTimeouts { tcp: timeout(), tcp_fin: timeout(), udp: timeout() };
        self.push(step);
    }

    fn endpoint(&mut self) -> (Endpoint, Options) {
        self.endpoints[self.rng.usize(..self.endpoints.len())]
    }

    fn push(&mut self, step: Step) {
        if self.config.apply(step) {
            self.steps.push(step);
        }
    }
}

/// A service of all ports is always persistent, as `ipvsadm` wants it.
fn options(rng: &mut Rng, endpoint: Endpoint, persistent: bool) -> Options {
    let prefixes: &[Option<u8>] = match endpoint.address.is_ipv4() {
        true => &[None, None, Some(24), Some(16), Some(32), Some(31)],
        false => &[None, None, Some(80), Some(64), Some(128), Some(120)],
    };
    // Up to where the timer wheel is late by no more than two seconds.
    let persistence = Persistence {
        timeout: rng.u32(8..=120),
        granularity: prefixes[rng.usize(..prefixes.len())],
        scope: Scope::default(),
    };
    let is_persistent = endpoint.port == 0 || (persistent && rng.u8(..4) != 0);
    Options {
        persistence: is_persistent.then_some(persistence),
        ops: endpoint.protocol == Protocol::Udp && rng.u8(..5) == 0,
    }
}
