//! The directors that rows are measured on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use lb::{
    dataplane::Traces,
    model::{
        Endpoint, FlowSizes, Guard, Limits, Persistence, Protocol, Scheduler, Scope, Service, sources::rule,
    },
    plan::{Desired, HostRoute, ProbeSpec},
};
use lb_common::{guard::MAX_RATE, vlan::Tags};
use lb_tests::xdp::Director;

use crate::{
    packets::LRU,
    world::{DIRECTOR_MAC, PORT, VIP4, VIP6, backend, datagrams, desired, service},
};

/// What checks come from.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 1));

/// Services whose clients are persistent, whose flows end, behind a tag, and under a flood: IPv4 and IPv6.
pub const PERSISTENT: [IpAddr; 2] = vips(103);
pub const RESETS: [IpAddr; 2] = vips(104);
pub const TAGGED: [IpAddr; 2] = vips(105);
pub const GUARDED: [IpAddr; 2] = vips(106);
pub const VID: u16 = 100;

/// So many services, on ports from 1000 on. Powers of two.
pub const SERVICES: [u32; 3] = [1, 128, 4096];
/// Of all of them together.
pub const FLOWS_OF_SERVICES: u32 = 4096;
/// Flows of each kind of the director that has the most.
pub const MOST: u32 = 1 << 22;

const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 20 };
const LIMITS: Limits = Limits { services: 4096, destinations: 16384, endpoints: 16384 };
/// Seconds.
const PERSISTENCE: u32 = 30;
/// New flows a second.
const GUARD: u32 = 1000;

const fn vips(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(172, 18, 14, number)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0x100 + number as u16)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Plain,
    /// By its place in [`SERVICES`].
    Services(usize),
    /// [`MOST`] flows of each kind.
    Most,
    /// The same of TCP in kernel LRU maps, rated for as many.
    Lru,
    /// One service that uses everything there is.
    Features,
    /// Its flows are on their way to tables of another size.
    Moving,
    /// `lb trace` runs.
    Traced,
}

pub struct Directors {
    plain: Director,
    services: Vec<Director>,
    most: Director,
    lru: Director,
    features: Director,
    moving: Director,
    traced: Director,
    /// None asks for anything.
    _traces: Traces,
}

impl Directors {
    pub fn new() -> Result<Self> {
        let build = |sizes, want: &Desired| Director::with_limits(sizes, LIMITS, want);
        let one = desired(vec![of(VIP4, 2)]);
        let most = FlowSizes { ipv4: 2 * MOST, wide: 2 * MOST };
        let all = [VIP4, VIP6].into_iter().flat_map(both).collect();
        let mut traced = build(SIZES, &one)?;
        Ok(Self {
            plain: build(SIZES, &plain())?,
            services: SERVICES.into_iter().map(|n| build(SIZES, &many(n))).collect::<Result<_>>()?,
            most: build(most, &desired(all))?,
            lru: Director::build(Some(LRU), most, LIMITS, &desired(vec![of(VIP4, 2), of(VIP6, 2)]))?,
            features: build(SIZES, &everything()?)?,
            moving: build(SIZES, &one)?,
            _traces: traced.trace()?,
            traced,
        })
    }

    pub fn of(&mut self, which: Which) -> &mut Director {
        match which {
            Which::Plain => &mut self.plain,
            Which::Services(number) => &mut self.services[number],
            Which::Most => &mut self.most,
            Which::Lru => &mut self.lru,
            Which::Features => &mut self.features,
            Which::Moving => &mut self.moving,
            Which::Traced => &mut self.traced,
        }
    }

    /// What is established by now stands in the old tables from now on.
    pub fn begin_to_move(&mut self) -> Result<()> {
        self.moving.begin_resize(FlowSizes { ipv4: 2 * SIZES.ipv4, wide: 2 * SIZES.wide })
    }

    /// Rounds of the sweeper as they will be, where flows are opened.
    pub fn sweep_in(&mut self, seconds: &[u32]) -> Result<()> {
        for director in [&mut self.plain, &mut self.features, &mut self.moving, &mut self.traced] {
            for seconds in seconds {
                director.sweep_in(*seconds)?;
            }
        }
        Ok(())
    }
}

/// Of TCP and of UDP.
fn both(vip: IpAddr) -> [Service; 2] {
    let service = of(vip, 2);
    [datagrams(&service), service]
}

fn of(vip: IpAddr, backends: u16) -> Service {
    service(vip, PORT, Scheduler::Rr, (1..=backends).map(|n| backend(vip, n)))
}

/// A service of each kind of packet.
fn plain() -> Desired {
    let persistent = |vip| {
        let mut service = of(vip, 2);
        service.options.persistence = Some(persistence());
        service
    };
    let behind = |vip| service(vip, PORT, Scheduler::Rr, [1001, 1002].map(|n| backend(vip, n)));
    let guarded = |mut service: Service| {
        service.options.guard = Guard::Rate(GUARD);
        service
    };
    let mut services = Vec::new();
    for vip in [VIP4, VIP6] {
        services.extend(both(vip));
    }
    services.extend(PERSISTENT.map(persistent));
    services.extend(RESETS.map(|vip| of(vip, 2)));
    services.extend(TAGGED.map(behind));
    for vip in GUARDED {
        services.extend(both(vip).map(guarded));
    }
    let tagged = services.iter().filter(|service| TAGGED.contains(&service.endpoint.address));
    let tagged: Vec<IpAddr> =
        tagged.flat_map(|service| &service.backends).map(|backend| backend.key.address).collect();
    let mut want = desired(services);
    let vlan = Tags::new(VID, 0);
    for (_, route) in want.hosts.iter_mut().filter(|(address, _)| tagged.contains(address)) {
        if let HostRoute::Neighbour { tags, .. } = route {
            *tags = vlan;
        }
    }
    want.links[0].tags = vec![vlan];
    want
}

fn persistence() -> Persistence {
    Persistence { timeout: PERSISTENCE, granularity: None, scope: Scope::Service }
}

/// So many services of two backends, each with destinations of its own.
fn many(services: u32) -> Desired {
    let one = |n: u16| service(VIP4, 1000 + n, Scheduler::Rr, (1..=2).map(|n| backend(VIP4, n)));
    desired((0..services as u16).map(one).collect())
}

/// Persistence, a guard, rules about clients, thresholds; beside it, on the same VIP, a service of a port range and one
/// of every other port; checks through the VIP.
fn everything() -> Result<Desired> {
    let mut exact = of(VIP4, 2);
    exact.options.persistence = Some(persistence());
    // Beyond what one CPU can open: the guard is asked, and lets everything pass.
    exact.options.guard = Guard::Rate(MAX_RATE);
    let rules = ["203.0.113.0/24 deny", "10.0.0.0/8 limit 100000/s burst 1000000"];
    exact.sources = rules
        .into_iter()
        .map(|text| rule(text).map_err(anyhow::Error::msg))
        .collect::<Result<_>>()
        .context("a rule")?;
    for backend in &mut exact.backends {
        (backend.upper_threshold, backend.lower_threshold) = (1 << 24, 1 << 23);
    }
    let beside = |port, last_port| {
        let mut service = of(VIP4, 2);
        service.endpoint = Endpoint { last_port, ..Endpoint::new(VIP4, port, Protocol::Tcp) };
        service.name = service.endpoint.default_name();
        service.backends.iter_mut().for_each(|backend| backend.key.port = port);
        service.options.persistence = Some(persistence());
        service
    };
    let want = desired(vec![exact, beside(4000, Some(4999)), beside(0, None)]);
    let link = want.links[0].name.clone();
    let probes = ProbeSpec { link, mac: DIRECTOR_MAC, sources: [OWN].into(), ports: 61000..=61999 };
    Ok(Desired { probes: Some(probes), ..want })
}
