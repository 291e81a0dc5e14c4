//! Generator, director and sink: a namespace each, with a pair of links between them for each way to forward, so that
//! all ways stand ready at once and rounds can take turns.
//!
//! ```text
//! generator  gN ──── inN  director  outN ──── sN  sink (XDP, counts)
//! ```

use anyhow::Result;
use aya::programs::XdpMode;
use lb::{
    model::{FlowSizes, Limits, Scheduler},
    plan::{Desired, HostRoute, LinkSpec},
};
use lb_tests::{
    feeder::{End, Feeder},
    netns::Netns,
    scope::Scope,
    xdp::Director,
    xdp_pass,
};

use crate::world::{DIRECTOR_MAC, PORT, VIP4, VIP6, backend, datagrams, desired, service};

/// Rated for twice as many flows as there are.
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 10 };
const LIMITS: Limits = Limits { services: 64, destinations: 256, endpoints: 256 };

/// What takes frames from one link to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing does: the director's end of the first link is the sink.
    Drop,
    /// New MACs, and out.
    Bare,
    /// The program under test.
    Ours,
    /// The kernel, by its routes.
    Kernel,
}

const WAYS: [Way; 4] = [Way::Drop, Way::Bare, Way::Ours, Way::Kernel];

impl Way {
    fn number(self) -> u32 {
        self as u32
    }

    /// Index of the first link's ends, in their namespaces.
    pub fn first(self) -> u32 {
        10 + self.number()
    }

    /// Of the second link's.
    fn second(self) -> u32 {
        20 + self.number()
    }
}

/// The namespaces, and the program under test in its place.
pub struct Wire {
    // In the order of their taking down: what is attached goes with its owner.
    pub feeder: Feeder,
    pub ours: Director,
    generator: Netns,
    _director: Netns,
    _sink: Netns,
    _scope: Scope,
}

impl Wire {
    pub fn build() -> Result<Self> {
        let scope = Scope::unique()?;
        let [generator, director, sink] = ["generator", "director", "sink"]
            .map(|role| Netns::create(&scope.netns_name(role), scope.lifetime()));
        let (generator, director, sink) = (generator?, director?, sink?);
        for netns in [&generator, &director, &sink] {
            // No frame that nobody has sent.
            netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        WAYS.iter().try_for_each(|way| connect(*way, &generator, &director, &sink))?;
        route(&director, &scope)?;

        let mut feeder = Feeder::new()?;
        sink.enter(|| {
            let ways = WAYS.iter().filter(|way| **way != Way::Drop);
            ways.into_iter().try_for_each(|way| feeder.attach(End::Sink, way.second()))
        })??;
        let ours = director.enter(|| -> Result<_> {
            feeder.attach(End::Sink, Way::Drop.first())?;
            feeder.attach(End::Redirect, Way::Bare.first())?;
            feeder.redirect_to(Way::Bare.second())?;
            // The device map takes devices of the namespace that it is filled in.
            let mut ours = Director::with_limits(SIZES, LIMITS, &wanted())?;
            ours.program()?.attach_to_if_index(Way::Ours.first(), XdpMode::Driver)?;
            Ok(ours)
        })??;
        Ok(Self { feeder, ours, generator, _director: director, _sink: sink, _scope: scope })
    }

    /// On a thread in the generator's namespace.
    pub fn at_generator<T: Send>(&mut self, work: impl FnOnce(&mut Feeder) -> T + Send) -> Result<T> {
        let Self { feeder, generator, .. } = self;
        generator.enter(|| work(feeder))
    }
}

/// Both links of a way.
fn connect(way: Way, generator: &Netns, director: &Netns, sink: &Netns) -> Result<()> {
    let (n, first, second) = (way.number(), way.first(), way.second());
    let [a, b, c, d, e, f] = DIRECTOR_MAC;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    director.ip(&format!(
        "link add in{n} index {first} address {mac} type veth peer name g{n} index {first} netns {}\n\
         link add out{n} index {second} type veth peer name s{n} index {second} netns {}\n\
         link set in{n} up\nlink set out{n} up\n",
        generator.name(),
        sink.name(),
    ))?;
    generator.ip(&format!("link set g{n} up"))?;
    sink.ip(&format!("link set s{n} up"))
}

/// The kernel's way to the VIP. Its first link needs a program to take XDP's frames at all.
fn route(director: &Netns, scope: &Scope) -> Result<()> {
    let n = Way::Kernel.number();
    for scope in ["all", "default", &format!("in{n}")] {
        director.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
    }
    director.sysctl("ipv4/ip_forward", "1")?;
    director.ip(&format!(
        "addr add 172.18.15.1/24 dev out{n}\n\
         neigh add 172.18.15.2 lladdr 02:00:00:00:0b:01 dev out{n} nud permanent\n\
         route add {VIP4} via 172.18.15.2 dev out{n}\n"
    ))?;
    xdp_pass::attach(director, &format!("in{n}"), &scope.bpffs(), "xdp_pass", &xdp_pass::PASS)
}

/// The service, its backends behind the second link.
fn wanted() -> Desired {
    let services = [VIP4, VIP6].map(|vip| service(vip, PORT, Scheduler::Rr, [1, 2].map(|n| backend(vip, n))));
    let udp = services.each_ref().map(datagrams);
    let mut want = desired(services.into_iter().chain(udp).collect());
    let out = LinkSpec { name: "out".to_owned(), ifindex: Way::Ours.second(), ..want.links[0].clone() };
    want.links[0].ifindex = Way::Ours.first();
    for route in want.hosts.values_mut() {
        if let HostRoute::Neighbour { link, .. } = route {
            link.clone_from(&out.name);
        }
    }
    want.links.push(out);
    want
}
