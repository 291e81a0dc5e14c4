//! Whole packets on a wire: live frames from a generator through a director to a sink that counts them, over veth pairs
//! between namespaces. Beside the director's program: the least that forwards in XDP, and the kernel's forwarding.
//!
//! One CPU does all three parts, in turn: the kernel makes a batch of frames, and before it makes the next one the
//! softirqs of this CPU take it through director and sink. So the generator is held back by what it feeds, no ring is
//! ever full, and the rate found is the highest without loss. What a ring drops nobody else tells, so frames are counted
//! where they are made and where they arrive. A packet's time has generator and sink in it; `generator alone` says how
//! much that is.

mod ways;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_common::{
    tcp::flag::{ACK, SYN},
    verdict::Verdict,
};
use lb_tests::{clock, feeder::Feed, packet::Packet};
use serde::Serialize;

use self::ways::{Way, Wire};
use crate::{
    pace::Pace,
    report::Report,
    world::{VIP4, VIP6, counted, datagram, open},
};

const ROUNDS: usize = 31;
/// Packets of a measurement: some milliseconds.
const PACKETS: u32 = 32768;
/// Established ones; rows of fewer use the first of them.
const FLOWS: u32 = 1 << 19;
/// Seconds from now in which what only a SYN opened has expired (60 s), and nothing else has.
const LATER: u32 = 100;
/// No frame has come for so long: those that are missing are lost.
const SILENCE: Duration = Duration::from_millis(200);
/// Of the packets a second of the least that forwards.
const AT_LEAST: f64 = 0.78;

const BARE: &str = "bare rewrite and redirect, 1 flow";
const HOT: &str = "lb, 1 known flow";
const SOME: &str = "lb, 1 k known flows";

struct Row {
    name: &'static str,
    way: Way,
    frame: Vec<u8>,
    feed: Feed,
    warm_up: u32,
    rounds: Vec<Duration>,
    sent: u64,
    arrived: u64,
}

/// Figures of one row.
#[derive(Serialize)]
pub struct Figure {
    name: &'static str,
    /// Of the best round, and of the median one.
    packets_per_second: f64,
    median_packets_per_second: f64,
    /// Each round's, ns per packet.
    rounds: Vec<f64>,
    /// Of all rounds.
    sent: u64,
    arrived: u64,
}

#[derive(Serialize)]
struct Judged {
    what: String,
    measured: f64,
    at_least: f64,
    holds: bool,
}

/// What the run showed.
#[derive(Serialize)]
pub struct Wired {
    #[serde(flatten)]
    report: Report<Figure>,
    targets: Vec<Judged>,
}

/// Measures, prints the table and the targets.
pub fn wire() -> Result<Wired> {
    let mut wire = Wire::build()?;
    establish(&mut wire)?;
    let mut rows = rows();
    let mut pace = Pace::default();
    for _ in 0..ROUNDS {
        pace.round(|| rows.iter_mut().try_for_each(|row| measure(&mut wire, row)))?;
        // Each round finds as many flows as the first.
        wire.ours.sweep_in(LATER)?;
    }
    let figures: Vec<_> = rows.iter().map(|row| row.figure(&pace)).collect();
    print(&figures);
    println!("\n{pace}");
    let targets = judge(&figures);
    println!("\n{:<72}{:>9}{:>9}", "target", "measured", "at least");
    for Judged { what, measured, at_least, holds } in &targets {
        println!("{what:<72}{measured:>9.2}{at_least:>9.2}  {}", if *holds { "holds" } else { "MISSED" });
    }
    Ok(Wired { report: Report::new(&pace, figures), targets })
}

fn rows() -> Vec<Row> {
    let ack = |vip| open(vip).flags(ACK);
    let known = |name, way, flows| Row::new(name, way, &ack(VIP4), Feed::of(&open(VIP4), flows), flows);
    let one = |name, packet: Packet| Row::new(name, Way::Ours, &packet, Feed::of(&packet, 1), 1);
    let new = |name, way| {
        // Beyond all that are established, and none twice.
        let feed = Feed::new_flows(&open(VIP4)).from_number(FLOWS.into());
        Row::new(name, way, &open(VIP4), feed, 0)
    };
    vec![
        known("generator alone (dropped where it arrives)", Way::Drop, 1),
        known(BARE, Way::Bare, 1),
        known("bare rewrite and redirect, 512 k flows", Way::Bare, FLOWS),
        known(HOT, Way::Ours, 1),
        known(SOME, Way::Ours, 1 << 10),
        one("lb, 1 known flow, UDP", datagram(VIP4)),
        one("lb, 1 known flow, IPv6", ack(VIP6)),
        one("lb, 1 known flow, IPv6 UDP", datagram(VIP6)),
        known("lb, 64 k known flows", Way::Ours, 1 << 16),
        known("lb, 512 k known flows", Way::Ours, FLOWS),
        new("lb, a new flow per packet", Way::Ours),
        known("the kernel's forwarding, 1 flow", Way::Kernel, 1),
        known("the kernel's forwarding, 512 k flows", Way::Kernel, FLOWS),
        new("the kernel's forwarding, a new flow per packet", Way::Kernel),
    ]
}

impl Row {
    fn new(name: &'static str, way: Way, packet: &Packet, feed: Feed, warm_up: u32) -> Self {
        let frame = packet.bytes();
        Self { name, way, frame, feed, warm_up, rounds: Vec::new(), sent: 0, arrived: 0 }
    }

    fn figure(&self, pace: &Pace) -> Figure {
        let (best, median) = pace.figures(&self.rounds);
        let rate = |time: Duration| f64::from(PACKETS) / time.as_secs_f64().max(1e-9);
        let each = |time: &Duration| time.as_secs_f64() * 1e9 / f64::from(PACKETS);
        Figure {
            name: self.name,
            packets_per_second: rate(best),
            median_packets_per_second: rate(median),
            rounds: self.rounds.iter().map(each).collect(),
            sent: self.sent,
            arrived: self.arrived,
        }
    }
}

/// Opens the flows and completes their handshake, in the order in which they are not measured.
fn establish(wire: &mut Wire) -> Result<()> {
    let of = |vip, flows| [SYN, ACK].map(|flags| (open(vip).flags(flags), flows));
    let datagrams = [VIP4, VIP6].map(|vip| (datagram(vip), 1));
    for (packet, flows) in of(VIP4, FLOWS).into_iter().chain(of(VIP6, 1)).chain(datagrams) {
        send(wire, Way::Ours, &packet.bytes(), &mut Feed::new_flows(&packet), flows)?;
    }
    let (stored, opened) = (wire.ours.flows().len(), FLOWS as usize + 3);
    ensure!(stored == opened, "{stored} of {opened} flows are in the tables");
    Ok(())
}

fn measure(wire: &mut Wire, row: &mut Row) -> Result<()> {
    if row.warm_up != 0 {
        send(wire, row.way, &row.frame, &mut row.feed, row.warm_up)?;
    }
    let forwarded = |wire: &Wire| counted(&wire.ours, Verdict::ForwardedRedirect.name());
    let before = forwarded(wire)?;
    let (arrived, took) = send(wire, row.way, &row.frame, &mut row.feed, PACKETS)?;
    row.rounds.push(took);
    row.sent += u64::from(PACKETS);
    row.arrived += arrived;
    if row.way == Way::Ours {
        let counted = forwarded(wire)? - before;
        ensure!(counted >= arrived, "{}: {arrived} arrived, the director counted {counted}", row.name);
    }
    Ok(())
}

/// How many of so many packets arrived, and the time that it took.
fn send(wire: &mut Wire, way: Way, frame: &[u8], feed: &mut Feed, packets: u32) -> Result<(u64, Duration)> {
    let first = feed.counter;
    let elsewhere = softirqs_elsewhere()?;
    let (arrived, took) = wire.at_generator(|feeder| -> Result<_> {
        let before = feeder.arrived()?;
        let took = feeder.transmit(frame, feed, packets, way.first())?;
        let (mut last, mut changed) = (0, clock::now());
        loop {
            let arrived = feeder.arrived()? - before;
            if arrived >= u64::from(packets) || changed.elapsed() > SILENCE {
                return Ok((arrived, took));
            }
            if arrived != last {
                (last, changed) = (arrived, clock::now());
            }
        }
    })??;
    let made = feed.counter - first;
    ensure!(made == u64::from(packets), "{made} packets were made instead of {packets}");
    ensure!(arrived <= made, "{arrived} frames arrived, {made} were sent");
    Ok((arrived, took + (softirqs_elsewhere()? - elsewhere)))
}

/// CPU time of the thread that has softirqs left to it when there are too many: the kernel does not count that of a run.
/// It has other people's too, so a round may be said to be slower than it was, never faster.
fn softirqs_elsewhere() -> Result<Duration> {
    let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let is_it =
        |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "ksoftirqd/0\n");
    let thread = processes.find(is_it).context("no thread ksoftirqd/0")?;
    // Documentation/scheduler/sched-stats.rst: ns on the CPU come first.
    let text = fs::read_to_string(thread.join("schedstat"))?;
    let time = text.split_whitespace().next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(time.parse()?))
}

fn print(figures: &[Figure]) {
    let bare = figures.iter().find(|figure| figure.name == BARE).map_or(0.0, |bare| bare.packets_per_second);
    let head = format!("one CPU, {ROUNDS} rounds of {PACKETS} packets");
    println!(
        "{head:<50}{:>11}{:>9}{:>11}{:>9}{:>11}{:>7}",
        "M packets/s", "median", "ns/packet", "of bare", "sent", "lost"
    );
    for figure in figures {
        let Figure { name, packets_per_second: best, median_packets_per_second: median, .. } = figure;
        let Figure { sent, arrived, .. } = figure;
        println!(
            "{name:<50}{:>11.2}{:>9.2}{:>11.0}{:>7.0} %{sent:>11}{:>7}",
            best / 1e6,
            median / 1e6,
            1e9 / best,
            100.0 * best / bare,
            sent - arrived,
        );
    }
}

fn judge(figures: &[Figure]) -> Vec<Judged> {
    let rate = |name| figures.iter().find(|it| it.name == name).map_or(0.0, |it| it.packets_per_second);
    let mut judged: Vec<_> = [HOT, SOME]
        .map(|name| {
            let measured = rate(name) / rate(BARE);
            let what = format!("{name} : {BARE}, packets a second");
            Judged { what, measured, at_least: AT_LEAST, holds: measured >= AT_LEAST }
        })
        .into();
    let (sent, arrived) =
        figures.iter().fold((0, 0), |(sent, arrived), it| (sent + it.sent, arrived + it.arrived));
    let measured = arrived as f64 / sent as f64;
    judged.push(Judged {
        what: "packets that arrived, of those sent".to_owned(),
        measured,
        at_least: 1.0,
        holds: arrived == sent,
    });
    judged
}
