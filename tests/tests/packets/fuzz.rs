//! Frames that nobody made on purpose: mutations of good ones and of real captures (`tests/corpus/`), against a second,
//! simpler reading of them.
//!
//! `LB_FUZZ=10000000 LB_FUZZ_SEED=7 cargo test --release -p lb-tests --test packets fuzz` runs more than the usual. What
//! a failure prints goes into the corpus.

use std::{fs, path::Path};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use fastrand::Rng;
use lb_common::protocol;
use lb_tests::xdp::Director;

use crate::world::*;

/// Mutated frames in a usual run.
const FRAMES: u64 = 100_000;
/// The shortest that TEST_RUN takes.
const SHORTEST: usize = 14;
const LONGEST: usize = 1514;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

#[test]
fn no_frame_gets_a_wrong_verdict() {
    let number =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().expect(name));
    let (frames, seed) = (number("LB_FUZZ", FRAMES), number("LB_FUZZ_SEED", 1));
    let (mut rng, mut director, seeds) = (Rng::with_seed(seed), director(&every_kind()), seeds());
    for frame in &seeds {
        run(&mut director, frame);
    }
    let mut actions = [0u64; 4];
    for _ in 0..frames {
        let frame = mutated(&mut rng, &seeds);
        actions[run(&mut director, &frame) as usize] += 1;
    }
    println!("seed {seed}: {} dropped, {} passed, {} sent", actions[1], actions[2], actions[3]);
    // The mutations are worth something only if all kinds of ways are taken.
    assert!(actions[1..].iter().all(|count| *count > frames / 100), "{actions:?}");
}

/// Good frames of all kinds, and those of the corpus: one a line, in hex.
fn seeds() -> Vec<Vec<u8>> {
    use lb_tests::packet::{Extension::*, Icmp};
    let mut seeds: Vec<Vec<u8>> = ALL_KINDS
        .into_iter()
        .flat_map(|kind| {
            let open = kind.open();
            let odd = match kind.is_ipv6 {
                true => open.extended(&[HopByHop(8), Routing(8), DestOptions(16)]),
                false => open.with(|p| p.options = vec![1; 20]),
            };
            let about = open.turned();
            [
                open.bytes(),
                kind.later().bytes(),
                odd.bytes(),
                open.fragment(0, true).bytes(),
                open.fragment(1480, false).bytes(),
                open.tagged(&[100]).bytes(),
                open.tagged(&[10, 20]).bytes(),
                open.ttl(1).bytes(),
                open.to_port(80).bytes(),
                open.with(|p| p.dest.set_ip(kind.backend(7))).bytes(),
                open.with(|p| p.trailer = vec![0; 20]).bytes(),
                about.error_to_sender(Icmp::TooBig(1280), ETH0_MAC, CLIENT_MAC, kind.router(), 200),
            ]
        })
        .collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for file in fs::read_dir(&corpus).expect("the corpus") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("text");
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        seeds.extend(lines.map(|line| addressed_to_us(unhex(line))));
    }
    seeds
}

/// A captured frame as if it had come to the director of these tests.
fn addressed_to_us(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&ETH0_MAC);
    frame
}

fn unhex(line: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("hex");
    (0..line.len() / 2).map(|n| byte(2 * n)).collect()
}

fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    const WORTH_TRYING: [u8; 12] = [0, 1, 4, 6, 17, 44, 58, 60, 0x45, 0x60, 0x7f, 0xff];
    let mut frame = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.u32(1..=6) {
        // Headers are worth more than payload.
        let reach = if rng.bool() { 80 } else { LONGEST };
        let at = rng.usize(..frame.len().min(reach));
        match rng.u32(..8) {
            0 | 1 => frame[at] ^= 1 << rng.u32(..8),
            2 => frame[at] = rng.u8(..),
            3 | 4 => frame[at] = WORTH_TRYING[rng.usize(..WORTH_TRYING.len())],
            5 => frame.truncate(rng.usize(SHORTEST..=frame.len())),
            6 => {
                let more = rng.usize(..64);
                frame.extend(std::iter::repeat_with(|| rng.u8(..)).take(more));
            }
            _ => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = at.min(other.len());
                frame.splice(at.., other[from..].iter().copied());
            }
        }
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        frame.truncate(LONGEST);
    }
    frame
}

/// Runs one; what was done with it, which is among what may be.
fn run(director: &mut Director, frame: &[u8]) -> u32 {
    let hex = || frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (action, out) = director.send(frame, None).unwrap_or_else(|error| panic!("{error:#}\n{}", hex()));
    let unchanged = out == frame;
    match action {
        PASS => assert!(unchanged, "passed, and changed:\n{}", hex()),
        TX => assert!(was_sent(frame, &out), "sent as {out:02x?}\n{}", hex()),
        DROP => {}
        other => panic!("action {other}:\n{}", hex()),
    }
    match reading(frame) {
        Reading::NotOurs => assert_eq!(action, PASS, "none of ours:\n{}", hex()),
        Reading::Ours => assert_ne!(action, PASS, "ours:\n{}", hex()),
        Reading::Begins => assert_eq!(action, TX, "it begins something, and there is a backend:\n{}", hex()),
        Reading::Unsure => {}
    }
    action
}

/// Forwarded to the backend with one TTL less, or answered to where it came from.
fn was_sent(frame: &[u8], out: &[u8]) -> bool {
    if out[6..12] != ETH0_MAC {
        return false;
    }
    // It may say that it comes from the backend.
    let is_answer = out[..6] == frame[6..12] && out.get(14..) != frame.get(14..);
    if out[..6] != backend_mac(1) || (is_answer && frame.len() != out.len()) {
        return is_answer;
    }
    let Some(l3) = ip_header(frame) else { return false };
    let differs = |range: std::ops::Range<usize>| frame[range.clone()] != out[range];
    if frame.len() != out.len() || differs(12..l3) {
        return false;
    }
    if frame[l3] >> 4 == 6 {
        frame[l3 + 7] - 1 == out[l3 + 7] && !differs(l3..l3 + 7) && !differs(l3 + 8..frame.len())
    } else {
        frame[l3 + 8] - 1 == out[l3 + 8]
            && !differs(l3..l3 + 8)
            && !differs(l3 + 9..l3 + 10)
            && !differs(l3 + 12..frame.len())
    }
}

enum Reading {
    NotOurs,
    /// A whole packet of TCP, UDP or SCTP to a service: it must not reach the stack.
    Ours,
    /// The same, which opens a flow if it is of none: a SYN, a datagram. It is served, whatever else it says.
    Begins,
    Unsure,
}

/// Where the IP header of a frame begins that has no VLAN tag, or at most two that say a priority only.
fn ip_header(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    for _ in 0..3 {
        match *frame.get(at..at + 2)? {
            [0x08, 0x00] | [0x86, 0xdd] => return Some(at + 2),
            [0x81, 0x00] | [0x88, 0xa8] if frame.get(at + 2)? & 0x0f == 0 && *frame.get(at + 3)? == 0 => {
                at += 4
            }
            _ => return None,
        }
    }
    None
}

/// What a frame is, by its fixed offsets and by etherparse.
fn reading(frame: &[u8]) -> Reading {
    // This director has no VLANs.
    let Some(l3) = ip_header(frame).filter(|_| frame[..6] == ETH0_MAC) else { return Reading::NotOurs };
    let is_ipv4 = frame[l3 - 2] == 8;
    let to_vip = match is_ipv4 {
        true => frame.get(l3 + 16..l3 + 20) == Some(&VIP4.octets()[..]),
        false => frame.get(l3 + 24..l3 + 40) == Some(&VIP6.octets()[..]),
    };
    if !to_vip {
        return Reading::NotOurs;
    }
    // etherparse takes a length of 0 for as much as there is, we for what it says.
    let length_at = l3 + if is_ipv4 { 2 } else { 4 };
    if frame[length_at..length_at + 2] == [0, 0] {
        return Reading::Unsure;
    }
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return Reading::Unsure };
    let (ttl, fragmented) = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => (v4.header().ttl(), v4.is_payload_fragmented()),
        Some(NetSlice::Ipv6(v6)) => (v6.header().hop_limit(), v6.is_payload_fragmented()),
        _ => return Reading::Unsure,
    };
    let extended = matches!(&packet.net, Some(NetSlice::Ipv6(v6)) if !v6.extensions().is_empty());
    let port = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.destination_port(),
        Some(TransportSlice::Udp(udp)) => udp.destination_port(),
        _ => match sctp_port(&packet) {
            Some(port) => port,
            None => return Reading::Unsure,
        },
    };
    match port {
        PORT if ttl > 1 && !fragmented && !extended => match &packet.transport {
            Some(TransportSlice::Udp(_)) => Reading::Begins,
            Some(TransportSlice::Tcp(tcp)) if tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() => {
                Reading::Begins
            }
            _ => Reading::Ours,
        },
        PORT => Reading::Unsure,
        // A deleted or another service there is not.
        _ if !fragmented => Reading::NotOurs,
        _ => Reading::Unsure,
    }
}

/// The destination port of an SCTP packet with the head of a chunk, which etherparse does not read (RFC 9260 section 3).
fn sctp_port(packet: &SlicedPacket<'_>) -> Option<u16> {
    let payload = packet.net.as_ref()?.ip_payload_ref()?;
    let is_whole = payload.ip_number.0 == protocol::SCTP && payload.payload.len() >= 16;
    is_whole.then(|| u16::from_be_bytes([payload.payload[2], payload.payload[3]]))
}
