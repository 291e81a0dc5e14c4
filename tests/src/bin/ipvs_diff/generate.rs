//! Scripts out of seeds.

use fastrand::Rng;
use lb::model::{Endpoint, Protocol};
use lb_common::tcp::flag::{ACK, FIN, RST, SYN};

use crate::{
    lab::{BACKENDS, Client, endpoints},
    schedulers::{KINDS, Kind},
    script::{Config, Script, Settings, Step},
};

/// Client of packets to services that are deleted: IPVS drops what belongs to their connections, lb does not
/// (docs/ipvs-differences.md), so no connection of the script may have it.
const STRANGER: Client = Client { host: 1, port: 999 };

/// The script of a seed.
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
    /// The services that there may be.
    endpoints: Vec<Endpoint>,
    clients: Vec<Client>,
    config: Config,
    steps: Vec<Step>,
}

impl Generator {
    fn new(seed: u64, kind: &'static Kind) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut endpoints = endpoints();
        rng.shuffle(&mut endpoints);
        endpoints.truncate(rng.usize(1..=3));
        let hosts: Vec<u16> = (0..rng.usize(1..=20)).map(|_| rng.u16(2..)).collect();
        let mut client = || Client { host: hosts[rng.usize(..hosts.len())], port: rng.u16(1024..) };
        let clients = (0..30).map(|_| client()).collect();
        Self { rng, kind, endpoints, clients, config: Config::default(), steps: Vec::new() }
    }

    /// Services with some backends each.
    fn begin(&mut self) {
        if self.rng.u8(..4) != 0 {
            self.set_timeouts();
        }
        for endpoint in self.endpoints.clone() {
            self.push(Step::AddService(endpoint, self.kind));
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
        let to = self.endpoint();
        let client = match self.config.service(to) {
            Some(_) => self.clients[self.rng.usize(..self.clients.len())],
            None => STRANGER,
        };
        let flags = match (to.protocol, self.rng.u8(..100)) {
            (Protocol::Udp, _) => 0,
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

    fn wait(&mut self) {
        let seconds = match self.rng.u8(..10) {
            0..6 => self.rng.u32(1..12),
            6..9 => self.rng.u32(12..70),
            _ => self.rng.u32(70..400),
        };
        self.push(Step::Wait { seconds });
    }

    fn change_backend(&mut self) {
        let endpoint = self.endpoint();
        let backends =
            self.config.service(endpoint).map(|service| service.backends.clone()).unwrap_or_default();
        let one = (!backends.is_empty()).then(|| backends[self.rng.usize(..backends.len())]);
        match (one, self.rng.u8(..10)) {
            (Some((number, before)), 0..5) => {
                let settings = self.settings();
                // Mostly the weight alone, as health checks and operators do.
                let settings = match self.rng.u8(..3) {
                    0 => settings,
                    _ => Settings { weight: settings.weight, ..before },
                };
                self.push(Step::EditBackend(endpoint, number, settings));
            }
            (Some((number, _)), 5..7) => self.push(Step::RemoveBackend(endpoint, number)),
            _ => self.add_backend(endpoint),
        }
    }

    fn change_service(&mut self) {
        let endpoint = self.endpoint();
        match (self.config.service(endpoint), self.rng.bool()) {
            (None, _) => self.push(Step::AddService(endpoint, self.kind)),
            (Some(_), true) => self.push(Step::DeleteService(endpoint)),
            (Some(_), false) => {
                let kind = &KINDS[self.rng.usize(..KINDS.len())];
                self.push(Step::EditService(endpoint, kind));
            }
        }
    }

    fn add_backend(&mut self, endpoint: Endpoint) {
        let number = self.rng.u8(1..=BACKENDS);
        let settings = self.settings();
        self.push(Step::AddBackend(endpoint, number, settings));
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
        Settings { weight, upper, lower }
    }

    /// The states whose timeouts `ipvsadm --set` knows; long enough not to run out between two steps.
    fn set_timeouts(&mut self) {
        let mut timeout = || self.rng.u32(15..=120);
        let step = Step::SetTimeouts { tcp: timeout(), tcp_fin: timeout(), udp: timeout() };
        self.push(step);
    }

    fn endpoint(&mut self) -> Endpoint {
        self.endpoints[self.rng.usize(..self.endpoints.len())]
    }

    fn push(&mut self, step: Step) {
        if self.config.apply(step) {
            self.steps.push(step);
        }
    }
}
