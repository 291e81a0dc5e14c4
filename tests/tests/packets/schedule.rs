//! Which backend a new connection gets: rr and wrr in IPVS's order.

use lb::{
    model::Scheduler::{Rr, Wrr},
    plan::{Desired, Op},
};
use lb_common::verdict::Verdict::*;

use crate::world::*;

fn only(service: lb::model::Service) -> Desired {
    Desired { services: vec![service], ..lab() }
}

#[test]
fn rr_goes_round() {
    for kind in ALL_KINDS {
        let mut director = director(&only(kind.service(PORT, &[3, 1, 2])));
        assert_eq!(open(&mut director, kind, 1000..1007), [3, 1, 2, 3, 1, 2, 3], "{}", kind.name);
    }
}

#[test]
fn rr_ignores_weights_but_zero() {
    let mut director = director(&only(TCP4.weighted(PORT, Rr, &[(1, 5), (2, 0), (3, 1)])));
    assert_eq!(open(&mut director, TCP4, 1000..1004), [1, 3, 1, 3]);
}

#[test]
fn wrr_is_interleaved_by_level() {
    for kind in ALL_KINDS {
        let mut director = director(&only(kind.weighted(PORT, Wrr, &[(1, 3), (2, 2), (3, 1)])));
        let turns = open(&mut director, kind, 1000..1012);
        assert_eq!(turns, [1, 1, 2, 1, 2, 3, 1, 1, 2, 1, 2, 3], "{}", kind.name);
    }
}

#[test]
fn wrr_steps_by_the_greatest_common_divisor() {
    let mut director = director(&only(TCP4.weighted(PORT, Wrr, &[(1, 400), (2, 0), (3, 200), (4, 600)])));
    assert_eq!(open(&mut director, TCP4, 1000..1008), [4, 1, 4, 1, 3, 4, 4, 1]);
}

#[test]
fn a_rotation_too_long_for_a_table_keeps_the_order() {
    const WEIGHTS: [(u8, u16); 4] = [(1, 3), (2, 65535), (3, 0), (4, 65533)];
    let expected = ipvs_wrr(&WEIGHTS);
    assert!(expected.len() > 1 << 16, "long enough to be computed");
    for kind in [TCP4, TCP6] {
        let mut director = director(&only(kind.weighted(PORT, Wrr, &WEIGHTS)));
        // Around the start, the ends of the levels, and the end of the period.
        let mut at = 0;
        for start in [0, expected.len() / 3, expected.len() - 14] {
            rotate(&mut director, start as u64 - at);
            let turns = open(&mut director, kind, 1000..1020);
            at = start as u64 + 20;
            let wanted: Vec<u8> = (start..start + 20).map(|turn| expected[turn % expected.len()]).collect();
            assert_eq!(turns, wanted, "{} from turn {start}", kind.name);
        }
    }
}

/// Lets the rotation of the only service pass over turns.
fn rotate(director: &mut lb_tests::xdp::Director, by: u64) {
    let snapshot = director.maps().snapshot().expect("a snapshot");
    let service = *snapshot.services.keys().next().expect("a service");
    director.maps_mut().apply(&[Op::Rotate { service, by }]).expect("rotated");
    // The next ports are new connections again.
    for flow in director.flows() {
        assert!(director.maps().flush(&flow, director.clock.now()));
    }
}

/// One period of wrr: again and again over the list with the bar one step lower (`ip_vs_wrr.c`), here with weights
/// whose greatest common divisor is 1.
fn ipvs_wrr(weights: &[(u8, u16)]) -> Vec<u8> {
    let top = weights.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let served =
        |bar: u16| weights.iter().filter(move |(_, weight)| *weight >= bar).map(|(number, _)| *number);
    (1..=top).rev().flat_map(served).collect()
}

#[test]
fn the_rotation_goes_on_across_edits() {
    let mut want = only(TCP4.service(PORT, &[1, 2, 3]));
    let mut director = director(&want);
    assert_eq!(open(&mut director, TCP4, 1000..1002), [1, 2]);
    // The one served last is removed: its predecessor takes its place (`ip_vs_rr_del_dest`).
    want.services = vec![TCP4.service(PORT, &[1, 3])];
    director.configure(&want).expect("configured");
    assert_eq!(open(&mut director, TCP4, 1002..1004), [3, 1]);
    // One added at the head, where IPVS puts it, changes nothing for the next.
    want.services = vec![TCP4.service(PORT, &[4, 1, 3])];
    director.configure(&want).expect("configured");
    assert_eq!(open(&mut director, TCP4, 1004..1008), [3, 4, 1, 3]);
    // An edit that is none changes nothing.
    director.configure(&want).expect("configured");
    assert_eq!(open(&mut director, TCP4, 1008..1010), [4, 1]);
    // Another scheduler begins anew, with the head.
    want.services = vec![TCP4.weighted(PORT, Wrr, &[(4, 1), (1, 2), (3, 1)])];
    director.configure(&want).expect("configured");
    assert_eq!(open(&mut director, TCP4, 1010..1015), [1, 4, 1, 3, 1]);
}

#[test]
fn wrr_keeps_its_bar_across_edits() {
    let mut want = only(TCP4.weighted(PORT, Wrr, &[(1, 3), (2, 2), (3, 1)]));
    let mut director = director(&want);
    assert_eq!(open(&mut director, TCP4, 1000..1002), [1, 1]);
    // IPVS goes back to the head of the list and keeps the bar, which is 2 (`ip_vs_wrr_dest_changed`).
    want.services = vec![TCP4.weighted(PORT, Wrr, &[(4, 2), (1, 3), (2, 2), (3, 1)])];
    director.configure(&want).expect("configured");
    assert_eq!(open(&mut director, TCP4, 1002..1010), [4, 1, 2, 4, 1, 2, 3, 1]);
}

#[test]
fn services_rotate_by_themselves() {
    let mut want = lab();
    want.services = ALL_KINDS.map(|kind| kind.service(PORT, &[1, 2])).to_vec();
    let mut director = director(&want);
    for port in 1000..1004 {
        let turns = ALL_KINDS.map(|kind| open(&mut director, kind, port..port + 1)[0]);
        assert_eq!(turns, [1 + (port % 2) as u8; 6]);
    }
}

#[test]
fn without_a_backend_a_new_connection_is_dropped() {
    for service in [TCP4.service(PORT, &[]), TCP4.weighted(PORT, Wrr, &[(1, 0), (2, 0)])] {
        let mut director = director(&only(service));
        assert_eq!(send(&mut director, &TCP4.open()), Err(DroppedNoBackend));
        assert_eq!(send(&mut director, &TCP4.later()), Err(DroppedNoFlow));
    }
}
