//! Single things that an operator does.

use std::net::IpAddr;

use lb_common::{
    dest::flag::*,
    endpoint::flag::OPEN,
    generation::{Header, at},
    host::Route,
    tcp::State,
    tick,
};

use super::{
    build::{desired, link, neighbour, service},
    kernel::{Kernel, SIZES},
};
use crate::{
    model::{ExpireNodest, Persistence, Protocol, Reject, Scope, ServiceOptions},
    plan::{
        ByHealth, Census, Desired, EndpointKey, HostRoute, Op, Snapshot, dest_address, name_of, plan,
        reclaim, rotation::Words,
    },
};

fn kernel_with(want: &Desired) -> Kernel {
    let mut kernel = Kernel::new(SIZES);
    change(&mut kernel, want);
    kernel
}

fn change(kernel: &mut Kernel, want: &Desired) -> Vec<Op> {
    let ops = plan(want, &kernel.snapshot()).expect("a plan");
    kernel.apply(&ops);
    ops
}

/// Id and flags of the backend's destination.
fn dest(now: &Snapshot, address: &str) -> Option<(u32, u16)> {
    let address: IpAddr = address.parse().expect("an address");
    let found = now.dests.iter().find(|(_, dest)| dest_address(dest) == address);
    found.map(|(id, dest)| (*id, dest.flags & !IPV6))
}

/// Nothing is in use but this destination and endpoint.
fn used(dests: &[u32], endpoints: &[u16]) -> Census {
    Census { dests: dests.iter().copied().collect(), endpoints: endpoints.iter().copied().collect() }
}

fn endpoint(now: &Snapshot, want: &Desired) -> Option<lb_common::endpoint::Endpoint> {
    let at = want.services[0].endpoint;
    now.endpoints
        .get(&EndpointKey { address: at.address, port: at.port, protocol: Some(at.protocol) })
        .copied()
}

const ONE: &str = "10.0.0.1";
const TWO: &str = "10.0.0.2";
const THREE: &str = "10.0.0.3";

#[test]
fn a_services_own_timeouts_come_before_the_global_ones() {
    let mut want = desired(&[service("a", 80, &[ONE]), service("b", 81, &[ONE])]);
    want.timeouts.udp = 7;
    want.services[0].options.timeouts.tcp = Some(60);
    let mut kernel = kernel_with(&want);
    let ticks = |kernel: &Kernel, name: &str, state: State| {
        let now = kernel.snapshot();
        let record = now.services.values().find(|record| name_of(&record.name) == name).expect("there");
        record.timeouts[usize::from(state.0)]
    };
    for (name, state, seconds) in [
        ("a", State::ESTABLISHED, 60),
        ("a", State::UDP, 7),
        ("a", State::TIME_WAIT, 120),
        ("b", State::ESTABLISHED, 900),
    ] {
        assert_eq!(ticks(&kernel, name, state), tick::ticks(seconds, want.hz), "{name} {}", state.name());
    }
    want.services[0].options.timeouts.tcp = None;
    let ops = change(&mut kernel, &want);
    assert!(matches!(ops[..], [Op::SetService { fresh: false, .. }]), "{ops:?}");
    assert_eq!(ticks(&kernel, "a", State::ESTABLISHED), tick::ticks(900, want.hz));
}

#[test]
fn options_become_flags() {
    use lb_common::service::{
        self,
        flag::{
            APART, ASSURES, EXPIRE_QUIESCENT, ONE_PACKET, RESCHEDULE, RESCHEDULE_UDP, RESET_NODEST,
            SLOPPY_TCP, USED,
        },
    };
    const ALWAYS: u32 = USED | RESCHEDULE | RESCHEDULE_UDP;
    for (protocol, expire_nodest, sloppy_tcp, ops, flags) in [
        (Protocol::Tcp, ExpireNodest::Auto, false, false, USED | RESCHEDULE_UDP),
        (Protocol::Tcp, ExpireNodest::Drop, true, false, USED | SLOPPY_TCP),
        (Protocol::Tcp, ExpireNodest::Reschedule, false, false, ALWAYS),
        (Protocol::Tcp, ExpireNodest::Reset, false, false, ALWAYS | RESET_NODEST),
        (Protocol::Udp, ExpireNodest::Auto, false, false, USED | RESCHEDULE_UDP),
        (Protocol::Udp, ExpireNodest::Drop, false, true, USED | ONE_PACKET),
    ] {
        let mut want = desired(&[service("a", 80, &[ONE])]);
        want.services[0].endpoint.protocol = protocol;
        want.services[0].options =
            ServiceOptions { expire_nodest, sloppy_tcp, ops, ..ServiceOptions::default() };
        let now = kernel_with(&want).snapshot();
        let found: Vec<u32> = now.services.values().map(|record| record.flags).collect();
        let assures = if protocol == Protocol::Tcp { ASSURES } else { 0 };
        assert_eq!(found, [flags | assures], "{:?}", want.services[0].options);
    }
    let mut want = desired(&[service("a", 80, &[ONE])]);
    for (scope, flags) in [(Scope::Service, 0), (Scope::Endpoint, APART)] {
        want.services[0].options.persistence = Some(Persistence { timeout: 300, granularity: None, scope });
        let now = kernel_with(&want).snapshot();
        assert!(now.services.values().all(|record| record.flags & APART == flags), "{scope}");
    }
    want.services[0].options.expire_quiescent_template = true;
    let now = kernel_with(&want).snapshot();
    assert!(now.services.values().all(|record| record.flags & EXPIRE_QUIESCENT != 0));
    for (reject, bits) in Reject::ALL.into_iter().zip([
        service::Reject::ICMP,
        service::Reject::RESET,
        service::Reject::DROP,
        service::Reject::PASS,
    ]) {
        let mut want = desired(&[service("a", 80, &[ONE])]);
        want.services[0].options = ServiceOptions { reject, ..ServiceOptions::default() };
        let now = kernel_with(&want).snapshot();
        let found: Vec<_> = now.services.values().map(|record| service::Reject::of(record.flags)).collect();
        assert_eq!(found, [bits], "{reject}");
    }
}

#[test]
fn a_backend_taken_out_and_added_again_gets_its_old_id() {
    let all = desired(&[service("a", 80, &[ONE, TWO])]);
    let mut kernel = kernel_with(&all);
    let before = dest(&kernel.snapshot(), ONE);
    change(&mut kernel, &desired(&[service("a", 80, &[TWO])]));
    assert_eq!(dest(&kernel.snapshot(), ONE), before.map(|(id, flags)| (id, flags | RETIRED)));
    // Another one that comes meanwhile does not get it.
    change(&mut kernel, &desired(&[service("a", 80, &[TWO, THREE])]));
    let ops = change(&mut kernel, &desired(&[service("a", 80, &[ONE, TWO, THREE])]));
    assert_eq!(dest(&kernel.snapshot(), ONE), before);
    // Its counts go on.
    assert!(!ops.iter().any(|op| matches!(op, Op::SetDest { fresh: true, .. })));
}

#[test]
fn an_id_in_use_is_not_given_out() {
    let mut kernel = kernel_with(&desired(&[service("a", 80, &[ONE, TWO])]));
    let (one, _) = dest(&kernel.snapshot(), ONE).expect("there");
    change(&mut kernel, &desired(&[service("a", 80, &[TWO])]));
    let free = reclaim(&kernel.snapshot(), &used(&[one], &[]));
    assert_eq!(free, [], "a flow still names it");
    change(&mut kernel, &desired(&[service("a", 80, &[TWO, THREE])]));
    assert_ne!(dest(&kernel.snapshot(), THREE).map(|(id, _)| id), Some(one));
    kernel.apply(&reclaim(&kernel.snapshot(), &used(&[], &[])));
    assert_eq!(dest(&kernel.snapshot(), ONE), None);
    change(&mut kernel, &desired(&[service("a", 80, &[TWO, THREE, "10.0.0.4"])]));
    assert_eq!(dest(&kernel.snapshot(), "10.0.0.4").map(|(id, _)| id), Some(one), "free again");
}

#[test]
fn a_deleted_service_is_a_tombstone_until_its_flows_are_gone() {
    let want = desired(&[service("a", 80, &[ONE])]);
    let mut kernel = kernel_with(&want);
    let before = endpoint(&kernel.snapshot(), &want).expect("there");
    let (one, _) = dest(&kernel.snapshot(), ONE).expect("there");
    change(&mut kernel, &desired(&[]));
    let tombstone = endpoint(&kernel.snapshot(), &want).expect("still there");
    assert_eq!((tombstone.id(), tombstone.has(OPEN)), (before.id(), false));
    // Its flows go on.
    assert_eq!(dest(&kernel.snapshot(), ONE), Some((one, USED | ORPHANED)));
    assert_eq!(reclaim(&kernel.snapshot(), &used(&[one], &[before.id()])), []);
    kernel.apply(&reclaim(&kernel.snapshot(), &used(&[], &[])));
    change(&mut kernel, &desired(&[]));
    let left = kernel.snapshot();
    assert!(left.endpoints.is_empty() && left.services.is_empty() && left.hosts.is_empty());
    assert!(left.filter.is_empty());
}

#[test]
fn a_deleted_service_that_comes_back_is_the_old_one() {
    let want = desired(&[service("a", 80, &[ONE])]);
    let mut kernel = kernel_with(&want);
    let before = kernel.snapshot();
    change(&mut kernel, &desired(&[]));
    change(&mut kernel, &want);
    let after = kernel.snapshot();
    assert_eq!((after.endpoints, after.dests), (before.endpoints, before.dests));
    assert!(after.services.keys().eq(before.services.keys()));
}

#[test]
fn a_removed_backend_stays_removed_when_its_service_goes() {
    let mut kernel = kernel_with(&desired(&[service("a", 80, &[ONE, TWO])]));
    change(&mut kernel, &desired(&[service("a", 80, &[TWO])]));
    change(&mut kernel, &desired(&[]));
    // Else its flows, which have got nothing since, would go on.
    assert_eq!(dest(&kernel.snapshot(), ONE).map(|(_, flags)| flags), Some(USED | RETIRED));
    assert_eq!(dest(&kernel.snapshot(), TWO).map(|(_, flags)| flags), Some(USED | ORPHANED));
    assert_eq!(plan(&desired(&[]), &kernel.snapshot()), Ok(Vec::new()));
}

#[test]
fn a_renamed_service_keeps_its_flows() {
    let want = desired(&[service("a", 80, &[ONE])]);
    let mut kernel = kernel_with(&want);
    let before = endpoint(&kernel.snapshot(), &want).expect("there");
    change(&mut kernel, &desired(&[service("b", 80, &[ONE])]));
    let after = endpoint(&kernel.snapshot(), &want).expect("there");
    assert_eq!((after.id(), after.has(OPEN)), (before.id(), true));
    assert_ne!(after.service(), before.service());
    assert!(kernel.snapshot().dests.values().any(|dest| dest.flags & ORPHANED != 0));
}

#[test]
fn addresses_of_both_families_with_the_same_bytes_are_two_hosts() {
    // 32.1.13.184 is 2001:0db8.
    let services = [service("a", 80, &["32.1.13.184"]), service("b", 80, &["2001:db8::"])];
    let kernel = kernel_with(&desired(&services));
    let now = kernel.snapshot();
    for (address, mac) in [("32.1.13.184", [2, 0, 0, 0, 0, 184]), ("2001:db8::", [2, 0, 0, 0, 1, 0])] {
        let (id, _) = dest(&now, address).expect("there");
        assert_eq!(Route(now.hosts[&now.dests[&id].host].route).mac(), mac, "{address}");
    }
    assert_eq!(plan(&desired(&services), &now), Ok(Vec::new()));
}

#[test]
fn what_is_left_of_a_deleted_service_follows_its_host() {
    let mut kernel = kernel_with(&desired(&[service("a", 80, &[ONE])]));
    let mut nothing = desired(&[]);
    change(&mut kernel, &nothing);
    let mac =
        |kernel: &Kernel| kernel.snapshot().hosts.values().map(|h| Route(h.route).mac()).collect::<Vec<_>>();
    assert_eq!(mac(&kernel), [[2, 0, 0, 0, 0, 1]], "as it was: nobody knows better");
    let address: IpAddr = ONE.parse().expect("an address");
    let HostRoute::Neighbour { link: name, tags, mtu, .. } = neighbour(address) else {
        unreachable!("made so")
    };
    let moved = HostRoute::Neighbour { mac: [2, 9, 9, 9, 9, 9], answers: true, link: name, tags, mtu };
    nothing.hosts.insert(address, moved);
    change(&mut kernel, &nothing);
    assert_eq!(mac(&kernel), [[2, 9, 9, 9, 9, 9]]);
    // Its interface goes, and another one gets the index.
    nothing.hosts.clear();
    nothing.links = vec![link("eth1", 7)];
    change(&mut kernel, &nothing);
    assert!(kernel.snapshot().hosts.values().all(|host| Route(host.route) == Route::UNRESOLVED));
}

#[test]
fn a_backend_without_a_mac_gets_no_new_connections() {
    let mut want = desired(&[service("a", 80, &[ONE, TWO])]);
    let mut kernel = kernel_with(&want);
    let period = |kernel: &Kernel| {
        let now = kernel.snapshot();
        let words = &now.regions[now.services.keys().next().expect("a service")];
        Header::from_words([words[0], words[1]]).period
    };
    assert_eq!(period(&kernel), 2);
    let address: IpAddr = ONE.parse().expect("an address");
    want.hosts.insert(address, HostRoute::Unresolved);
    change(&mut kernel, &want);
    assert_eq!(period(&kernel), 1);
    want.hosts.remove(&address);
    assert_eq!(plan(&want, &kernel.snapshot()), Ok(Vec::new()), "not known is not resolved");
}

#[test]
fn a_rotation_goes_on_when_its_service_changes() {
    let mut kernel = kernel_with(&desired(&[service("a", 80, &[ONE, TWO, THREE])]));
    let next = |kernel: &Kernel| {
        let now = kernel.snapshot();
        let (id, words) = now.regions.first_key_value().expect("a service");
        let header = Header::from_words([words[0], words[1]]);
        let position = now.rotations[id] % u64::from(header.period);
        let id = at(&Words(words), 0, &header, position as u32).expect("somebody");
        dest_address(&now.dests[&id]).to_string()
    };
    kernel.serve(1, 2);
    assert_eq!(next(&kernel), THREE);
    // The one served last goes; it is still the third one's turn, of two now.
    change(&mut kernel, &desired(&[service("a", 80, &[ONE, THREE])]));
    assert_eq!(next(&kernel), THREE);
    // One that is added at the head, as IPVS does it, takes its turn after the last.
    change(&mut kernel, &desired(&[service("a", 80, &["10.0.0.4", ONE, THREE])]));
    assert_eq!(next(&kernel), THREE);
    kernel.serve(1, 1);
    assert_eq!(next(&kernel), "10.0.0.4");
}

/// By its health alone: it leaves the generation, keeps its id, and persistent clients are told by its record.
#[test]
fn one_that_is_out_leaves_the_generation_and_comes_back_with_its_id() {
    let service = service("a", 80, &["10.0.0.1", "10.0.0.2"]);
    let mut want = desired(std::slice::from_ref(&service));
    let mut kernel = kernel_with(&want);
    let healthy = kernel.snapshot();
    let key = service.backends[0].key;
    want.weights.0.insert(service.name.clone(), [(key, ByHealth::Out)].into());
    let ops = change(&mut kernel, &want);
    assert_eq!(
        ops.iter().filter(|op| matches!(op, Op::Publish { .. })).count(),
        1,
        "one generation: {ops:?}"
    );
    let out = kernel.snapshot();
    let flags =
        |snapshot: &Snapshot| snapshot.dests.values().map(|dest| dest.flags & OUT).collect::<Vec<_>>();
    assert_eq!(flags(&out), [OUT, 0]);
    assert!(out.dests.values().all(|dest| dest.flags & RETIRED == 0), "its flows go on");
    want.weights.0.clear();
    change(&mut kernel, &want);
    assert_eq!(kernel.snapshot().dests, healthy.dests);
}
