//! Changing services under traffic: new connections follow, established ones stay where they are.

use lb::{
    model::{ExpireNodest, Service},
    plan::{Desired, HostRoute},
};
use lb_common::{verdict::Verdict::*, vlan::Tags};
use lb_tests::xdp::Director;

use crate::world::*;

/// A service of every kind; what a removed backend had is dropped (`options.rs` has the other way).
fn every_kind_with(backends: &[u8]) -> Vec<Service> {
    let mut services = ALL_KINDS.map(|kind| kind.service(PORT, backends)).to_vec();
    services.iter_mut().for_each(|service| service.options.expire_nodest = ExpireNodest::Drop);
    services
}

/// A service of every kind with backends 1 and 2, and a connection to each: from ports 1001 and 1002.
fn busy() -> (Desired, Director) {
    let want = Desired { services: every_kind_with(&[1, 2]), ..lab() };
    let mut director = director(&want);
    for kind in ALL_KINDS {
        assert_eq!(open(&mut director, kind, 1001..1003), [1, 2]);
    }
    established(&mut director, [Ok(1), Ok(2)]);
    (want, director)
}

/// What becomes of packets in the middle of the two connections.
fn established(director: &mut Director, expected: [Result<u8, lb_common::verdict::Verdict>; 2]) {
    for kind in ALL_KINDS {
        let later = kind.later();
        let seen = [1001, 1002].map(|port| send(director, &later.from_port(port)));
        assert_eq!(seen, expected, "{}", kind.name);
    }
}

/// Where four new connections go.
fn new(director: &mut Director, ports: u16, expected: [u8; 4]) {
    for kind in ALL_KINDS {
        assert_eq!(open(director, kind, ports..ports + 4), expected, "{}", kind.name);
    }
}

#[test]
fn a_drained_backend_gets_nothing_new_and_keeps_what_it_has() {
    let (mut want, mut director) = busy();
    for service in &mut want.services {
        service.backends[0].drained = true;
    }
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Ok(2)]);
    new(&mut director, 2000, [2; 4]);
    for service in &mut want.services {
        service.backends[0].drained = false;
    }
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Ok(2)]);
    new(&mut director, 2010, [1, 2, 1, 2]);
}

#[test]
fn an_unresolved_backend_gets_nothing_new_until_its_mac_is_known() {
    let (mut want, mut director) = busy();
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(2), HostRoute::Unresolved);
    }
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Err(DroppedUnresolved)]);
    new(&mut director, 2000, [1; 4]);
    // Its NIC was swapped: another MAC, and its connections go on.
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(2), neighbour(7, ETH0, Tags::NONE));
    }
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Ok(7)]);
    new(&mut director, 2010, [7, 1, 7, 1]);
}

#[test]
fn flows_of_a_removed_backend_are_dropped_and_revive_with_it() {
    let (mut want, mut director) = busy();
    want.services = every_kind_with(&[1]);
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Err(DroppedBackendRemoved)]);
    new(&mut director, 2000, [1; 4]);
    // The sweeper frees no id that flows still name.
    director.sweep_in(0).expect("swept");
    established(&mut director, [Ok(1), Err(DroppedBackendRemoved)]);
    want.services = every_kind_with(&[2, 1]);
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Ok(2)]);
}

#[test]
fn a_backend_in_the_place_of_a_removed_one_gets_none_of_its_flows() {
    let (mut want, mut director) = busy();
    want.services = every_kind_with(&[1, 3]);
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Err(DroppedBackendRemoved)]);
    // When the flows are gone, so is the id, and the next backend may have it.
    director.sweep_in(1000).expect("swept");
    want.services = every_kind_with(&[1, 3, 4]);
    director.configure(&want).expect("configured");
    for kind in [TCP4, TCP6, SCTP4, SCTP6] {
        assert_eq!(send(&mut director, &kind.later().from_port(1002)), Err(DroppedNoFlow));
    }
}

#[test]
fn flows_of_a_deleted_service_go_on_and_new_ones_pass_to_the_stack() {
    let (mut want, mut director) = busy();
    let services = std::mem::take(&mut want.services);
    director.configure(&want).expect("configured");
    for round in 0..2u16 {
        established(&mut director, [Ok(1), Ok(2)]);
        for kind in [TCP4, TCP6, SCTP4, SCTP6] {
            assert_eq!(
                send(&mut director, &kind.open().from_port(2000)),
                Err(PassedNoService),
                "{}",
                kind.name
            );
            let unknown = kind.later().from_port(2000);
            assert_eq!(send(&mut director, &unknown), Err(PassedNoService), "{}", kind.name);
        }
        for kind in [UDP4, UDP6] {
            assert_eq!(send(&mut director, &kind.open().from_port(2000 + round)), Err(PassedNoService));
        }
        director.sweep_in(0).expect("swept");
    }
    // It comes back before they have ended.
    want.services = services;
    director.configure(&want).expect("configured");
    established(&mut director, [Ok(1), Ok(2)]);
    new(&mut director, 3000, [1, 2, 1, 2]);
}

#[test]
fn a_removed_backend_stays_so_when_its_service_is_deleted() {
    let (mut want, mut director) = busy();
    want.services = every_kind_with(&[1]);
    for services in [want.services.clone(), Vec::new(), want.services.clone()] {
        want.services = services;
        director.configure(&want).expect("configured");
        established(&mut director, [Ok(1), Err(DroppedBackendRemoved)]);
    }
}

#[test]
fn nothing_is_left_of_a_deleted_service_when_its_flows_have_ended() {
    let (mut want, mut director) = busy();
    want.services.clear();
    director.configure(&want).expect("configured");
    director.sweep_in(2000).expect("swept");
    let left = director.maps().snapshot().expect("a snapshot");
    assert_eq!((left.dests.len(), left.hosts.len(), left.services.len()), (0, 0, 0));
    // What no endpoint stands on any more goes with the next plan.
    director.configure(&want).expect("configured");
    let left = director.maps().snapshot().expect("a snapshot");
    assert!(left.endpoints.is_empty() && left.filter.is_empty(), "{left:?}");
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &kind.later().from_port(1001)), Err(PassedNoService), "{}", kind.name);
    }
}
