//! What a packet of a known connection costs while somebody traces, beside the ordinary program, on the same maps.
//!
//! A report's cost is that of the program alone: the ring is emptied between measurements.

use anyhow::{Result, ensure};
use lb::{
    dataplane::Traces,
    model::{FlowSizes, Limits, Scheduler},
    trace::Question,
};
use lb_common::{
    tcp::flag::ACK,
    tick::ticks,
    trace::{Filter, MAX_SNAP},
    verdict::Verdict,
};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use crate::{
    expected::Expected,
    pace::{Above, Pace},
    report::{Report, print_above},
    world::{PORT, VIP4, backend, desired, establish, open, service},
};

const ROUNDS: usize = 31;
/// Packets of a measurement: so many reports of the longest kind fit into the ring.
const PACKETS: u32 = 400;
/// Before them: the first row meets a program that was just loaded.
const WARM_UP: u32 = 16384;
const FLOWS: u32 = 256;
const SIZES: FlowSizes = FlowSizes { ipv4: 4096, wide: 1024 };
const LIMITS: Limits = Limits { services: 64, destinations: 256, endpoints: 256 };

struct Row {
    name: &'static str,
    /// None: the ordinary program.
    filter: Option<Filter>,
    /// Whether each packet is reported.
    reported: bool,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

/// ns per packet above the wrapper.
#[derive(Serialize)]
pub struct Figure {
    name: &'static str,
    #[serde(flatten)]
    above: Above,
}

fn rows() -> Result<Vec<Row>> {
    let hz = lb::clock::kernel_hz();
    let asked = |change: fn(&mut Question)| {
        let mut question = Question { rate: Some(100_000), ..Question::default() };
        change(&mut question);
        question.filter(None, hz).map_err(anyhow::Error::msg)
    };
    let row = |name, filter, reported| Row { name, filter, reported, rounds: Vec::new() };
    Ok(vec![
        row("the ordinary program", None, false),
        row("the one that traces, no filter", Some(Filter::default()), false),
        row("a filter for another address", Some(asked(|q| q.to = "192.0.2.1".parse().ok())?), false),
        row("one that samples, and not this one", Some(Filter { sample: 0, ..asked(|_| {})? }), false),
        row("above the rate", Some(Filter { per_tick: 0, ..asked(|_| {})? }), false),
        row("for dropped ones only", Some(asked(|q| q.only = Some("dropped".to_owned()))?), false),
        row("reported", Some(asked(|_| {})?), true),
        // The frames here have 74 bytes.
        row("reported with its frame", Some(asked(|q| q.snap = Some(MAX_SNAP as u32))?), true),
    ])
}

/// Measures and prints the table.
pub fn trace() -> Result<Report<Figure>> {
    let addresses = (1..=2).map(|n| backend(VIP4, n));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::with_limits(SIZES, LIMITS, &want)?;
    let mut feeder = Feeder::new()?;
    let open = open(VIP4);
    feeder.aim(Target::Director, &mut director)?;
    establish(&mut feeder, &open, FLOWS)?;
    ensure!(director.flows().len() == FLOWS as usize, "{} flows", director.flows().len());
    let (mut rows, mut wrapper) = (rows()?, Vec::new());
    // The first one warms up.
    round(&mut feeder, &mut director, &mut rows, &mut wrapper)?;
    rows.iter_mut().map(|row| &mut row.rounds).chain([&mut wrapper]).for_each(Vec::clear);
    let mut pace = Pace::default();
    for _ in 0..ROUNDS {
        pace.round(|| round(&mut feeder, &mut director, &mut rows, &mut wrapper))?;
    }
    let figure = |row: &Row| Figure { name: row.name, above: pace.above(&row.rounds, &wrapper) };
    let figures: Vec<_> = rows.iter().map(figure).collect();
    print_above(ROUNDS, figures.iter().map(|figure| (figure.name.to_owned(), &figure.above)));
    println!("\n{} instructions verified; {pace}", director.verified_instructions()?);
    Ok(Report::new(&pace, figures))
}

/// The wrapper, and every row once.
fn round(
    feeder: &mut Feeder,
    director: &mut Director,
    rows: &mut [Row],
    wrapper: &mut Vec<u32>,
) -> Result<()> {
    let open = open(VIP4).flags(ACK);
    let mut feed = Feed::of(&open, FLOWS);
    director.trace_no_more()?;
    feeder.aim(Target::Nothing, director)?;
    feeder.run(&open.bytes(), &mut feed, WARM_UP)?;
    wrapper.push(feeder.run(&open.bytes(), &mut feed, PACKETS)?);
    let mut traces: Option<Traces> = None;
    for row in rows {
        if row.filter.is_some() && traces.is_none() {
            traces = Some(director.trace()?);
        }
        let nanoseconds = measure(feeder, director, &mut traces, row)?;
        row.rounds.push(nanoseconds);
    }
    Ok(())
}

fn measure(
    feeder: &mut Feeder,
    director: &mut Director,
    traces: &mut Option<Traces>,
    row: &Row,
) -> Result<u32> {
    let open = open(VIP4).flags(ACK);
    let mut feed = Feed::of(&open, FLOWS);
    if let (Some(filter), Some(traces)) = (row.filter, traces.as_mut()) {
        let until = director.clock.now().after(ticks(60, director.clock.hz())).0;
        traces.set(0, Filter { until, ..filter })?;
    }
    feeder.aim(Target::Director, director)?;
    feeder.run(&open.bytes(), &mut feed, if row.reported { PACKETS } else { WARM_UP })?;
    if let Some(traces) = traces {
        traces.read(usize::MAX, |_| {});
    }
    let send = || feeder.run(&open.bytes(), &mut feed, PACKETS);
    let nanoseconds = Expected::each(Verdict::ForwardedTx).hold(row.name, director, PACKETS, send)?;
    let mut reported = 0;
    if let Some(traces) = traces {
        traces.read(usize::MAX, |_| reported += 1);
    }
    let expected = if row.reported { PACKETS } else { 0 };
    ensure!(reported == expected, "{}: {reported} of {PACKETS} packets were reported", row.name);
    Ok(nanoseconds)
}
