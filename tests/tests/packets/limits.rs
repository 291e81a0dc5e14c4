//! As much as is promised, at once: 4,096 services, 262,144 destinations in all, 1,024 backends of one service. Where a
//! connection goes is worked out here anew, by the schedulers' formulas.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
};

use lb::{
    model::{
        Backend, BackendKey, FlowSizes, HashFlags, Limits,
        Scheduler::{self, *},
        Service, Timeouts,
    },
    plan::{Desired, HostRoute, dest_address},
};
use lb_common::{
    dest::MAX_DESTS,
    generation::MAX_MEMBERS,
    hashed::{MH_KEYS, siphash},
    tcp::flag::*,
    vlan::Tags,
};
use lb_tests::{packet::Mac, xdp::Director};

use crate::world::*;

const SERVICES: u32 = 4096;
const LIMITS: Limits = Limits { services: SERVICES, destinations: MAX_DESTS, endpoints: SERVICES };
/// Every connection has room.
const FLOWS: FlowSizes = FlowSizes { ipv4: 1 << 14, wide: 16 };
/// The service that has as many backends as one may have.
const LARGE: u32 = SERVICES - 1;
/// Service 0's.
const FIRST_PORT: u16 = 20_000;
/// Seconds
const DAY: u32 = 86_400;
/// `XDP_TX`
const TX: u32 = 3;

/// A backend is one of several services; each has a destination for it.
fn address(backend: u32) -> IpAddr {
    Ipv4Addr::from(0xac13_0000 + backend).into()
}

fn mac(backend: u32) -> Mac {
    let [.., high, low] = backend.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

fn weight(backend: u32) -> u16 {
    1 + (backend % 3) as u16
}

fn port(service: u32) -> u16 {
    FIRST_PORT + service as u16
}

/// The backends of a service in walk order. All together use up the destinations.
fn backends(service: u32) -> impl Iterator<Item = u32> + Clone {
    let (others, left) = (SERVICES - 1, MAX_DESTS - MAX_MEMBERS);
    let each = left / others + u32::from(service < left % others);
    let (first, size) = if service == LARGE { (0, MAX_MEMBERS) } else { (service * 7, each) };
    (first..first + size).map(|backend| backend % MAX_MEMBERS)
}

fn service(number: u32, scheduler: Scheduler) -> Service {
    let backend = |backend| Backend {
        key: BackendKey { address: address(backend), port: port(number) },
        weight: weight(backend),
        ..TCP4.service(PORT, &[1]).backends[0].clone()
    };
    Service {
        scheduler,
        backends: backends(number).map(backend).collect(),
        ..TCP4.service(port(number), &[])
    }
}

/// The large service has this scheduler, the others have rr.
fn want(scheduler: Scheduler) -> Desired {
    let route = |backend| HostRoute::Neighbour {
        mac: mac(backend),
        answers: true,
        link: ETH0.to_owned(),
        tags: Tags::NONE,
        mtu: 1500,
    };
    let services = (0..LARGE).map(|number| service(number, Rr)).chain([service(LARGE, scheduler)]);
    Desired {
        services: services.collect(),
        // Nothing ends of itself, however slow the machine is.
        timeouts: Timeouts::default().map(|_| DAY),
        hosts: (0..MAX_MEMBERS).map(|backend| (address(backend), route(backend))).collect(),
        ..lab()
    }
}

/// Sends a client's packet to a service: the backend that it went to.
fn send(director: &mut Director, client: u32, service: u32, flags: u8) -> u32 {
    let packet = TCP4.open().flags(flags).with(|packet| {
        packet.source = SocketAddr::new(Ipv4Addr::from(client).into(), CLIENT_PORT);
        packet.dest.set_port(port(service));
    });
    let (action, frame) = director.send(&packet.bytes(), None).expect("ran");
    assert_eq!(action, TX, "{client:#x} to {service}");
    let backend = u32::from(u16::from_be_bytes([frame[4], frame[5]]));
    assert_eq!(frame[..6], mac(backend), "sent to nobody's MAC");
    backend
}

/// Active and inactive connections of the large service's backends, as they have to be.
struct Loads(Vec<(u64, u64)>);

impl Loads {
    fn opened(&mut self, backend: u32) {
        self.0[backend as usize].0 += 1;
    }

    /// Client and director see the connection through.
    fn close(&mut self, director: &mut Director, client: u32, backend: u32) {
        for flags in [ACK, FIN | ACK] {
            assert_eq!(send(director, client, LARGE, flags), backend, "an established flow stays");
        }
        let (active, inactive) = &mut self.0[backend as usize];
        (*active, *inactive) = (*active - 1, *inactive + 1);
    }

    /// Whose turn it is with a scheduler that looks at every backend; of equal ones the first.
    fn due(&self, scheduler: Scheduler) -> u32 {
        let active = |backend: u32| self.0[backend as usize].0;
        // `ip_vs_dest_conn_overhead`
        let overhead = |backend: u32| 256 * active(backend) + active(backend) + self.0[backend as usize].1;
        let all = || backends(LARGE);
        match scheduler {
            Lc => Self::least(all(), overhead, |_| 1),
            // `ip_vs_nq_schedule`: whoever is idle, else as sed.
            Nq if all().any(|backend| active(backend) == 0) => {
                all().find(|backend| active(*backend) == 0).expect("there is one")
            }
            // `ip_vs_sed_dest_overhead`
            Nq | Sed => Self::least(all(), |backend| active(backend) + 1, weight),
            // `ip_vs_fo_schedule`: of the highest weight.
            Fo => Self::least(all(), |_| 1, weight),
            // `ip_vs_ovf_schedule`: of the highest weight, but who has more active connections than its weight.
            Ovf => {
                let room = all().filter(|backend| active(*backend) <= u64::from(weight(*backend)));
                Self::least(room, |_| 1, weight)
            }
            _ => Self::least(all(), overhead, weight),
        }
    }

    /// The least load / weight.
    fn least(of: impl Iterator<Item = u32>, load: impl Fn(u32) -> u64, weight: impl Fn(u32) -> u16) -> u32 {
        let better = |best: u32, next: u32| {
            let (mine, other) = (load(best) * u64::from(weight(next)), load(next) * u64::from(weight(best)));
            if other < mine { next } else { best }
        };
        of.reduce(better).expect("a backend")
    }
}

/// `ip_vs_mh.c`: each backend in turn takes the next entries of its permutation that are free, as many as it has weight.
struct Maglev(Vec<u32>);

impl Maglev {
    const ENTRIES: u32 = 4093;

    fn new() -> Self {
        let mut ways: Vec<_> = backends(LARGE)
            .map(|backend| {
                let IpAddr::V4(address) = address(backend) else { panic!("an IPv6 address") };
                let key = address.to_bits() + u32::from(port(LARGE));
                let skip = siphash(MH_KEYS[1], key) % (Self::ENTRIES - 1) + 1;
                (backend, (0..Self::ENTRIES).map(move |i| Self::at(key, i * skip)))
            })
            .collect();
        let mut table = BTreeMap::new();
        'full: loop {
            for (backend, way) in &mut ways {
                for _ in 0..weight(*backend) {
                    let free =
                        way.find(|at| !table.contains_key(at)).expect("the way leads through all entries");
                    table.insert(free, *backend);
                    if table.len() == Self::ENTRIES as usize {
                        break 'full;
                    }
                }
            }
        }
        Self(table.into_values().collect())
    }

    fn at(key: u32, further: u32) -> u32 {
        (siphash(MH_KEYS[0], key) % Self::ENTRIES + further % Self::ENTRIES) % Self::ENTRIES
    }

    /// Ports are not hashed.
    fn backend(&self, client: u32) -> u32 {
        self.0[Self::at(client, 0) as usize]
    }
}

/// What the sweeper leaves is what there is, and what this test knows of the large service.
fn sweep(director: &mut Director, loads: &Loads) {
    assert_eq!(director.sweep_in(0).expect("swept"), 0, "nothing is due");
    let [counted, recount] = recounted(director);
    assert_eq!(counted.len(), MAX_DESTS as usize);
    assert!(counted == recount, "counts differ from a recount");
    let dests = director.maps().snapshot().expect("a snapshot").dests;
    let large: BTreeMap<_, _> = dests
        .iter()
        .filter(|(_, dest)| dest.port == port(LARGE).to_be_bytes())
        .map(|(id, dest)| (dest_address(dest), counted[id]))
        .collect();
    let known = (0..).map(address).zip(loads.0.iter().copied()).collect();
    assert_eq!(large, known);
}

/// By a scheduler that looks at every backend: where each client's connection is due. A fifth of them end.
fn connect(director: &mut Director, loads: &mut Loads, scheduler: Scheduler, clients: Range<u32>) {
    for client in clients {
        let backend = loads.due(scheduler);
        assert_eq!(send(director, client, LARGE, SYN), backend, "{scheduler}, {client:#x}");
        loads.opened(backend);
        if client % 5 == 0 {
            loads.close(director, client, backend);
        }
    }
}

/// Of a service that is alone: 32 turns of 32 backends.
#[test]
fn every_one_of_a_thousand_backends_is_looked_at() {
    let alone = |scheduler| {
        let mut want = want(scheduler);
        want.services.drain(..LARGE as usize);
        want
    };
    let limits = Limits { services: 1, destinations: MAX_MEMBERS, endpoints: 1 };
    let mut director = Director::with_limits(FLOWS, limits, &alone(Ovf)).expect("a director");
    let mut loads = Loads(vec![(0, 0); MAX_MEMBERS as usize]);
    for (scheduler, first) in [Ovf, Lc, Sed, Nq, Fo, Wlc].into_iter().zip((0x0a03_0000..).step_by(0x1000)) {
        director.configure(&alone(scheduler)).expect("configured");
        connect(&mut director, &mut loads, scheduler, first..first + 1100);
    }
}

/// Applying a model plans it anew, which must then give nothing ([`Director::configure`]).
#[test]
fn as_much_as_is_promised_at_once() {
    let mut director = Director::with_limits(FLOWS, LIMITS, &want(Rr)).expect("a director");
    let mut loads = Loads(vec![(0, 0); MAX_MEMBERS as usize]);
    // Each of the others leads to its own backends.
    for service in 0..LARGE {
        let first = backends(service).next().expect("a backend");
        assert_eq!(send(&mut director, 0x0a01_0000 + service, service, SYN), first, "service {service}");
    }
    // rr: round, and round again.
    for (client, backend) in (0x0a02_0000..).zip(backends(LARGE).cycle().take(2100)) {
        assert_eq!(send(&mut director, client, LARGE, SYN), backend, "rr, {client:#x}");
        loads.opened(backend);
        if client % 3 == 0 {
            loads.close(&mut director, client, backend);
        }
    }
    sweep(&mut director, &loads);

    director.configure(&want(Wlc)).expect("wlc");
    connect(&mut director, &mut loads, Wlc, 0x0a03_0000..0x0a03_0000 + 2100);
    sweep(&mut director, &loads);

    director.configure(&want(Mh(HashFlags::default()))).expect("mh");
    let table = Maglev::new();
    for client in 0x0a04_0000..0x0a04_0000 + 2100 {
        let backend = table.backend(client);
        assert_eq!(send(&mut director, client, LARGE, SYN), backend, "mh, {client:#x}");
        loads.opened(backend);
    }
    sweep(&mut director, &loads);

    // And in the end nothing is left of the connections.
    assert_eq!(director.sweep_in(DAY + 1).expect("swept"), u64::from(LARGE) + 3 * 2100);
    assert!(slots(&director).is_empty());
    let [counted, _] = recounted(&director);
    assert!(counted.values().all(|counts| *counts == (0, 0)), "counted without a connection");
}
