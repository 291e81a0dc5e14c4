//! IPv4 options, IPv6 extension headers, lengths that lie, and frames that end too early.

use lb_common::verdict::Verdict::{self, *};
use lb_tests::packet::{Extension, Extension::*, Packet, Place};

use crate::{
    table::{Case, case, check, passed, raw, tx},
    world::*,
};

#[test]
fn ipv4_options_are_kept() {
    let mut director = director(&every_kind());
    // No-operations and an end of options: 1 to 10 words.
    let cases = (1..=10).flat_map(|words| {
        [TCP4, UDP4, SCTP4].map(|kind| {
            let mut options = vec![1; words * 4];
            options[words * 4 - 1] = 0;
            let packet = kind.open().with(|p| p.options = options);
            case(format!("{} {words} words", kind.name), &packet, tx(&forwarded(&packet, 1)))
        })
    });
    check(&mut director, cases);
}

#[test]
fn ipv6_extension_headers_are_walked_through() {
    const ATOMIC: Extension = Fragment(Place { offset: 0, more: false });
    let chains: [&[Extension]; 9] = [
        &[HopByHop(8)],
        &[Routing(24)],
        &[DestOptions(16)],
        // RFC 6946.
        &[ATOMIC],
        &[HopByHop(8), Routing(8), ATOMIC, DestOptions(8)],
        // The order that RFC 8200 section 4.1 recommends.
        &[HopByHop(16), DestOptions(8), Routing(40), ATOMIC, DestOptions(24)],
        // As many as are walked, and as long as they may be.
        &[HopByHop(8), DestOptions(8), Routing(8), DestOptions(8), DestOptions(8), DestOptions(8)],
        &[DestOptions(512)],
        &[HopByHop(256), DestOptions(248), ATOMIC],
    ];
    let mut director = director(&every_kind());
    for kind in [TCP6, UDP6, SCTP6] {
        let forwarded = chains.map(|chain| {
            let packet = kind.open().extended(chain);
            case(format!("{} {chain:?}", kind.name), &packet, tx(&forwarded(&packet, 1)))
        });
        check(&mut director, forwarded);
    }
}

#[test]
fn ipv6_extension_headers_beyond_the_limits_are_left_alone() {
    let mut director = director(&every_kind());
    for kind in [TCP6, UDP6, SCTP6] {
        let beyond = |chain: &[Extension], verdict: Verdict| {
            case(format!("{} {chain:?}", kind.name), &kind.open().extended(chain), passed(verdict))
        };
        check(
            &mut director,
            [
                beyond(&[DestOptions(8); 7], PassedNotIp),
                beyond(&[DestOptions(520)], PassedMalformed),
                beyond(&[DestOptions(256), DestOptions(256), DestOptions(8)], PassedMalformed),
                beyond(&[DestOptions(2048)], PassedMalformed),
            ],
        );
    }
}

#[test]
fn a_frame_cut_at_any_length_is_passed_unchanged() {
    let mut want = every_kind();
    want.links[0].tags = vec![lb_common::vlan::Tags::new(7, 0), lb_common::vlan::Tags::new(7, 8)];
    let mut director = director(&want);
    for packet in shapes() {
        let whole = packet.bytes();
        let cut: Vec<Case> = (14..whole.len())
            .map(|length| {
                raw(format!("{packet:?} cut to {length}"), whole[..length].to_vec(), passed(PassedMalformed))
            })
            .collect();
        check(&mut director, cut);
        // And the whole one is not: the cases above cut something that would have been forwarded.
        check(&mut director, [case("whole", &packet, tx(&untagged(&forwarded(&packet, 1))))]);
    }
}

/// One packet of each shape that the parser knows.
fn shapes() -> Vec<Packet> {
    let mut shapes = Vec::new();
    for kind in ALL_KINDS {
        let open = kind.open().with(|p| p.payload.truncate(4));
        shapes.extend([open.clone(), open.tagged(&[7]), open.tagged(&[7, 8])]);
        if kind.is_ipv6 {
            let atomic = Fragment(Place { offset: 0, more: false });
            shapes.push(open.extended(&[HopByHop(8), Routing(24), atomic, DestOptions(16)]));
        } else {
            shapes.push(open.with(|p| p.options = vec![1; 40]));
        }
    }
    shapes
}

/// The backend is reached without tags.
fn untagged(packet: &Packet) -> Packet {
    packet.tagged(&[])
}

#[test]
fn lengths_that_contradict_each_other_are_left_alone() {
    let mut director = director(&every_kind());
    for kind in ALL_KINDS {
        let open = kind.open();
        let headers = open.with(|p| p.payload.clear()).ip_length() as u16 - if kind.is_ipv6 { 40 } else { 0 };
        let whole = headers + open.payload.len() as u16;
        let claim = |length: u16| open.with(|p| p.claimed_length = Some(length));
        let left = |length| {
            case(format!("{} claims {length} of {whole}", kind.name), &claim(length), passed(PassedMalformed))
        };
        check(&mut director, (0..headers).map(left));
        check(&mut director, [whole + 1, whole + 100, u16::MAX].map(left));
        // What it does not claim is padding.
        check(
            &mut director,
            (headers..whole).map(|length| {
                let packet = claim(length);
                case(format!("{} claims {length} of {whole}", kind.name), &packet, tx(&forwarded(&packet, 1)))
            }),
        );
    }
}

#[test]
fn a_header_of_the_wrong_version_or_length_is_left_alone() {
    let mut director = director(&every_kind());
    for kind in ALL_KINDS {
        let good = kind.open().bytes();
        let first = |byte: u8| {
            let mut frame = good.clone();
            frame[14] = byte;
            raw(format!("{} first byte {byte:02x}", kind.name), frame, passed(PassedMalformed))
        };
        if kind.is_ipv6 {
            check(&mut director, [0x00, 0x45, 0x50, 0x70, 0xf0].map(first));
        } else {
            // Version, then a header shorter than the least there is.
            check(&mut director, [0x05, 0x55, 0x65, 0xf5, 0x40, 0x41, 0x44].map(first));
        }
    }
    let arp = [&ETH0_MAC[..], &CLIENT_MAC, &[8, 6], &[0; 46]].concat();
    let llc = [&ETH0_MAC[..], &CLIENT_MAC, &[0, 46], &[0; 46]].concat();
    let triple = TCP4.open().tagged(&[7, 8, 9]).bytes();
    check(
        &mut director,
        [
            raw("ARP", arp, passed(PassedNotIp)),
            raw("802.3 with LLC", llc, passed(PassedNotIp)),
            raw("three tags", triple, passed(PassedNotIp)),
        ],
    );
}
