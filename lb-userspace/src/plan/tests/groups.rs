//! Services of several endpoints, and port ranges.

use std::net::IpAddr;

use lb_common::endpoint::{
    Endpoint, filter,
    flag::{OPEN, RANGED, WILDCARD},
};

use super::{
    build::{desired, service},
    consistent,
    kernel::{Kernel, SIZES},
};
use crate::{
    model::{self, Protocol, Service},
    plan::{Census, EndpointKey, MapSizes, Op, PlanError, Snapshot, address_words, plan, reclaim},
};

const ONE: &str = "10.0.0.1";
const TWO: &str = "10.0.0.2";

fn at(last: u8, port: u16) -> model::Endpoint {
    model::Endpoint::new([192, 0, 2, last].into(), port, Protocol::Tcp)
}

fn range(last: u8, first_port: u16, last_port: u16) -> model::Endpoint {
    model::Endpoint { last_port: Some(last_port), ..at(last, first_port) }
}

fn with(group: &[model::Endpoint], service: Service) -> Service {
    Service { group: group.iter().copied().collect(), ..service }
}

fn change(kernel: &mut Kernel, services: &[Service]) -> Vec<Op> {
    let want = desired(services);
    let ops = plan(&want, &kernel.snapshot()).expect("a plan");
    kernel.apply(&ops);
    consistent::check_done(&kernel.snapshot());
    assert_eq!(plan(&want, &kernel.snapshot()), Ok(Vec::new()));
    ops
}

fn sweep(kernel: &mut Kernel, endpoints: &[u16]) {
    let census = Census { endpoints: endpoints.iter().copied().collect(), ..Census::default() };
    kernel.apply(&reclaim(&kernel.snapshot(), &census));
}

fn exact(now: &Snapshot, last: u8, port: u16) -> Option<Endpoint> {
    let key = EndpointKey { address: IpAddr::from([192, 0, 2, last]), port, protocol: Some(Protocol::Tcp) };
    now.endpoints.get(&key).copied()
}

/// As the program finds it (`lb-ebpf/src/endpoint.rs`): its port's own, and the wide one.
fn found(now: &Snapshot, last: u8, port: u16) -> (Option<Endpoint>, Option<Endpoint>) {
    let address = IpAddr::from([192, 0, 2, last]);
    let (word, shift) = filter::position(address_words(address));
    let bits = now.filter.get(&word).copied().unwrap_or(0) >> shift;
    if bits & (filter::ANY | filter::WILDCARD) == 0 {
        return (None, None);
    }
    let of = |key: &crate::plan::RangeKey| {
        let bits = u32::from(key.port) >> (16 - key.length) == u32::from(port) >> (16 - key.length);
        (key.address, key.protocol) == (address, Protocol::Tcp) && bits
    };
    let longest = now.ranges.iter().filter(|(key, _)| of(key)).max_by_key(|(key, _)| key.length);
    let wide = exact(now, last, 0).filter(|_| bits & filter::WILDCARD != 0);
    let wide = wide.map(|wide| match longest {
        Some((_, range)) if wide.has(RANGED) => *range,
        _ => wide,
    });
    (exact(now, last, port), wide)
}

/// The service that takes a new connection.
fn taker(now: &Snapshot, last: u8, port: u16) -> Option<String> {
    let (exact, wide) = found(now, last, port);
    let endpoint = exact.filter(|it| it.has(OPEN)).or(wide.filter(|it| it.has(OPEN)))?;
    Some(crate::plan::name_of(&now.services[&endpoint.service()].name))
}

#[test]
fn every_endpoint_of_a_group_leads_to_its_service() {
    let mut kernel = Kernel::new(SIZES);
    let web = with(&[at(1, 443), at(2, 80), range(3, 5000, 5100)], service("web", 80, &[ONE]));
    change(&mut kernel, &[web]);
    let now = kernel.snapshot();
    for (last, port) in [(1, 80), (1, 443), (2, 80), (3, 5000), (3, 5050), (3, 5100)] {
        assert_eq!(taker(&now, last, port).as_deref(), Some("web"), "{last}:{port}");
    }
    for (last, port) in [(1, 81), (2, 443), (3, 4999), (3, 5101), (3, 80), (4, 80)] {
        assert_eq!(taker(&now, last, port), None, "{last}:{port}");
    }
    assert_eq!((now.services.len(), now.dests.len()), (1, 1), "one service, one pool");
}

#[test]
fn a_port_goes_before_a_range_and_a_range_before_port_0() {
    let mut kernel = Kernel::new(SIZES);
    let mut ranged = service("range", 5000, &[ONE]);
    ranged.endpoint = range(1, 5000, 5100);
    change(&mut kernel, &[service("all", 0, &[ONE]), ranged, service("port", 5050, &[ONE])]);
    let now = kernel.snapshot();
    for (port, name) in [(5049, "range"), (5050, "port"), (5051, "range"), (4999, "all"), (5101, "all")] {
        assert_eq!(taker(&now, 1, port).as_deref(), Some(name), "{port}");
    }
    let (_, wide) = found(&now, 1, 5000);
    assert_eq!(wide.map(Endpoint::id), exact(&now, 1, 0).map(Endpoint::id), "one id of ranges and port 0");
}

#[test]
fn a_range_that_changes_keeps_its_id_and_what_it_lost_is_found_under_it() {
    let mut kernel = Kernel::new(SIZES);
    let group = |ranges: &[model::Endpoint], name| with(ranges, service(name, 80, &[ONE]));
    change(&mut kernel, &[group(&[range(2, 5000, 5100)], "a")]);
    let id = found(&kernel.snapshot(), 2, 5000).1.expect("there").id();
    // Another one gets a part, the rest is cut short.
    let mut other = service("b", 81, &[TWO]);
    other.group = [range(2, 5051, 5060)].into();
    change(&mut kernel, &[group(&[range(2, 5000, 5050)], "a"), other.clone()]);
    let now = kernel.snapshot();
    for (port, name) in [(5050, Some("a")), (5051, Some("b")), (5060, Some("b")), (5061, None)] {
        assert_eq!(taker(&now, 2, port).as_deref(), name, "{port}");
        let wide = found(&now, 2, port).1.expect("its flows are looked for");
        assert!(wide.id() == id && wide.has(WILDCARD), "{port}: {wide:?}");
    }
    // With the last range the port-0 endpoint becomes a tombstone, until the flows are gone.
    change(&mut kernel, &[group(&[], "a")]);
    sweep(&mut kernel, &[id]);
    let left = exact(&kernel.snapshot(), 2, 0).expect("a tombstone");
    assert!(left.id() == id && !left.has(OPEN) && !left.has(RANGED), "{left:?}");
    assert!(kernel.snapshot().services.contains_key(&left.service()));
    sweep(&mut kernel, &[]);
    assert_eq!(exact(&kernel.snapshot(), 2, 0), None);
    // While there are ranges the one that has their id is not freed, though it is not open.
    change(&mut kernel, &[other]);
    sweep(&mut kernel, &[]);
    assert_eq!(taker(&kernel.snapshot(), 2, 5055).as_deref(), Some("b"));
}

#[test]
fn another_first_endpoint_leaves_backends_and_their_ids() {
    let mut kernel = Kernel::new(SIZES);
    change(&mut kernel, &[with(&[at(1, 443)], service("web", 80, &[ONE, TWO]))]);
    let before: Vec<u32> = kernel.snapshot().dests.keys().copied().collect();
    let ops = change(&mut kernel, &[service("web", 443, &[ONE, TWO])]);
    let after = kernel.snapshot();
    assert!(after.dests.keys().eq(&before), "{ops:?}");
    assert!(after.dests.values().all(|dest| dest.flags == lb_common::dest::flag::USED));
    assert!(!exact(&after, 1, 80).expect("a tombstone").has(OPEN));
}

#[test]
fn endpoints_that_do_not_fit_are_refused_as_a_whole() {
    let kernel = Kernel::new(MapSizes { endpoints: 4, ..SIZES });
    let refused = |group: &[model::Endpoint]| {
        plan(&desired(&[with(group, service("a", 80, &[ONE]))]), &kernel.snapshot()).err()
    };
    assert_eq!(refused(&[at(1, 81), at(1, 82)]), None);
    assert_eq!(refused(&[at(1, 81), at(1, 82), at(1, 83)]), Some(PlanError::Endpoints(3)));
    // All ranges of an address have one id, and so has its port 0.
    assert_eq!(refused(&[at(1, 0), range(1, 10, 20), range(1, 30, 40), at(1, 82)]), None);
}
