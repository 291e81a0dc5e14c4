//! A packet that is longer than the MTU of the way to its backend cannot be sent: who may not be fragmented is told.

use lb::plan::{Desired, HostRoute};
use lb_common::{verdict::Verdict::*, vlan::Tags};
use lb_tests::packet::{Icmp, Packet};

use crate::{
    table::{answered, case, check, dropped, tx},
    world::*,
};

const MTU: u16 = 1400;

/// Every kind, whose backend has a smaller MTU.
fn narrow() -> Desired {
    let mut want = every_kind();
    want.links[0].tags = vec![Tags::new(100, 0)];
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(1), neighbour_with_mtu(1, MTU));
    }
    want
}

/// An opening packet of so many bytes.
fn of(kind: Kind, bytes: u16) -> Packet {
    let open = kind.open();
    let headers = open.ip_length() - open.payload.len();
    open.with(|p| p.payload = vec![0xa5; usize::from(bytes) - headers])
}

fn may_be_fragmented(packet: &Packet) -> Packet {
    packet.with(|p| p.may_fragment = true)
}

#[test]
fn what_fits_is_sent() {
    let mut director = director(&narrow());
    check(
        &mut director,
        ALL_KINDS.map(|kind| case(kind.name, &of(kind, MTU), tx(&forwarded(&of(kind, MTU), 1)))),
    );
}

#[test]
fn who_sends_too_much_is_told_how_much_fits() {
    let mut director = director(&narrow());
    for kind in ALL_KINDS {
        let told = |packet: &Packet| {
            answered(AnsweredTooBig, packet.icmp_error(Icmp::TooBig(MTU), ETH0_MAC, kind.vip()))
        };
        let (just, far) = (of(kind, MTU + 1), of(kind, 9000));
        check(
            &mut director,
            [
                case(format!("{} a byte", kind.name), &just, told(&just)),
                case(format!("{} jumbo", kind.name), &far, told(&far)),
                case(format!("{} tagged", kind.name), &just.tagged(&[100]), told(&just.tagged(&[100]))),
            ],
        );
    }
}

#[test]
fn what_may_be_fragmented_is_dropped_and_counted() {
    let mut director = director(&narrow());
    check(
        &mut director,
        [TCP4, UDP4]
            .map(|kind| case(kind.name, &may_be_fragmented(&of(kind, MTU + 1)), dropped(DroppedTooBig))),
    );
}

#[test]
fn merged_frames_are_left_to_the_kernel() {
    let mut want = narrow();
    want.links[0].merges = true;
    let mut director = director(&want);
    check(
        &mut director,
        ALL_KINDS.map(|kind| case(kind.name, &of(kind, 9000), tx(&forwarded(&of(kind, 9000), 1)))),
    );
}

#[test]
fn a_local_backend_gets_packets_of_any_length() {
    let mut want = narrow();
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(1), HostRoute::Local);
    }
    let mut director = director(&want);
    for kind in ALL_KINDS {
        assert_eq!(send(&mut director, &of(kind, 9000)), Err(PassedLocalBackend));
    }
}
