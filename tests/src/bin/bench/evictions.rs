//! Too many flows: how many live ones lose their entry, and how many new ones get none.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, Scheduler};
use lb_common::{
    tcp::{
        State,
        flag::{ACK, SYN},
    },
    verdict::Event,
};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use crate::{
    pace::Pace,
    report::Report,
    world::{PORT, VIP4, backend, counted, desired, open, service},
};

/// A quarter of the slots.
const RATED: u32 = 1 << 20;
/// Of the rated capacity.
const LOADS: [(f64, u32); 3] = [(0.5, RATED / 2), (1.0, RATED), (2.0, 2 * RATED)];
/// Connections that are in their handshake together.
const AT_ONCE: u32 = 1024;

/// Of one load, before or after the half-open ones.
#[derive(Serialize)]
pub struct Figure {
    what: String,
    established: usize,
    opened_beside: u32,
    evicted_live: u64,
    without_entry: u64,
}

/// Prints the table: connections are opened and established up to a load, then as many are opened beside them as the
/// table is rated for, and not completed.
pub fn evictions() -> Result<Report<Figure>> {
    println!(
        "table rated for {RATED} flows                established opened beside  evicted live  without entry"
    );
    let (mut figures, mut pace) = (Vec::new(), Pace::default());
    for (load, flows) in LOADS {
        let both = pace.round(|| measure(load, flows))?;
        both.iter().for_each(Figure::print);
        figures.extend(both);
    }
    // Nothing here is a time.
    Ok(Report::new(&pace, figures))
}

fn measure(load: f64, flows: u32) -> Result<[Figure; 2]> {
    let addresses = [1, 2].map(|number| backend(VIP4, number));
    let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
    let mut director = Director::new(FlowSizes { ipv4: RATED, wide: 1 << 10 }, &want)?;
    let mut feeder = Feeder::new()?;
    feeder.aim(Target::Director, &mut director)?;
    let packet = open(VIP4);
    let (mut syn, mut ack) = (Feed::new_flows(&packet), Feed::new_flows(&packet));
    for _ in 0..flows / AT_ONCE {
        feeder.run(&packet.bytes(), &mut syn, AT_ONCE)?;
        feeder.run(&packet.flags(ACK).bytes(), &mut ack, AT_ONCE)?;
    }
    let established = established(&director);
    let figure = |what: &str, opened_beside, [evicted_live, without_entry]: [u64; 2]| Figure {
        what: format!("{load} x rated, {what}"),
        established,
        opened_beside,
        evicted_live,
        without_entry,
    };
    let first = events(&director)?;
    feeder.run(&packet.flags(SYN).bytes(), &mut syn, RATED)?;
    let second = events(&director)?;
    let left = self::established(&director);
    ensure!(left == established, "{established} flows were established, {left} are");
    Ok([
        figure("handshakes completed", 0, first),
        figure("then half-open ones", RATED, [second[0] - first[0], second[1] - first[1]]),
    ])
}

impl Figure {
    fn print(&self) {
        let Self { what, established, opened_beside, evicted_live, without_entry } = self;
        println!("{what:<42}{established:>13}{opened_beside:>14}{evicted_live:>14}{without_entry:>15}");
    }
}

fn established(director: &Director) -> usize {
    director.flows().into_iter().filter(|flow| flow.value.state() == State::ESTABLISHED).count()
}

/// Live flows that gave their entry to another, connections that got none.
fn events(director: &Director) -> Result<[u64; 2]> {
    Ok([counted(director, Event::Evicted.name())?, counted(director, Event::PlacedByHash.name())?])
}
