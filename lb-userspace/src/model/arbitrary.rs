//! Random valid models, for property tests. Pools are small, so that names and keys meet often.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{timeouts::MAX_TIMEOUT, *};

pub(crate) fn models() -> impl Strategy<Value = Model> {
    let flows = (1..=64u32 << 20, prop_oneof![1..=9u32, Just(64 << 10)])
        .prop_map(|(ipv4, wide)| FlowSizes { ipv4, wide });
    let limits = (20..=65534u32, 100..=262_144u32, prop_oneof![Just(None), (100..=65534u32).prop_map(Some)])
        .prop_map(|(services, destinations, endpoints)| Limits {
            services,
            destinations,
            endpoints: endpoints.unwrap_or(Limits::default_endpoints(services)),
        });
    (
        vec(interfaces(), 1..4),
        option::of(select(vec!["eth0", "0x10", "~", "null", "e#1", "\"'"])),
        prop_oneof![Just(FlowSizes::default()), flows],
        prop_oneof![Just(Limits::default()), limits],
        prop_oneof![Just(Timeouts::default()), timeouts().prop_map(|own| Timeouts::default().with(own))],
        vec(services(), 0..6),
    )
        .prop_map(|(interfaces, add_to, flows, limits, timeouts, services)| Model {
            interfaces: unique(interfaces, |a, b| a.name == b.name),
            vips: VipPlacement { add_to: add_to.map(str::to_owned) },
            flows,
            limits,
            timeouts,
            services: unique(services, |a, b| a.name == b.name || collide(a, b)),
        })
}

fn interfaces() -> impl Strategy<Value = InterfaceSpec> {
    let name =
        prop_oneof!["[a-z]{1,5}[0-9]{0,3}(\\.[0-9]{1,4})?", "[!-.0-9;-~]{1,15}", Just("ütf".to_owned())]
            .prop_filter("no names of directories", |n| n != "." && n != "..");
    let mode = select(vec![AttachMode::Auto, AttachMode::Native, AttachMode::Generic]);
    (name, mode, select(vec![OffloadPolicy::Check, OffloadPolicy::Set]))
        .prop_map(|(name, mode, offloads)| InterfaceSpec { name, mode, offloads })
}

pub(crate) fn services() -> impl Strategy<Value = Service> {
    (option::of(names()), groups(), schedulers(), vec((0..6u8, backends()), 0..5), options()).prop_map(
        |(name, (endpoint, group), scheduler, backends, options)| {
            let backends = backends
                .into_iter()
                .map(|(n, backend)| Backend { key: backend_key(endpoint, n), ..backend })
                .collect();
            for_protocol(Service {
                name: name.unwrap_or_else(|| endpoint.default_name()),
                endpoint,
                group,
                scheduler,
                backends: unique(backends, |a: &Backend, b| a.key == b.key),
                options,
            })
        },
    )
}

fn collide(one: &Service, other: &Service) -> bool {
    one.endpoints().any(|endpoint| other.endpoints().any(|it| it.collides(endpoint)))
}

/// A first endpoint, and those of some more that may stand beside it.
fn groups() -> impl Strategy<Value = (Endpoint, BTreeSet<Endpoint>)> {
    (endpoints(), prop_oneof![2 => Just(Vec::new()), 1 => vec(endpoints(), 0..5)]).prop_map(
        |(first, more)| {
            let fits = |endpoint: &Endpoint| endpoint.address.is_ipv4() == first.address.is_ipv4();
            let all = std::iter::once(first).chain(more.into_iter().filter(fits)).collect();
            let kept: Vec<Endpoint> = unique(all, Endpoint::collides);
            (first, kept[1..].iter().copied().collect())
        },
    )
}

pub(crate) fn options() -> impl Strategy<Value = ServiceOptions> {
    let scope = select(vec![Scope::Service, Scope::Endpoint]);
    let persistence = (prop_oneof![Just(300), 1..=MAX_TIMEOUT], option::of(0..=32u8), scope)
        .prop_map(|(timeout, granularity, scope)| Persistence { timeout, granularity, scope });
    let nodest = select(ExpireNodest::ALL.to_vec());
    let reject = select(Reject::ALL.to_vec());
    let guard = prop_oneof![Just(Guard::Auto), Just(Guard::Off), (1..3_000_000u32).prop_map(Guard::Rate)];
    (timeouts(), option::of(persistence), nodest, reject, guard, any::<[bool; 3]>()).prop_map(
        |(
            timeouts,
            persistence,
            expire_nodest,
            reject,
            guard,
            [expire_quiescent_template, sloppy_tcp, ops],
        )| ServiceOptions {
            timeouts,
            persistence,
            expire_nodest,
            expire_quiescent_template,
            reject,
            guard,
            sloppy_tcp,
            ops,
        },
    )
}

/// Without what a service of its protocols cannot have.
fn for_protocol(mut service: Service) -> Service {
    service.options.sloppy_tcp &= service.has(Protocol::Tcp);
    service.options.ops &= service.has(Protocol::Udp);
    service
}

/// None, or some.
pub(crate) fn timeouts() -> impl Strategy<Value = PartialTimeouts> {
    let some = vec(option::of(prop_oneof![Just(900), Just(120), 1..=MAX_TIMEOUT]), 6).prop_map(|given| {
        let mut given = given.into_iter();
        PartialTimeouts::default().map(|_| given.next().flatten())
    });
    prop_oneof![Just(PartialTimeouts::default()), some]
}

pub(crate) fn names() -> impl Strategy<Value = ServiceName> {
    select(vec!["a", "b", "c", "mysql-read", "[x]", ":", "-", "1", "null", "a:", "no"])
        .prop_map(|n| ServiceName::new(n).expect("a valid name"))
}

pub(crate) fn schedulers() -> impl Strategy<Value = Scheduler> {
    (select(Scheduler::ALL.to_vec()), any::<bool>(), any::<bool>()).prop_map(|(scheduler, fallback, port)| {
        let flags = HashFlags { fallback, port };
        match scheduler {
            Scheduler::Sh(_) => Scheduler::Sh(flags),
            Scheduler::Mh(_) => Scheduler::Mh(flags),
            other => other,
        }
    })
}

pub(crate) fn endpoints() -> impl Strategy<Value = Endpoint> {
    let addresses: Vec<IpAddr> = ["192.0.2.1", "172.18.14.100", "fd00::", "2001:db8::1", "ff0::1"]
        .map(|a| a.parse().expect("valid"))
        .into();
    let ports = prop_oneof![
        3 => select(vec![0u16, 53, 3306]).prop_map(|port| (port, None)),
        1 => select(vec![(53, 60), (3000, 3306), (3306, 65535), (1, 2)])
            .prop_map(|(port, last)| (port, Some(last))),
    ];
    (select(addresses), ports, select(vec![Protocol::Tcp, Protocol::Udp]))
        .prop_map(|(address, (port, last_port), protocol)| Endpoint { address, port, protocol, last_port })
}

/// The `n`th possible backend of a service.
pub(crate) fn backend_key(endpoint: Endpoint, n: u8) -> BackendKey {
    let address = match endpoint.address {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, n + 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)).into(),
    };
    BackendKey { address, port: endpoint.port }
}

/// Backends whose key is still to be set.
pub(crate) fn backends() -> impl Strategy<Value = Backend> {
    let key = BackendKey { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 };
    let thresholds = prop_oneof![Just((0, 0)), (0..9u32).prop_flat_map(|u| (Just(u), 0..=u))];
    (prop_oneof![0..3u16, any::<u16>()], thresholds, any::<bool>()).prop_map(
        move |(weight, (upper, lower), drained)| Backend {
            key,
            weight,
            upper_threshold: upper,
            lower_threshold: lower,
            drained,
        },
    )
}

fn unique<T>(items: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if !kept.iter().any(|k| same(k, &item)) {
            kept.push(item);
        }
    }
    kept
}
