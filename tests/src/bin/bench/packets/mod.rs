//! What the director's program costs per packet, measured by the kernel (BPF_PROG_TEST_RUN) beside what it is compared
//! with: a bare MAC swap, the same program on a kernel LRU map, the same program without a flow table.
//!
//! A program of lb-ebpf/src/bench.rs makes the packets and calls the one under test; what it costs itself is measured
//! in the same rounds and taken off. Each round measures every row once.

mod rows;
mod targets;

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, Guard, Limits, Scheduler, Service};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};
use serde::Serialize;

use self::rows::{Program, Row, rows};
use crate::{
    pace::{Above, Pace},
    report::{Report, print_above},
    world::{PORT, VIP4, VIP6, backend, datagram, datagrams, desired, establish, open, service},
};

pub static LRU: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-lru.o"));
static STUB: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-stub.o"));

const ROUNDS: usize = 31;
/// Packets of a measurement.
const PACKETS: u32 = 16384;
/// What the tables are rated for, the kernel's, too; half as many are established.
const FLOWS: u32 = 1 << 20;
const SIZES: FlowSizes = FlowSizes { ipv4: FLOWS, wide: 1 << 18 };
const LIMITS: Limits = Limits { services: 64, destinations: 256, endpoints: 256 };
const FLOWS4: u32 = FLOWS / 2;
/// Of IPv6, and of UDP of each family.
const FLOWS6: u32 = 1 << 16;
/// Seconds from now in which what only a SYN opened has expired (60 s), and nothing else has.
const LATER: u32 = 100;
/// New flows a second of the guarded service.
const GUARD: u32 = 1000;

/// Figures of one row.
#[derive(Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub program: Program,
    #[serde(flatten)]
    pub above: Above,
}

/// What the run showed.
#[derive(Serialize)]
pub struct Packets {
    #[serde(flatten)]
    report: Report<Figure>,
    instructions_verified: u32,
    targets: Vec<targets::Judged>,
}

/// Measures, prints the table and the targets. `beside`: an object to measure in the same run.
pub fn packets(beside: Option<&[u8]>) -> Result<Packets> {
    let mut bench = Bench::new(beside)?;
    let mut rows = rows(beside.is_some());
    let mut pace = Pace::default();
    for _ in 0..ROUNDS {
        pace.round(|| rows.iter_mut().try_for_each(|row| bench.measure(row)))?;
        // Each round finds as many flows as the first.
        for director in [Some(&mut bench.programs.ours), bench.programs.beside.as_mut()].into_iter().flatten()
        {
            director.sweep_in(LATER)?;
        }
    }
    let figures = net(&pace, &rows);
    let targets = targets::judge(&figures)?;
    targets::print(&targets);
    println!();
    let named = |figure: &Figure| format!("{}{}", figure.name, figure.program.suffix());
    print_above(ROUNDS, figures.iter().map(|figure| (named(figure), &figure.above)));
    let instructions_verified = bench.programs.ours.verified_instructions()?;
    println!("\n{instructions_verified} instructions verified; {pace}");
    Ok(Packets { report: Report::new(&pace, figures), instructions_verified, targets })
}

/// Figures without the wrapper's cost, which has a row for each family.
fn net(pace: &Pace, rows: &[Row]) -> Vec<Figure> {
    let (wrappers, rows): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.program == Program::Nothing);
    let figure = |row: &Row| {
        let wrapper = wrappers.iter().find(|wrapper| wrapper.feed.is_ipv6 == row.feed.is_ipv6);
        let above = pace.above(&row.rounds, wrapper.map_or(&[], |wrapper| &wrapper.rounds));
        Figure { name: row.name, program: row.program, above }
    };
    rows.into_iter().map(figure).collect()
}

struct Bench {
    programs: Programs,
    feeder: Feeder,
}

/// The programs under test, each on maps of its own.
struct Programs {
    ours: Director,
    lru: Director,
    full_lru: Director,
    stub: Director,
    beside: Option<Director>,
}

impl Programs {
    fn director(&mut self, program: Program) -> &mut Director {
        match program {
            Program::Lru => &mut self.lru,
            Program::FullLru => &mut self.full_lru,
            Program::Stub => &mut self.stub,
            Program::Beside => self.beside.as_mut().unwrap_or(&mut self.ours),
            Program::Nothing | Program::Swap | Program::Ours => &mut self.ours,
        }
    }
}

impl Bench {
    fn new(beside: Option<&[u8]>) -> Result<Self> {
        let build = |build| Director::build(build, SIZES, LIMITS, &desired(services(Guard::Off)));
        let (ours, stub) = (build(None)?, build(Some(STUB))?);
        let (lru, full_lru) = (build(Some(LRU))?, build(Some(LRU))?);
        let beside = beside.map(|object| build(Some(object))).transpose()?;
        let programs = Programs { ours, lru, full_lru, stub, beside };
        let mut bench = Self { programs, feeder: Feeder::new()? };
        bench.establish_all(Program::Lru)?;
        // Only opened: what has not been looked up since goes first.
        bench.aim(Program::FullLru)?;
        for (vip, flows) in [(VIP4, SIZES.ipv4), (VIP6, SIZES.wide)] {
            bench.feeder.run(&open(vip).bytes(), &mut Feed::new_flows(&open(vip)), flows)?;
        }
        for program in [Some(Program::Ours), bench.programs.beside.as_ref().map(|_| Program::Beside)]
            .into_iter()
            .flatten()
        {
            bench.establish_all(program)?;
            establish(&mut bench.feeder, &open(rows::GUARDED), 1)?;
            let director = bench.programs.director(program);
            let (stored, opened) = (director.flows().len(), (FLOWS4 + 3 * FLOWS6 + 1) as usize);
            ensure!(stored == opened, "{stored} of {opened} flows are in the tables");
            // Its established flow comes before the guard, as in life.
            director.configure(&desired(services(Guard::Rate(GUARD))))?;
        }
        Ok(bench)
    }

    /// All known flows of the rows, in the tables of this program. They are measured in another order.
    fn establish_all(&mut self, program: Program) -> Result<()> {
        self.aim(program)?;
        establish(&mut self.feeder, &open(VIP4), FLOWS4)?;
        establish(&mut self.feeder, &open(VIP6), FLOWS6)?;
        [VIP4, VIP6].into_iter().try_for_each(|vip| {
            let mut feed = Feed::new_flows(&datagram(vip));
            self.feeder.run(&datagram(vip).bytes(), &mut feed, FLOWS6).map(drop)
        })
    }

    fn aim(&mut self, program: Program) -> Result<()> {
        let target = match program {
            Program::Nothing => Target::Nothing,
            Program::Swap => Target::Swap,
            _ => Target::Director,
        };
        self.feeder.aim(target, self.programs.director(program))
    }

    fn measure(&mut self, row: &mut Row) -> Result<()> {
        self.aim(row.program)?;
        if row.warm_up != 0 {
            self.feeder.run(&row.frame, &mut row.feed, row.warm_up)?;
        }
        let director = self.programs.director(row.program);
        let send = || self.feeder.run(&row.frame, &mut row.feed, PACKETS);
        row.rounds.push(row.expected.hold(row.name, director, PACKETS, send)?);
        Ok(())
    }
}

/// What is measured at: a service of each kind.
fn services(guard: Guard) -> Vec<Service> {
    let of =
        |vip, scheduler, backends| service(vip, PORT, scheduler, (1..=backends).map(|n| backend(vip, n)));
    let mut guarded = of(rows::GUARDED, Scheduler::Rr, 2);
    guarded.options.guard = guard;
    let plain = [VIP4, VIP6].map(|vip| of(vip, Scheduler::Rr, 2));
    let udp = plain.each_ref().map(datagrams);
    plain.into_iter().chain(udp).chain([of(rows::LOAD, Scheduler::Wlc, 32), guarded]).collect()
}
