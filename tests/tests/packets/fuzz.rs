//! Frames that nobody made on purpose: mutations of good ones and of real captures (`tests/corpus/`), against a second,
//! simpler reading of them.
//!
//! `LB_FUZZ=10000000 LB_FUZZ_SEED=7 cargo test --release -p lb-tests --test packets fuzz` runs more than the usual. What
//! a failure prints goes into the corpus.

mod memory;
mod reading;
mod sent;

use std::{fs, path::Path};

use fastrand::Rng;
use lb::{
    model::{FlowSizes, Guard, Persistence, Reject, Scope, Service, timeouts::NAMES},
    plan::Desired,
};
use lb_common::{
    verdict::{
        Event,
        Verdict::{self, *},
    },
    vlan::Tags,
};
use lb_tests::{
    clock,
    xdp::{Director, Ran},
};

use self::{
    memory::{BACKENDS, Became, Memory},
    reading::{Reading, Vlans, reading},
    sent::{check_answer, is_forwarded},
};
use crate::world::*;

/// Mutated frames in a usual run of each test.
const FRAMES: u64 = 100_000;
/// So many of them, and all connections are forgotten.
const ROUND: u64 = 10_000;
/// Seconds.
const DAY: u32 = 86_400;
/// The shortest that TEST_RUN takes.
const SHORTEST: usize = 14;
const LONGEST: usize = 1514;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// Services that say nothing, and place by turns: of every frame one verdict is right.
#[test]
fn no_frame_gets_a_wrong_verdict() {
    let services = ALL_KINDS.map(|kind| kind.service(PORT, &BACKENDS));
    let want = Desired { services: services.to_vec(), ..lab() };
    fuzz(&want, Ways { vlans: Vec::new(), of: |_| Vec::new(), mtu: |_| 1500 });
}

/// Services that answer, follow templates, place by hash, and have many ports or no backend; a director with VLANs,
/// and a backend in one, and another one behind a smaller MTU.
#[test]
fn no_frame_gets_a_wrong_answer() {
    let c_tags = |vids: &[u16]| -> Vlans { vids.iter().map(|vid| (0x8100, *vid)).collect() };
    let mut want = Desired { services: answering(), ..lab() };
    want.links[0].tags = vec![Tags::new(100, 0), Tags::new(10, 20)];
    for kind in [TCP4, TCP6] {
        want.hosts.insert(kind.backend(2), neighbour_with_mtu(2, SMALLER));
        want.hosts.insert(kind.backend(3), neighbour(3, ETH0, Tags::new(100, 0)));
    }
    let ways = Ways {
        vlans: vec![c_tags(&[100]), c_tags(&[10, 20])],
        of: |backend| if backend == 3 { vec![(0x8100, 100)] } else { Vec::new() },
        mtu: |backend| if backend == 2 { SMALLER.into() } else { 1500 },
    };
    fuzz(&want, ways);
}

/// Backend 2's MTU where it has one of its own.
const SMALLER: u16 = 1000;

/// A service of each kind, and one beside it that has no backend.
fn answering() -> Vec<Service> {
    let ports = |service: &mut Service, is_range: bool| {
        let range = if is_range { (PORT - 6, Some(PORT + 6)) } else { (0, None) };
        (service.endpoint.port, service.endpoint.last_port) = range;
    };
    let mut services = Vec::new();
    // After a few connections the guard holds all others: they are placed by hash from then on.
    for (kind, is_range, reject, guard, persistence) in [
        (TCP4, true, Reject::Icmp, Guard::Rate(1), None),
        (UDP4, false, Reject::Icmp, Guard::Off, Some(None)),
        (TCP6, false, Reject::Reset, Guard::Rate(1), Some(Some(64))),
        (UDP6, true, Reject::Icmp, Guard::Rate(1), None),
        (SCTP4, true, Reject::Icmp, Guard::Off, Some(Some(24))),
        (SCTP6, false, Reject::Icmp, Guard::Rate(1), None),
    ] {
        let mut service = kind.service(PORT, &BACKENDS);
        ports(&mut service, is_range);
        service.backends.iter_mut().for_each(|backend| backend.key.port = service.endpoint.port);
        (service.options.reject, service.options.guard) = (reject, guard);
        let scope = Scope::Service;
        service.options.persistence =
            persistence.map(|granularity| Persistence { timeout: DAY, granularity, scope });
        let mut empty = kind.service(80, &[]);
        empty.options.reject = reject;
        services.extend([service, empty]);
    }
    services
}

/// The ways of a director's frames.
#[derive(Clone)]
struct Ways {
    /// The VLANs that are ours.
    vlans: Vec<Vlans>,
    /// That of each backend.
    of: fn(u8) -> Vlans,
    mtu: fn(u8) -> usize,
}

fn fuzz(want: &Desired, ways: Ways) {
    let number =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().expect(name));
    let (frames, seed) = (number("LB_FUZZ", FRAMES), number("LB_FUZZ_SEED", 1));
    let (mut rng, mut fuzzed, seeds) = (Rng::with_seed(seed), Fuzzed::new(want, ways), seeds());
    for frame in &seeds {
        fuzzed.run(frame);
    }
    for number in 0..frames {
        if number % ROUND == 0 {
            fuzzed.begin_anew();
        }
        let frame = mutated(&mut rng, &seeds);
        fuzzed.run(&frame);
    }
    let (actions, tally) = (fuzzed.actions, &fuzzed.memory.tally);
    println!("seed {seed}: {} dropped, {} passed, {} sent", actions[1], actions[2], actions[3]);
    println!("{} answers; {tally:?}", fuzzed.answers);
    // The mutations are worth something only if all kinds of ways are taken, and looked at closely.
    let is_often = |times: u64, of: u64| times > frames / of;
    assert!(actions[1..].iter().all(|times| is_often(*times, 100)), "{actions:?}");
    assert!(is_often(tally.followed, 100) && is_often(tally.begun, 100), "{tally:?}");
    assert!(is_often(tally.fragments, 1000) && is_often(tally.errors, 1000), "{tally:?}");
    let unsure = tally.unsure.values().map(|[_, not_passed]| not_passed).sum();
    assert!(!is_often(unsure, 1000), "{tally:?}");
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
                open.fragment(0, true).tagged(&[100]).bytes(),
                open.fragment(1480, false).tagged(&[10, 20]).bytes(),
                open.with(|p| p.payload = vec![0x5a; 1200]).bytes(),
                kind.later().from_port(9).bytes(),
                open.ttl(1).bytes(),
                open.to_port(80).bytes(),
                open.with(|p| p.dest.set_ip(kind.backend(7))).bytes(),
                open.with(|p| p.trailer = vec![0; 20]).bytes(),
                about.error_to_sender(Icmp::TooBig(1280), ETH0_MAC, CLIENT_MAC, kind.router(), 200),
            ]
        })
        .collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<_> =
        fs::read_dir(&corpus).expect("the corpus").map(|file| file.expect("a file").path()).collect();
    // A seed of the generator means the same frames everywhere.
    files.sort();
    for file in files {
        let text = fs::read_to_string(file).expect("text");
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

/// A director, and what it must know: of each kind one established connection, and what has come since.
struct Fuzzed {
    director: Director,
    counters: Vec<(&'static str, u64)>,
    ways: Ways,
    memory: Memory,
    /// By `enum xdp_action`.
    actions: [u64; 4],
    answers: u64,
}

impl Fuzzed {
    /// Nothing runs out while the test lasts.
    fn new(want: &Desired, ways: Ways) -> Self {
        let mut want = want.clone();
        want.services.iter_mut().for_each(|service| service.options.timeouts = NAMES.map(|_| Some(DAY)));
        let sizes = FlowSizes { ipv4: 1 << 14, wide: 1 << 14 };
        let director = Director::new(sizes, &want).expect("a director");
        let counters = director.counters().expect("counters");
        let memory = Memory::new(want.services, ways.mtu);
        let mut fuzzed = Self { director, counters, ways, memory, actions: [0; 4], answers: 0 };
        fuzzed.begin_anew();
        fuzzed
    }

    /// Forgets all connections but one of each kind, which is established anew: no table fills.
    fn begin_anew(&mut self) {
        let counters = self.director.counters().expect("counters");
        let gave_way = [Event::Evicted, Event::PlacedByHash, Event::NoTemplate].map(Event::name);
        let lost = counters.iter().filter(|(name, _)| gave_way.contains(name));
        assert!(lost.clone().all(|(_, times)| *times == 0), "the tables are too small: {lost:?}");
        // A template outlives what it controls.
        for round in 1..=3 {
            self.director.sweep_in(2 * round * DAY).expect("swept");
        }
        assert!(slots(&self.director).is_empty(), "swept");
        self.memory.begin_anew();
        self.open_known();
        for kind in ALL_KINDS {
            self.run(&kind.later().bytes());
        }
    }

    fn open_known(&mut self) {
        for kind in ALL_KINDS {
            let backend = send(&mut self.director, &kind.open()).expect("forwarded");
            self.memory.learn(kind, backend);
        }
        self.counters = self.director.counters().expect("counters");
    }

    /// Sends one: the action, what came out, and the one verdict and the events that were counted.
    fn send(&mut self, frame: &[u8]) -> (u32, Vec<u8>, Verdict, Vec<&'static str>) {
        let (action, out) =
            self.director.send(frame, None).unwrap_or_else(|error| panic!("{error:#}\n{}", hex(frame)));
        let before = std::mem::replace(&mut self.counters, self.director.counters().expect("counters"));
        let moved = self.counters.iter().zip(before).filter(|(after, before)| after.1 != before.1);
        let moved = moved.map(|(after, before)| (after.0, after.1 - before.1)).collect();
        let ran = Ran { action, frame: out, moved };
        let verdict = ran.verdict().unwrap_or_else(|error| panic!("{error:#}\n{}", hex(frame)));
        let events = ran.moved.iter().map(|(name, _)| *name).filter(|name| *name != verdict.name());
        (action, ran.frame, verdict, events.collect())
    }

    /// Runs one, and looks at what was done with it.
    fn run(&mut self, frame: &[u8]) {
        let at = clock::now();
        let (action, out, verdict, events) = self.send(frame);
        let told = |what: &str| format!("{what}: {}, as {out:02x?}:\n{}", verdict.name(), hex(frame));
        let (way, _) = verdict.name().split_once('-').expect("a way");
        let to = (verdict == ForwardedTx).then(|| out[5]);
        match (action, to) {
            (PASS, _) => assert!(way == "passed" && out == frame, "{}", told("passed")),
            (DROP, _) => assert_eq!(way, "dropped", "{}", told("dropped")),
            (TX, Some(backend)) => {
                let is_one = BACKENDS.contains(&backend) && out[..6] == backend_mac(backend);
                let is_right = is_one && is_forwarded(frame, &out, &(self.ways.of)(backend));
                assert!(is_right, "{}", told("forwarded"));
            }
            (TX, None) => {
                assert_eq!(way, "answered", "{}", told("sent"));
                check_answer(frame, &out, verdict).unwrap_or_else(|wrong| panic!("{}", told(&wrong)));
                self.answers += 1;
            }
            (other, _) => panic!("action {other}: {}", told("done")),
        }
        self.actions[action as usize] += 1;
        let reading = reading(frame, &self.ways.vlans);
        let became = Became { verdict, to, events, at };
        self.memory.judge(&reading, &became).unwrap_or_else(|wrong| panic!("{}", told(&wrong)));
        // Whatever it was, it may have changed a connection, or opened one again that was ended: also where it was
        // answered afterwards, as a SYN whose TTL ends here is.
        if matches!(reading, Reading::Unsure(_)) && way != "passed" {
            self.memory.blur(at);
            self.open_known();
        }
    }
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
