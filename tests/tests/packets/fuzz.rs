//! Frames that nobody made on purpose: mutations of good ones and of real captures (`tests/corpus/`), against a second,
//! simpler reading of them.
//!
//! `LB_FUZZ=10000000 LB_FUZZ_SEED=7 cargo test --release -p lb-tests --test packets fuzz` runs more than the usual. What
//! a failure prints goes into the corpus.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use fastrand::Rng;
use lb::{
    model::{FlowSizes, Protocol, timeouts::NAMES},
    plan::Desired,
};
use lb_common::{
    protocol,
    sctp::chunk,
    verdict::Verdict::{self, *},
};
use lb_tests::xdp::{Director, Ran};

use crate::world::*;

/// Mutated frames in a usual run.
const FRAMES: u64 = 100_000;
/// So many of them, and all connections are forgotten.
const ROUND: u64 = 10_000;
const BACKENDS: [u8; 3] = [1, 2, 3];
/// Seconds.
const DAY: u32 = 86_400;
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
    let (mut rng, mut fuzzed, seeds) = (Rng::with_seed(seed), Fuzzed::new(), seeds());
    for frame in &seeds {
        fuzzed.run(frame);
    }
    let mut actions = [0u64; 4];
    for number in 0..frames {
        if number % ROUND == 0 {
            fuzzed.begin_anew();
        }
        let frame = mutated(&mut rng, &seeds);
        actions[fuzzed.run(&frame) as usize] += 1;
    }
    println!("{} packets of known connections, {} that begin others", fuzzed.followed, fuzzed.begun);
    assert!(
        fuzzed.followed > frames / 100 && fuzzed.begun > frames / 100,
        "hardly any was looked at closely"
    );
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

/// A director, and what it must know: of each kind one established connection.
struct Fuzzed {
    director: Director,
    counters: Vec<(&'static str, u64)>,
    known: Vec<Known>,
    /// Packets of known connections, of others that begin something.
    followed: u64,
    begun: u64,
}

/// The connection that [`Kind::open`] opens.
struct Known {
    kind: Kind,
    backend: u8,
    /// It may have been ended: what opens it again may go to another backend.
    is_shaken: bool,
}

impl Fuzzed {
    /// Three backends for each kind; nothing runs out while the test lasts.
    fn new() -> Self {
        let timeouts = NAMES.map(|_| Some(DAY));
        let services = ALL_KINDS.map(|kind| {
            let mut service = kind.service(PORT, &BACKENDS);
            service.options.timeouts = timeouts;
            service
        });
        let want = Desired { services: services.to_vec(), ..lab() };
        let sizes = FlowSizes { ipv4: 1 << 14, wide: 1 << 14 };
        let director = Director::new(sizes, &want).expect("a director");
        let counters = director.counters().expect("counters");
        let mut fuzzed = Self { director, counters, known: Vec::new(), followed: 0, begun: 0 };
        fuzzed.begin_anew();
        fuzzed
    }

    /// Forgets all connections but those that are known, which are established anew: no table fills.
    fn begin_anew(&mut self) {
        let counters = self.director.counters().expect("counters");
        let lost =
            counters.iter().filter(|(name, _)| ["event-evicted", "event-placed-by-hash"].contains(name));
        assert!(lost.clone().all(|(_, times)| *times == 0), "the tables are too small: {lost:?}");
        self.director.sweep_in(2 * DAY).expect("swept");
        self.known = ALL_KINDS
            .map(|kind| {
                let backend = send(&mut self.director, &kind.open()).expect("forwarded");
                assert_eq!(send(&mut self.director, &kind.later()), Ok(backend), "{}", kind.name);
                Known { kind, backend, is_shaken: false }
            })
            .into();
        self.counters = self.director.counters().expect("counters");
    }

    /// Sends one: action, what came out, and the one verdict that was counted.
    fn send(&mut self, frame: &[u8]) -> (u32, Vec<u8>, Verdict) {
        let (action, out) =
            self.director.send(frame, None).unwrap_or_else(|error| panic!("{error:#}\n{}", hex(frame)));
        let before = std::mem::replace(&mut self.counters, self.director.counters().expect("counters"));
        let moved = self.counters.iter().zip(before).filter(|(after, before)| after.1 != before.1);
        let moved = moved.map(|(after, before)| (after.0, after.1 - before.1)).collect();
        let ran = Ran { action, frame: out, moved };
        let verdict = ran.verdict().unwrap_or_else(|error| panic!("{error:#}\n{}", hex(frame)));
        (action, ran.frame, verdict)
    }

    /// Runs one; what was done with it, which is among what may be.
    fn run(&mut self, frame: &[u8]) -> u32 {
        let (action, out, verdict) = self.send(frame);
        let told = || format!("{}, as {out:02x?}:\n{}", verdict.name(), hex(frame));
        let (way, _) = verdict.name().split_once('-').expect("a way");
        match action {
            PASS => assert!(way == "passed" && out == frame, "{}", told()),
            TX => assert!(["forwarded", "answered"].contains(&way) && was_sent(frame, &out), "{}", told()),
            DROP => assert_eq!(way, "dropped", "{}", told()),
            other => panic!("action {other}: {}", told()),
        }
        let to = (verdict == ForwardedTx).then(|| out[5]);
        match reading(frame) {
            Reading::NotOurs => {
                let none_of_ours = [PassedNotForUs, PassedNotIp, PassedMalformed, PassedNoService];
                assert!(none_of_ours.contains(&verdict), "none of ours: {}", told());
            }
            Reading::Ours(segment) => self.judge(&segment, verdict, to, &told()),
            // Whatever it was, it may have changed a connection, or opened one again that was ended: also where it was
            // answered afterwards, as a SYN whose TTL ends here is.
            Reading::Unsure if way != "passed" => self.look_again(),
            Reading::Unsure => {}
        }
        action
    }

    /// A whole packet of a service.
    fn judge(&mut self, segment: &Segment, verdict: Verdict, to: Option<u8>, told: &str) {
        match self.known.iter_mut().find(|known| segment.is_of(known.kind)) {
            Some(known) => {
                self.followed += 1;
                let opens_again = segment.begins && known.is_shaken;
                assert!(to.is_some(), "of a known connection: {told}");
                assert!(opens_again || to == Some(known.backend), "not to {}: {told}", known.backend);
                known.backend = to.unwrap_or(known.backend);
                known.is_shaken |= segment.may_end;
            }
            None if segment.begins => {
                self.begun += 1;
                assert!(to.is_some(), "it begins something, and there is a backend: {told}");
            }
            // Of none that is known, unless an earlier one has opened it.
            None => assert!([DroppedNoFlow, ForwardedTx].contains(&verdict), "{told}"),
        }
    }

    fn look_again(&mut self) {
        for known in &mut self.known {
            known.is_shaken = true;
            known.backend = send(&mut self.director, &known.kind.open()).expect("forwarded");
        }
        self.counters = self.director.counters().expect("counters");
    }
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Forwarded to the backend with one TTL less, or answered to where it came from.
fn was_sent(frame: &[u8], out: &[u8]) -> bool {
    if out[6..12] != ETH0_MAC {
        return false;
    }
    // It may say that it comes from the backend.
    let is_answer = out[..6] == frame[6..12] && out.get(14..) != frame.get(14..);
    let is_to_backend = BACKENDS.iter().any(|number| out[..6] == backend_mac(*number));
    if !is_to_backend || (is_answer && frame.len() != out.len()) {
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
    Ours(Segment),
    Unsure,
}

/// What a packet of a service is.
struct Segment {
    source: SocketAddr,
    protocol: u8,
    /// It opens a flow if it is of none: a SYN, a datagram, an INIT. It is served, whatever else it says.
    begins: bool,
    /// It may end its flow.
    may_end: bool,
}

impl Segment {
    fn is_of(&self, kind: Kind) -> bool {
        let number = match kind.protocol() {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
            Protocol::Sctp => protocol::SCTP,
        };
        self.protocol == number && self.source == SocketAddr::new(kind.client(), CLIENT_PORT)
    }
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
    let source: IpAddr = match &packet.net {
        Some(NetSlice::Ipv4(v4)) => v4.header().source_addr().into(),
        Some(NetSlice::Ipv6(v6)) => v6.header().source_addr().into(),
        _ => return Reading::Unsure,
    };
    let of = |port, protocol, begins, may_end| Segment {
        source: SocketAddr::new(source, port),
        protocol,
        begins,
        may_end,
    };
    let (port, segment) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let begins = tcp.syn() && !tcp.ack() && !tcp.rst();
            let segment = of(tcp.source_port(), protocol::TCP, begins, tcp.fin() || tcp.rst());
            (tcp.destination_port(), segment)
        }
        Some(TransportSlice::Udp(udp)) => {
            (udp.destination_port(), of(udp.source_port(), protocol::UDP, true, false))
        }
        _ => match sctp(&packet) {
            // Any chunk may say that it is over; an INIT says that it begins.
            Some([from, to, chunk]) => {
                let begins = chunk == u16::from(chunk::INIT);
                (to, of(from, protocol::SCTP, begins, !begins))
            }
            None => return Reading::Unsure,
        },
    };
    match port {
        PORT if ttl > 1 && !fragmented && !extended => Reading::Ours(segment),
        PORT => Reading::Unsure,
        // A deleted or another service there is not.
        _ if !fragmented => Reading::NotOurs,
        _ => Reading::Unsure,
    }
}

/// The ports of an SCTP packet and the type of its first chunk, which etherparse does not read (RFC 9260 section 3).
fn sctp(packet: &SlicedPacket<'_>) -> Option<[u16; 3]> {
    let payload = packet.net.as_ref()?.ip_payload_ref()?;
    let is_whole = payload.ip_number.0 == protocol::SCTP && payload.payload.len() >= 16;
    let port = |at: usize| u16::from_be_bytes([payload.payload[at], payload.payload[at + 1]]);
    is_whole.then(|| [port(0), port(2), payload.payload[12].into()])
}
