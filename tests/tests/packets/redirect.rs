//! A backend behind another interface.

use lb_common::{verdict::Verdict::*, vlan::Tags};
use lb_tests::{netns::Netns, packet::Packet, proc::Lifetime};

use crate::{
    table::{case, check, dropped, redirected, tx},
    world::*,
};

/// The packet as it leaves by `eth1`.
fn behind(packet: &Packet, number: u8) -> Packet {
    forwarded(packet, number).with(|p| p.from = ETH1_MAC)
}

#[test]
fn a_backend_behind_another_interface_gets_frames_from_there() {
    let mut want = every_kind();
    want.links[0].tags = vec![Tags::new(100, 0)];
    for kind in ALL_KINDS {
        want.services.push(kind.service(80, &[2]));
        want.services.push(kind.service(443, &[3]));
        want.hosts.insert(kind.backend(2), neighbour(2, ETH1, Tags::NONE));
        want.hosts.insert(kind.backend(3), neighbour(3, ETH1, Tags::new(300, 0)));
    }
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let (open, tagged) = (kind.open(), kind.open().to_port(443));
        let name = |what: &str| format!("{} {what}", kind.name);
        let plain = open.to_port(80);
        check(
            &mut director,
            [
                case(name("in front"), &open, tx(&forwarded(&open, 1))),
                case(name("behind"), &plain, redirected(&behind(&plain, 2))),
                case(name("tag pushed"), &tagged, redirected(&behind(&tagged, 3).tagged(&[300]))),
                case(name("tag popped"), &plain.tagged(&[100]), redirected(&behind(&plain, 2))),
                case(
                    name("tag rewritten"),
                    &tagged.tagged(&[100]),
                    redirected(&behind(&tagged, 3).tagged(&[300])),
                ),
            ],
        );
    }
}

#[test]
fn an_interface_that_is_gone_drops_and_counts() {
    const VETH: u32 = 77;
    let mut want = every_kind();
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(1), neighbour(1, ETH1, Tags::NONE));
    }
    let mut director = director(&want);
    let netns =
        Netns::create(&director.scope().netns_name("redirect"), Lifetime::Guarded).expect("a namespace");
    netns.ip(&format!("link add {ETH1} index {VETH} type veth peer name peer")).expect("a veth pair");
    want.links[1].ifindex = VETH;
    netns.enter(|| director.configure(&want)).expect("entered").expect("configured");
    let there = ALL_KINDS.map(|kind| case(kind.name, &kind.open(), redirected(&behind(&kind.open(), 1))));
    check(&mut director, there);
    netns.ip(&format!("link del {ETH1}")).expect("deleted");
    check(&mut director, ALL_KINDS.map(|kind| case(kind.name, &kind.later(), dropped(DroppedRedirect))));
}
