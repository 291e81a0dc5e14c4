//! `lb trace`: the build that reports does what the ordinary one does, says so, and reports what the filters want.

use std::collections::BTreeSet;

use lb::{
    dataplane::Traces,
    model::Scheduler,
    plan::{Desired, HostRoute},
    trace::Question,
};
use lb_common::{
    record::Step,
    tcp::flag::*,
    tick::ticks,
    trace::{Filter, Lost, MAX_SNAP},
    verdict::Verdict,
    vlan::{Tags, tag},
};
use lb_tests::{packet::Packet, xdp::Director};

use crate::world::*;

/// A packet of a report, as far as the tests look.
#[derive(Debug)]
struct Told {
    slots: u32,
    verdict: Verdict,
    steps: Vec<(Step, [u64; 2])>,
    length: u32,
    frame: Vec<u8>,
    headers: lb_common::trace::Headers,
}

fn told(traces: &mut Traces) -> Vec<Told> {
    let mut all = Vec::new();
    traces.read(usize::MAX, |traced| {
        all.push(Told {
            slots: traced.slots,
            verdict: Verdict::ALL[traced.verdict as usize],
            steps: traced.steps.clone(),
            length: traced.length,
            frame: traced.frame.to_vec(),
            headers: traced.headers,
        });
    });
    all
}

/// A filter of the question that is confirmed for a minute.
fn asked(director: &Director, change: impl FnOnce(&mut Question)) -> Filter {
    let mut question = Question { rate: Some(100_000), ..Question::default() };
    change(&mut question);
    let filter = question.filter(None, director.clock.hz()).expect("a question");
    Filter { until: director.clock.now().after(ticks(60, director.clock.hz())).0, ..filter }
}

fn traced(want: &Desired, change: impl FnOnce(&mut Question)) -> (Director, Traces) {
    let mut director = director(want);
    let mut traces = director.trace().unwrap_or_else(|error| panic!("no tracing program: {error:#}"));
    traces.set(0, asked(&director, change)).expect("a filter");
    (director, traces)
}

/// Services whose packets come to every kind of end, and such packets.
fn everything(kind: Kind) -> (Desired, Vec<Vec<u8>>) {
    let mut want = Desired { services: vec![kind.weighted(PORT, Scheduler::Rr, &[(1, 1), (4, 1)])], ..lab() };
    want.services.extend([(80, 2), (81, 3)].map(|(port, backend)| kind.service(port, &[backend])));
    want.services.push(kind.service(82, &[]));
    want.hosts.insert(kind.backend(2), neighbour(2, ETH1, Tags::new(tag(false, 7), 0)));
    want.hosts.insert(kind.backend(3), HostRoute::Local);
    let open = kind.open();
    let packets = [
        open.clone(),
        open.from_port(CLIENT_PORT + 1),
        kind.later(),
        kind.later(),
        kind.later().from_port(CLIENT_PORT + 1),
        open.to_port(80),
        open.to_port(81),
        open.to_port(82),
        open.to_port(83),
        open.ttl(1),
        kind.later().from_port(CLIENT_PORT + 9),
        open.with(|p| p.payload = vec![7; 1600]),
        open.with(|p| p.to = backend_mac(5)),
        open.with(|p| p.dest.set_ip(kind.backend(7))),
    ];
    let mut frames: Vec<_> = packets.iter().map(Packet::bytes).collect();
    // No IP, and one that ends within its header.
    frames.push([&frames[0][..12], &[8, 6], &[0; 46]].concat());
    frames.push(frames[0][..30].to_vec());
    (want, frames)
}

#[test]
fn it_does_what_the_ordinary_program_does_and_says_so() {
    let mut seen = BTreeSet::new();
    for kind in ALL_KINDS {
        let (want, frames) = everything(kind);
        let mut ordinary = director(&want);
        let (mut director, mut traces) = traced(&want, |question| question.snap = Some(MAX_SNAP as u32));
        for (n, frame) in frames.iter().enumerate() {
            let expected = ordinary.run(frame).expect("a run");
            let real = director.run(frame).expect("a run");
            assert_eq!(
                (real.action, &real.frame, &real.moved),
                (expected.action, &expected.frame, &expected.moved)
            );
            let all = told(&mut traces);
            let [report] = all.as_slice() else { panic!("{} packet {n}: {all:?}", kind.name) };
            let verdict = real.verdict().expect("one verdict");
            assert_eq!((report.slots, report.verdict), (1, verdict), "{} packet {n}: {report:?}", kind.name);
            assert_eq!(report.steps.last().copied(), Some((Step::Verdict, [verdict as u64, 0])));
            assert_eq!(report.length as usize, frame.len());
            assert_eq!(report.frame, frame[..frame.len().min(MAX_SNAP)], "as it came, not as it left");
            seen.insert(verdict.name());
            seen.extend(report.steps.iter().map(|(step, _)| match step {
                Step::Flow => "a known flow",
                Step::Opened => "an opened one",
                Step::Scheduled => "a scheduled one",
                Step::Host => "its host",
                _ => "something else",
            }));
        }
        assert_eq!(traces.lost(0).expect("counts"), Lost::default());
        // Counters, flows and all else are what the ordinary program made of the same packets.
        let (one, other) = (ordinary.flows().len(), director.flows().len());
        assert_eq!(one, other);
    }
    let expected = [
        Verdict::ForwardedTx,
        Verdict::ForwardedRedirect,
        Verdict::PassedLocalBackend,
        Verdict::PassedNotForUs,
        Verdict::PassedNotIp,
        Verdict::PassedMalformed,
        Verdict::PassedNoService,
        Verdict::AnsweredTtl,
        Verdict::AnsweredTooBig,
        Verdict::DroppedNoFlow,
        Verdict::DroppedNoBackend,
    ];
    for name in expected.map(Verdict::name).into_iter().chain(["a known flow", "an opened one", "its host"]) {
        assert!(seen.contains(name), "no packet met {name}: {seen:?}");
    }
}

/// Swapped in and out, nothing of flows and counters is changed by that.
#[test]
fn nothing_stays_of_a_trace() {
    let (want, frames) = everything(TCP4);
    let mut director = director(&want);
    for frame in &frames {
        director.run(frame).expect("a run");
    }
    let (before, flows) = (director.maps().snapshot().expect("a snapshot"), director.flows().len());
    let mut traces = director.trace().expect("a tracing program");
    traces.set(0, asked(&director, |_| {})).expect("a filter");
    drop(traces);
    let tracing = director.run(&TCP4.later().bytes()).expect("nobody hears it, and it forwards");
    assert_eq!(tracing.verdict().expect("one"), Verdict::ForwardedTx);
    director.trace_no_more().expect("the ordinary program");
    let ordinary = director.run(&TCP4.later().bytes()).expect("a run");
    assert_eq!((ordinary.action, ordinary.frame), (tracing.action, tracing.frame));
    assert!(before == director.maps().snapshot().expect("a snapshot"), "the configuration is another one");
    assert_eq!(director.flows().len(), flows);
}

#[test]
fn each_filter_is_honoured() {
    let want = every_kind();
    let packets: Vec<_> = [TCP4, UDP4, TCP6, SCTP4]
        .iter()
        .flat_map(|kind| [kind.open(), kind.open().from_port(5), kind.open().to_port(9)])
        .collect();
    let count = |change: &dyn Fn(&mut Question)| {
        let (mut director, mut traces) = traced(&want, change);
        for packet in &packets {
            director.run(&packet.bytes()).expect("a run");
        }
        told(&mut traces).len()
    };
    let place = |text: &str| Some(text.parse().expect("a place"));
    assert_eq!(count(&|_| {}), 12);
    assert_eq!(count(&|q| q.protocol = "tcp".parse().ok()), 6);
    assert_eq!(count(&|q| q.protocol = "sctp".parse().ok()), 3);
    assert_eq!(count(&|q| q.to = place("172.18.14.100")), 9);
    assert_eq!(count(&|q| q.to = place("172.18.14.100:3306")), 6);
    assert_eq!(count(&|q| q.to = place("[fd00:14::]/32")), 3);
    assert_eq!(count(&|q| q.to = place(":9")), 4);
    assert_eq!(count(&|q| q.from = place("10.1.2.0/24:5")), 3);
    assert_eq!(count(&|q| q.from = place("10.1.3.0/24")), 0);
    assert_eq!(count(&|q| q.only = Some("passed".to_owned())), 4);
    assert_eq!(count(&|q| q.only = Some("forwarded,passed-no-service".to_owned())), 12);
    assert_eq!(count(&|q| q.only = Some("dropped".to_owned())), 0);
    assert_eq!(
        count(&|q| (q.protocol, q.from, q.only) =
            ("tcp".parse().ok(), place(":5"), Some("forwarded".to_owned()))),
        2
    );
}

#[test]
fn a_service_s_packets_are_told_apart_by_its_id() {
    let (mut director, mut traces) = traced(&every_kind(), |_| {});
    let held = director.maps().snapshot().expect("a snapshot");
    let id = |kind: Kind| {
        let name = kind.service(PORT, &[]).name;
        let found = held.services.iter().find(|(_, record)| lb::plan::name_of(&record.name) == name.as_str());
        u32::from(*found.expect("the service").0)
    };
    let filter = asked(&director, |_| {});
    traces.set(0, Filter { service: id(UDP4), ..filter }).expect("a filter");
    for kind in ALL_KINDS {
        director.run(&kind.open().bytes()).expect("a run");
        director.run(&kind.later().bytes()).expect("a run");
    }
    let all = told(&mut traces);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(
        all.iter().all(|told| told.headers.protocol == lb_common::protocol::UDP && told.headers.family == 4)
    );
}

#[test]
fn several_traces_get_their_own() {
    let (mut director, mut traces) = traced(&every_kind(), |q| q.protocol = "udp".parse().ok());
    traces.set(3, asked(&director, |q| q.snap = Some(100))).expect("a filter");
    director.run(&TCP4.open().bytes()).expect("a run");
    director.run(&UDP6.open().bytes()).expect("a run");
    let slots: Vec<_> = told(&mut traces).iter().map(|told| told.slots).collect();
    assert_eq!(slots, [0b1000, 0b1001]);
    traces.set(3, Filter::default()).expect("a filter");
    director.run(&TCP4.open().bytes()).expect("a run");
    assert!(told(&mut traces).is_empty(), "its trace has ended");
}

#[test]
fn a_filter_that_nobody_confirms_ends() {
    let (mut director, mut traces) = traced(&every_kind(), |_| {});
    let filter = asked(&director, |_| {});
    traces.set(0, Filter { until: director.clock.now().0.wrapping_sub(1), ..filter }).expect("a filter");
    director.run(&TCP4.open().bytes()).expect("a run");
    assert!(told(&mut traces).is_empty());
    assert_eq!(traces.lost(0).expect("counts"), Lost::default());
}

#[test]
fn samples_are_about_as_many_as_was_asked() {
    let (mut director, mut traces) = traced(&every_kind(), |q| q.sample = Some(4));
    let frame = TCP4.open().flags(SYN).bytes();
    for _ in 0..2000 {
        director.send(&frame, None).expect("a run");
    }
    // 500 expected, with a standard deviation of 19.
    let told = told(&mut traces).len();
    assert!((350..650).contains(&told), "{told} of 2,000");
}

#[test]
fn what_is_above_the_rate_or_finds_the_ring_full_is_counted() {
    const SENT: u64 = 1200;
    let (mut director, mut traces) = traced(&every_kind(), |q| q.rate = Some(1));
    let frame = UDP4.open().with(|p| p.payload = vec![1; 1450]).bytes();
    for _ in 0..SENT {
        director.send(&frame, None).expect("a run");
    }
    let reported = told(&mut traces).len() as u64;
    let lost = traces.lost(0).expect("counts");
    assert!(reported > 0 && lost.over_rate > 0, "{reported}, {lost:?}");
    assert_eq!((reported + lost.over_rate, lost.ring_full), (SENT, 0));
    traces.forget_lost(0).expect("anew");
    // A MiB holds some 450 of these.
    traces.set(0, asked(&director, |q| q.snap = Some(MAX_SNAP as u32))).expect("a filter");
    for _ in 0..SENT {
        director.send(&frame, None).expect("a run");
    }
    let reported = told(&mut traces).len() as u64;
    let lost = traces.lost(0).expect("counts");
    assert!(reported > 300 && lost.ring_full > 300, "{reported}, {lost:?}");
    assert_eq!((reported + lost.ring_full, lost.over_rate), (SENT, 0));
    director.send(&frame, None).expect("a run");
    assert_eq!(told(&mut traces).len(), 1, "there is room again");
}
