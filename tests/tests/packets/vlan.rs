//! 802.1Q tags: a frame comes in with some and leaves with those of the way to its backend.

use lb::plan::Desired;
use lb_common::{
    verdict::Verdict::*,
    vlan::{self, Tags},
};
use lb_tests::packet::{C_TAG, Packet, S_TAG, Tag};

use crate::{
    table::{case, check, passed, tx},
    world::*,
};

/// Tags that are ours, and the way to backend 1, 2, ...: each with a service on `PORT` + its number.
const WAYS: [&[u16]; 6] = [&[], &[100], &[200], &[10, 20], &[10, 21], &[30, 40]];

fn trunk() -> Desired {
    let mut want = lab();
    want.links[0].tags = WAYS.iter().filter(|way| !way.is_empty()).map(|way| tags(way)).collect();
    for (number, way) in (1..).zip(WAYS) {
        for kind in ALL_KINDS {
            want.services.push(kind.service(PORT + u16::from(number), &[number]));
            want.hosts.insert(kind.backend(number), neighbour(number, ETH0, tags(way)));
        }
    }
    want
}

fn tags(way: &[u16]) -> Tags {
    Tags::new(way.first().copied().unwrap_or(0), way.get(1).copied().unwrap_or(0))
}

/// To backend `number`, with the tags of its way.
fn sent(packet: &Packet, number: u8) -> Packet {
    forwarded(packet, number).tagged(WAYS[usize::from(number) - 1])
}

#[test]
fn every_way_in_goes_with_every_way_out() {
    let mut director = director(&trunk());
    for kind in ALL_KINDS {
        let cases = WAYS.iter().flat_map(|way| {
            (1..=6u8).map(move |number| {
                let packet = kind.open().to_port(PORT + u16::from(number)).tagged(way);
                let name = format!("{} in {way:?} out {:?}", kind.name, WAYS[usize::from(number) - 1]);
                case(name, &packet, tx(&sent(&packet, number)))
            })
        });
        check(&mut director, cases);
    }
}

#[test]
fn priority_and_drop_eligibility_are_kept() {
    let mut director = director(&trunk());
    let tag = |priority, vid| Tag { ethertype: C_TAG, priority, vid };
    for kind in ALL_KINDS {
        let carried = |what: &str, number: u8, given: &[Tag], expected: &[Tag]| {
            let packet = kind.open().to_port(PORT + u16::from(number)).with(|p| p.tags = given.to_vec());
            let sent = forwarded(&packet, number).with(|p| p.tags = expected.to_vec());
            case(format!("{} {what}", kind.name), &packet, tx(&sent))
        };
        check(
            &mut director,
            [
                carried("the same tag", 2, &[tag(0xb, 100)], &[tag(0xb, 100)]),
                carried("another tag", 3, &[tag(0xb, 100)], &[tag(0xb, 200)]),
                carried("a tag pushed below", 4, &[tag(0xf, 100)], &[tag(0xf, 10), tag(0, 20)]),
                carried("a tag popped", 2, &[tag(0xe, 10), tag(3, 20)], &[tag(0xe, 100)]),
                carried("the same two tags", 4, &[tag(5, 10), tag(9, 20)], &[tag(5, 10), tag(9, 20)]),
                carried("two other tags", 6, &[tag(5, 10), tag(9, 20)], &[tag(5, 30), tag(9, 40)]),
                carried("another inner tag", 5, &[tag(5, 10), tag(9, 20)], &[tag(5, 10), tag(9, 21)]),
                carried("all popped", 1, &[tag(5, 10), tag(9, 20)], &[]),
            ],
        );
    }
}

/// 802.1Q and 802.1ad are different VLANs, told apart on the way in and written on the way out.
#[test]
fn a_service_tag_is_another_tag() {
    let plain = |vid| Tag { ethertype: C_TAG, priority: 2, vid };
    let service = |vid| Tag { ethertype: S_TAG, priority: 2, vid };
    let mut want = trunk();
    let ways = [Tags::new(vlan::tag(true, 10), 20), Tags::new(vlan::tag(true, 11), 0)];
    want.links[0].tags.extend(ways);
    for kind in ALL_KINDS {
        want.hosts.insert(kind.backend(5), neighbour(5, ETH0, ways[0]));
        want.hosts.insert(kind.backend(6), neighbour(6, ETH0, ways[1]));
    }
    let mut director = director(&want);
    let open = |kind: Kind, number: u16, tags: &[Tag]| {
        kind.open().to_port(PORT + number).with(|p| p.tags = tags.to_vec())
    };
    for kind in ALL_KINDS {
        let carried = |number: u8, given: &[Tag], expected: &[Tag]| {
            let packet = open(kind, number.into(), given);
            let sent = forwarded(&packet, number).with(|p| p.tags = expected.to_vec());
            case(format!("{} {given:?} to {number}", kind.name), &packet, tx(&sent))
        };
        let (both, first) = ([service(10), plain(20)], service(10));
        check(
            &mut director,
            [
                carried(5, &both, &both),
                carried(4, &both, &[plain(10), plain(20)]),
                carried(5, &[plain(10), plain(20)], &both),
                carried(6, &both, &[service(11)]),
                carried(2, &both, &[plain(100)]),
                carried(1, &both, &[]),
                carried(6, &[plain(100)], &[service(11)]),
                carried(6, &[service(11)], &[service(11)]),
            ],
        );
        let strange = [
            vec![service(100)],
            vec![first, service(20)],
            vec![plain(11)],
            vec![service(30), plain(40)],
            vec![first],
        ];
        check(
            &mut director,
            strange.map(|tags| {
                let name = format!("{} {tags:?}", kind.name);
                case(name, &open(kind, 1, &tags), passed(PassedNotForUs))
            }),
        );
    }
}

#[test]
fn a_tag_that_is_not_ours_is_left_alone() {
    let mut want = trunk();
    let mut director = director(&want);
    for kind in ALL_KINDS {
        let open = kind.open().to_port(PORT + 1);
        let cases =
            [&[101][..], &[10], &[20], &[20, 10], &[10, 22], &[100, 10], &[4095], &[0, 100], &[100, 100]]
                .map(|way| case(format!("{} {way:?}", kind.name), &open.tagged(way), passed(PassedNotForUs)));
        check(&mut director, cases);
    }
    // An interface of which only tagged frames are ours.
    want.links[0].untagged = false;
    director.configure(&want).expect("configured");
    let tagged = TCP4.open().to_port(PORT + 2).tagged(&[100]);
    check(
        &mut director,
        [
            case("untagged", &tagged.tagged(&[]), passed(PassedNotForUs)),
            case("tagged", &tagged, tx(&forwarded(&tagged, 2))),
        ],
    );
}

#[test]
fn a_priority_tag_is_no_vlan() {
    // IEEE 802.1Q: VLAN id 0 carries a priority only; the frame belongs where an untagged one does.
    let mut director = director(&trunk());
    let tag = |vid| Tag { ethertype: C_TAG, priority: 0xa, vid };
    for kind in ALL_KINDS {
        let given = kind.open().with(|p| p.tags = vec![tag(0)]);
        let (untagged, tagged) = (given.to_port(PORT + 1), given.to_port(PORT + 2));
        let sent = forwarded(&tagged, 2).with(|p| p.tags = vec![tag(100)]);
        check(
            &mut director,
            [
                case(
                    format!("{} to an untagged backend", kind.name),
                    &untagged,
                    tx(&forwarded(&untagged, 1)),
                ),
                case(format!("{} to a tagged backend", kind.name), &tagged, tx(&sent)),
            ],
        );
    }
}

#[test]
fn a_tag_that_does_not_fit_drops_the_frame() {
    /// Bytes of metadata before the frame: with them and a `struct xdp_frame` the headroom (256) is used up.
    const METADATA: u32 = 216;
    let mut director = director(&trunk());
    let before = count(&director);
    for (kind, number) in [(TCP4, 2), (TCP6, 4)] {
        let packet = kind.open().to_port(PORT + number);
        let frame = [vec![0; METADATA as usize], packet.bytes()].concat();
        // struct xdp_md: data, data_end, data_meta, and three words that are zero.
        let context = [METADATA, frame.len() as u32, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        let (action, _) = director.send(&frame, Some(&context)).expect("ran");
        assert_eq!(action, 1, "XDP_DROP");
    }
    assert_eq!(count(&director) - before, 2);

    fn count(director: &lb_tests::xdp::Director) -> u64 {
        let counters = director.counters().expect("counters");
        counters.iter().filter(|(name, _)| *name == DroppedNoRoom.name()).map(|(_, times)| times).sum()
    }
}
