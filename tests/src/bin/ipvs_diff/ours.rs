//! Our side: the XDP program in the kernel, configured by the planner, fed through BPF_PROG_TEST_RUN.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use lb::{
    dataplane::Sweep,
    model::{
        Backend, BackendKey, Endpoint, ExpireNodest, FlowSizes, Guard, Limits, Protocol, Service,
        ServiceOptions,
    },
    plan::{Desired, HostRoute, LinkSpec, Op, Snapshot, dest_address, plan, reclaim},
};
use lb_common::{counters::Counters, dest, endpoint, protocol, template, tick, value, verdict::Verdict};
use lb_tests::{packet::Packet, xdp::Director};

use crate::{
    lab,
    rates::Counted,
    script::{Config, Configured, Sysctl},
    view::{Answer, Flow, FlowKey, Load, Template, View},
};

/// Many times what a script opens: a full bucket is another test's.
const SIZES: FlowSizes = FlowSizes { ipv4: 64, wide: 64 };
/// More than a script's services and backends, with those that were removed.
const LIMITS: Limits = Limits { services: 16, destinations: 64, endpoints: 64 };
const LINK: &str = "eth0";
/// Every device map entry must name a device that exists; TEST_RUN sends nothing through it.
const LO: u32 = 1;

pub struct Ours {
    director: Director,
    /// As the last change left it. Reading all maps takes longer than everything else that a step does.
    configured: Snapshot,
    /// Packets have moved the rotations since.
    moved: bool,
    last_sweep: Sweep,
    /// The endpoint of each service, by id, deleted ones too: their templates may be left.
    owners: BTreeMap<u16, Endpoint>,
}

impl Ours {
    /// Loads the program, which the verifier takes ten seconds for in the VM.
    pub fn new() -> Result<Self> {
        let director = Director::with_limits(SIZES, LIMITS, &desired(&Config::default()))?;
        let configured = director.maps().snapshot()?;
        Ok(Self { director, configured, moved: false, last_sweep: Sweep::default(), owners: BTreeMap::new() })
    }

    /// Makes the maps what the agent would make them. Planning again must then give nothing.
    pub fn configure(&mut self, config: &Config) -> Result<()> {
        let want = Desired { hz: self.director.clock.hz(), ..desired(config) };
        if self.moved {
            self.configured = self.director.maps().snapshot()?;
        }
        let ops = plan(&want, &self.configured)?;
        self.apply(&ops)?;
        let again = plan(&want, &self.configured)?;
        ensure!(again.is_empty(), "planning again after applying gave {again:?}");
        Ok(())
    }

    fn apply(&mut self, ops: &[Op]) -> Result<()> {
        if !ops.is_empty() {
            self.director.maps_mut().apply(ops)?;
            self.configured = self.director.maps().snapshot()?;
            self.moved = false;
        }
        Ok(())
    }

    /// Frees what has expired, and decides about the templates that have run out: one round finds them, the next
    /// one what they control.
    pub fn sweep(&mut self) -> Result<()> {
        self.round()?;
        self.round()
    }

    /// Frees what has expired, and ids that two rounds saw no flow of, as the agent does every second.
    fn round(&mut self) -> Result<()> {
        let sweep = self.director.maps().sweep(self.director.clock.now(), &self.last_sweep);
        let seen = sweep.census.union(&self.last_sweep.census);
        self.last_sweep = sweep;
        self.apply(&reclaim(&self.configured, &seen))
    }

    pub fn send(&mut self, packet: &Packet) -> Result<Answer> {
        self.moved = true;
        let ran = self.director.run(&packet.bytes())?;
        // The stack does not answer a reset (RFC 9293 section 3.10.7.1).
        let closed_port = match packet.protocol {
            protocol::SCTP => Answer::NoProtocol,
            protocol::UDP => Answer::Unreachable,
            _ if packet.flags & lb_common::tcp::flag::RST == 0 => Answer::Reset,
            _ => Answer::Nothing,
        };
        Ok(match ran.verdict()? {
            Verdict::ForwardedTx | Verdict::ForwardedRedirect => Answer::Forwarded(ran.frame),
            Verdict::AnsweredNoBackend => Answer::Unreachable,
            Verdict::AnsweredNoFlow if packet.protocol == protocol::SCTP => Answer::NoProtocol,
            Verdict::AnsweredNoFlow => Answer::Reset,
            // A reset is not answered.
            Verdict::DroppedNoFlow => Answer::Nothing,
            Verdict::PassedNoService => closed_port,
            Verdict::DroppedBackendRemoved => Answer::Nothing,
            other => Answer::Other(other.name().to_owned()),
        })
    }

    /// Of all services; a deleted one's are lost with its id.
    pub fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for id in self.configured.services.keys() {
            let of = self.director.maps().service_counters(*id)?;
            sum.connections += of.connections;
            sum.packets += of.packets;
            sum.bytes += of.bytes;
        }
        Ok(sum)
    }

    /// Counters of every service and backend.
    pub fn counted(&self) -> Result<BTreeMap<Counted, Counters>> {
        let mut counted = BTreeMap::new();
        let endpoints = self.configured.endpoints.iter().filter(|(_, it)| it.has(endpoint::flag::OPEN));
        for (key, value) in endpoints {
            let Some(protocol) = key.protocol else { continue };
            let (service, maps) = (Endpoint::new(key.address, key.port, protocol), self.director.maps());
            counted.insert((service, None), maps.service_counters(value.service())?);
            let dests = self.configured.dests.iter().filter(|(_, dest)| dest.service == value.service());
            for (id, dest) in dests {
                counted.insert((service, Some(dest_address(dest))), maps.dest_counters(*id)?.served);
            }
        }
        Ok(counted)
    }

    /// What [`Ours::sweep`] left.
    pub fn view(&mut self) -> Result<View> {
        let snapshot = &self.configured;
        let mut endpoints = BTreeMap::new();
        let mut view = View::default();
        let mut services = BTreeMap::new();
        for (key, value) in &snapshot.endpoints {
            let Some(of) = key.protocol else { continue };
            let endpoint = Endpoint::new(key.address, key.port, of);
            endpoints.insert(value.id(), endpoint);
            self.owners.insert(value.service(), endpoint);
            if value.has(endpoint::flag::OPEN) {
                services.insert(value.service(), endpoint);
                view.services.insert(endpoint, BTreeMap::new());
            }
        }
        for (id, dest) in &snapshot.dests {
            if dest.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0 {
                continue;
            }
            let counts = self.director.maps().conn_counts(*id);
            let load =
                Load { weight: u64::from(dest.weight), active: counts.active, inactive: counts.inactive };
            let endpoint = services.get(&dest.service).context("a destination of no service")?;
            view.services.entry(*endpoint).or_default().insert(dest_address(dest), load);
        }
        let (hz, now) = (self.director.clock.hz(), self.director.clock.now());
        let tick_seconds = f64::from(1u32 << tick::shift(hz)) / f64::from(hz);
        for entry in self.director.flows() {
            let dest = snapshot.dests.get(&entry.value.dest()).context("a flow of no destination")?;
            // A template is of a service; each has one endpoint here.
            let to = match entry.endpoint {
                Some(id) => endpoints.get(&id),
                None => self.owners.get(&dest.service),
            };
            let to = *to.context("a flow of no endpoint")?;
            // Of a service of all ports, the one that was connected to.
            let to = Endpoint { port: if to.port == 0 { entry.port } else { to.port }, ..to };
            let address = match to.address {
                IpAddr::V4(_) => {
                    let [a, b, c, d, ..] = entry.client;
                    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
                }
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(entry.client)),
            };
            let template = entry
                .value
                .is_template()
                .then_some(Template { armed_again: entry.value.flags() & value::flag::ARMED_AGAIN != 0 });
            let state = match template {
                None => entry.value.state().name(),
                Some(_) if entry.value.state() == template::ASSURED => "ASSURED",
                Some(_) => "NONE",
            };
            let flow = Flow {
                backend: dest_address(dest),
                state: state.to_owned(),
                seconds: f64::from(self.director.maps().expiry(entry.value).until(now)) * tick_seconds,
                template,
            };
            let key = FlowKey { to, client: SocketAddr::new(address, entry.client_port) };
            view.flows.insert(key, flow);
        }
        Ok(view)
    }

    /// Forgets every service and connection.
    pub fn clear(&mut self) -> Result<()> {
        self.configure(&Config::default())?;
        for flow in self.director.flows() {
            self.director.maps().flush(&flow, self.director.clock.now());
        }
        // Two rounds that see no flow free the ids; then a plan frees the endpoints.
        self.sweep()?;
        self.configure(&Config::default())
    }
}

/// What the agent would want.
fn desired(config: &Config) -> Desired {
    let link = LinkSpec {
        name: LINK.to_owned(),
        ifindex: LO,
        mac: lab::DIRECTOR_MAC,
        ipv4: Some(lab::DIRECTOR4),
        ipv6: Some(lab::DIRECTOR6),
        merges: false,
        untagged: true,
        tags: Vec::new(),
        macs: Vec::new(),
    };
    let neighbour = |number| HostRoute::Neighbour {
        mac: lab::backend_mac(number),
        answers: true,
        link: LINK.to_owned(),
        tags: lb_common::vlan::Tags::NONE,
        mtu: 1500,
    };
    let addresses = lab::vips()
        .into_iter()
        .flat_map(|vip| (1..=lab::BACKENDS).map(move |number| (lab::backend(vip, number), number)));
    Desired {
        services: config.services.iter().map(|service| self::service(config, service)).collect(),
        timeouts: config.timeouts,
        links: vec![link],
        hosts: addresses.map(|(address, number)| (address, neighbour(number))).collect(),
        ..Desired::default()
    }
}

fn service(config: &Config, configured: &Configured) -> Service {
    let Endpoint { address, port, .. } = configured.endpoint;
    let backend = |(number, settings): &(u8, crate::script::Settings)| Backend {
        key: BackendKey { address: lab::backend(address, *number), port },
        weight: settings.weight,
        upper_threshold: settings.upper,
        lower_threshold: settings.lower,
        drained: false,
        maintenance: None,
        health: Default::default(),
    };
    Service {
        name: configured.endpoint.default_name(),
        endpoint: configured.endpoint,
        group: Default::default(),
        sources: Default::default(),
        scheduler: configured.kind.model,
        backends: configured.backends.iter().map(backend).collect(),
        options: ServiceOptions {
            persistence: configured.options.persistence,
            ops: configured.options.ops,
            expire_nodest: match config.has(Sysctl::ExpireNodest) {
                true => ExpireNodest::Reschedule,
                false => ExpireNodest::Drop,
            },
            expire_quiescent_template: config.has(Sysctl::ExpireQuiescent),
            sloppy_tcp: config.has(Sysctl::SloppyTcp) && configured.endpoint.protocol == Protocol::Tcp,
            sloppy_sctp: config.has(Sysctl::SloppySctp) && configured.endpoint.protocol == Protocol::Sctp,
            guard: Guard::Off,
            ..ServiceOptions::default()
        },
        health: Default::default(),
    }
}
