//! The largest configuration that design.md names: 4,096 services of 16 backends.

use std::net::Ipv4Addr;

use super::{
    build::{desired, service},
    consistent,
    kernel::{Kernel, regions},
};
use crate::{
    model::{Endpoint, Protocol, Service},
    plan::{Census, MapSizes, Op, plan, reclaim},
};

const SERVICES: u16 = 4096;
const BACKENDS: u32 = 16;

fn large() -> Vec<Service> {
    (0..SERVICES)
        .map(|n| {
            let address = |i| Ipv4Addr::from(0x0a00_0000 + (u32::from(n) * 7 + i) % 4096).to_string();
            let addresses: Vec<String> = (0..BACKENDS).map(address).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let service = service(&format!("s{n}"), n + 1, &addresses);
            // Each fourth has a second address and a range of ports, all on one.
            let more = |port| Endpoint::new([192, 0, 2, 2].into(), port, Protocol::Tcp);
            let range = Endpoint { last_port: Some(20000 + n * 8 + 6), ..more(20000 + n * 8) };
            let group = if n % 4 == 0 { [more(n + 1), range].into() } else { [].into() };
            Service { group, ..service }
        })
        .collect()
}

/// Takes seconds if a step looks through everything once for each service, minutes for each backend.
#[test]
fn thousands_of_services_are_planned_changed_and_taken_away() {
    let sizes = MapSizes { services: 4097, dests: 65537, arena: 1 << 21, endpoints: 16385 };
    let mut kernel = Kernel::new(sizes);
    let mut want = desired(&large());
    let ops = plan(&want, &kernel.snapshot()).expect("a plan");
    kernel.apply(&ops);
    let count = |what: fn(&Op) -> bool| ops.iter().filter(|op| what(op)).count();
    assert_eq!(count(|op| matches!(op, Op::SetDest { fresh: true, .. })), 65536);
    assert_eq!(count(|op| matches!(op, Op::Publish { .. })), 4096);
    // 8 k to 8 k + 6 are three prefixes.
    assert_eq!(count(|op| matches!(op, Op::SetRange { .. })), 1024 * 3);
    consistent::check_done(&kernel.snapshot());
    assert_eq!(plan(&want, &kernel.snapshot()), Ok(Vec::new()));
    // A drain in each second service finds the arena full of holes in the end.
    want.services.iter_mut().step_by(2).for_each(|service| service.backends[0].drained = true);
    kernel.apply(&plan(&want, &kernel.snapshot()).expect("a plan"));
    consistent::check_done(&kernel.snapshot());
    let end = regions(&kernel.snapshot()).values().map(|(offset, length)| offset + length).max();
    assert!(end < Some(sizes.arena / 2));
    kernel.apply(&plan(&desired(&[]), &kernel.snapshot()).expect("a plan"));
    kernel.apply(&reclaim(&kernel.snapshot(), &Census::default()));
    assert!(kernel.snapshot().services.is_empty() && kernel.snapshot().dests.is_empty());
}

/// As many backends in all, and in each service, as there may be (`limits.destinations: 262144`).
#[test]
fn a_quarter_of_a_million_backends_are_planned_and_changed() {
    let address = |i: u32| Ipv4Addr::from(0x0a00_0000 + i).to_string();
    let addresses: Vec<String> = (0..1024).map(address).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let services: Vec<Service> = (0..256).map(|n| service(&format!("s{n}"), n + 1, &addresses)).collect();
    let sizes = MapSizes { services: 4097, dests: 262_145, arena: 262_144 * 24, endpoints: 16385 };
    let mut kernel = Kernel::new(sizes);
    let mut want = desired(&services);
    kernel.apply(&plan(&want, &kernel.snapshot()).expect("a plan"));
    let now = kernel.snapshot();
    assert_eq!(now.dests.len(), 262_144);
    // One of each service is drained: their generations are made anew, and nothing else.
    want.services.iter_mut().for_each(|service| service.backends[7].drained = true);
    let ops = plan(&want, &now).expect("a plan");
    let count = |what: fn(&Op) -> bool| ops.iter().filter(|op| what(op)).count();
    assert_eq!(count(|op| matches!(op, Op::SetDest { .. })), 256);
    assert_eq!(count(|op| matches!(op, Op::Publish { .. })), 256);
}
