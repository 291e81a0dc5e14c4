//! The thread that hears the programs' reports and hands them to those who asked. IO.
//!
//! A thread of its own, so that neither a flood of reports nor a client that does not read holds the agent up; it runs
//! while somebody traces. Who has gone, or takes nothing for a while, traces no more; and the programs forget all
//! filters by themselves if nobody confirms them, so an agent that dies leaves nobody tracing.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use axum::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use lb_common::{
    tick,
    trace::{Filter, Lost, SLOTS},
};
use tokio::sync::mpsc;

use super::{
    Counts, Packet, Report,
    report::{Raw, hex},
};
use crate::{
    clock::{monotonic, realtime},
    dataplane::{Clock, Layout, Maps, Target, Traced, Traces},
    plan::Snapshot,
};

/// Between two looks at the rings. At the highest rate that can be asked for a CPU writes 2,000 reports meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// Between confirmations to the programs, and between counts for the clients.
const CONFIRM: Duration = Duration::from_secs(1);
/// A program forgets a filter that is not confirmed for so long, in seconds.
const LEASE: u32 = 10;
/// A client that takes nothing for so long has stopped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names are looked up in a picture of the maps that is not older.
const PICTURE: Duration = Duration::from_secs(1);
/// Reports that wait for a client.
const WAITING: usize = 4096;
/// Reports of one ring that are taken before the next ring has its turn.
const AT_ONCE: usize = 4096;

/// Lines of JSON, each a [`Report`], for one client.
pub type Reports = mpsc::Receiver<Bytes>;

/// A trace has ended: said once of each that was begun.
pub type Ended = mpsc::UnboundedSender<()>;

/// The thread. Dropped, it ends, and all traces with it.
#[derive(Debug)]
pub struct Tracer {
    orders: Sender<Order>,
}

enum Order {
    /// A device has another program.
    Program(u32, Program),
    Trace(Box<Trace>),
}

/// The maps of one.
struct Program {
    device: String,
    traces: Box<Traces>,
}

/// Somebody who asked.
struct Trace {
    filter: Filter,
    /// The device whose packets alone are asked about.
    device: Option<String>,
    /// Bytes of each frame that go along.
    snap: Option<usize>,
    reports: mpsc::Sender<Bytes>,
    counts: Counts,
    /// Of programs that were replaced since.
    lost_before: Lost,
    /// Lines that were put into its queue, and how many of them it had taken when it was looked at last.
    queued: usize,
    taken: usize,
    /// When it took something last, or had nothing to take.
    heard: Duration,
}

impl Tracer {
    /// Starts the thread for an instance. `ended` hears of each trace that ends.
    ///
    /// # Errors
    /// The maps cannot be opened, or the system has no thread for us.
    pub fn start(layout: &Layout, clock: Clock, ended: Ended) -> Result<Self> {
        let maps = Maps::pinned(layout)?;
        let (orders, ordered) = channel();
        let mut thread = Thread {
            clock,
            maps,
            picture: Snapshot::default(),
            pictured: None,
            programs: BTreeMap::new(),
            traces: [const { None }; SLOTS],
            ended,
        };
        let spawned = thread::Builder::new().name("trace".to_owned()).spawn(move || thread.run(&ordered));
        spawned.context("starting the thread that hears the program's reports")?;
        Ok(Self { orders })
    }

    /// The program on a device is another one from now on.
    pub fn follow(&self, target: &Target, traces: Traces) {
        let program = Program { device: target.interface.clone(), traces: Box::new(traces) };
        // The thread ends only after us.
        let _ = self.orders.send(Order::Program(target.ifindex, program));
    }

    /// Begins a trace, of all devices or of one. `snap`: how many bytes of each frame go along. The caller sees to it
    /// that there are at most [`SLOTS`].
    pub fn trace(&self, filter: Filter, device: Option<String>, snap: Option<u32>) -> Reports {
        let (reports, heard) = mpsc::channel(WAITING);
        let trace = Trace {
            filter,
            device,
            snap: snap.map(|snap| snap as usize),
            reports,
            counts: Counts::default(),
            lost_before: Lost::default(),
            queued: 0,
            taken: 0,
            heard: monotonic(),
        };
        let _ = self.orders.send(Order::Trace(Box::new(trace)));
        heard
    }
}

struct Thread {
    clock: Clock,
    maps: Maps,
    picture: Snapshot,
    pictured: Option<Duration>,
    programs: BTreeMap<u32, Program>,
    traces: [Option<Trace>; SLOTS],
    ended: Ended,
}

impl Thread {
    fn run(&mut self, orders: &Receiver<Order>) {
        let mut next = monotonic() + CONFIRM;
        loop {
            match orders.recv_timeout(LOOK) {
                Ok(order) => {
                    if let Err(error) = self.obey(order) {
                        tracing::error!("following an order of `lb trace` failed: {error:#}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.read();
            let due = monotonic() >= next;
            if due {
                next = monotonic() + CONFIRM;
            }
            if let Err(error) = self.look_after(due) {
                tracing::error!("confirming what `lb trace` asks failed: {error:#}");
            }
        }
        // Whoever is left is told by the end of its reports.
        for slot in 0..SLOTS {
            let _ = self.end(slot);
        }
    }

    fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Program(ifindex, program) => self.follow(ifindex, program),
            Order::Trace(trace) => self.begin(*trace),
        }
    }

    /// It is there in any case: what fails of it is asked again with the next confirmation.
    fn follow(&mut self, ifindex: u32, program: Program) -> Result<()> {
        // What the one before has reported.
        self.read();
        let before = self.programs.insert(ifindex, program);
        let Some(program) = self.programs.get_mut(&ifindex) else { return Ok(()) };
        for (slot, trace) in self.traces.iter_mut().enumerate() {
            let Some(trace) = trace else { continue };
            if let Some(before) = &before {
                trace.lost_before = sum(trace.lost_before, before.traces.lost(slot)?);
            }
            program.ask(slot, trace, &self.clock)?;
        }
        Ok(())
    }

    /// One that cannot be begun has ended.
    fn begin(&mut self, trace: Trace) -> Result<()> {
        let Some(slot) = self.traces.iter().position(Option::is_none) else {
            let _ = self.ended.send(());
            return Ok(());
        };
        let trace = self.traces[slot].insert(trace);
        let asked = self.programs.values_mut().try_for_each(|program| {
            program.traces.forget_lost(slot)?;
            program.ask(slot, trace, &self.clock)
        });
        if asked.is_ok() {
            // From here on every packet is asked about: whoever waits for that hears it.
            trace.say(&Report::Counts(trace.counts));
            return Ok(());
        }
        let ended = self.end(slot);
        asked.and(ended)
    }

    /// Takes what the programs have reported.
    fn read(&mut self) {
        let mut programs = std::mem::take(&mut self.programs);
        for program in programs.values_mut() {
            program.traces.read(AT_ONCE, |traced| {
                if let Err(error) = self.hear(&traced) {
                    tracing::error!("reading the maps for `lb trace` failed: {error:#}");
                }
            });
        }
        self.programs = programs;
    }

    fn hear(&mut self, traced: &Traced<'_>) -> Result<()> {
        if self.pictured.is_none_or(|pictured| monotonic() >= pictured + PICTURE) {
            self.picture = self.maps.without_rules()?;
            self.pictured = Some(monotonic());
        }
        let raw = Raw {
            time: wall_clock(traced.time),
            headers: traced.headers,
            ingress: traced.ingress,
            length: traced.length,
            steps: traced.steps.clone(),
            frame: traced.frame,
        };
        let packet = Packet::new(&raw, &self.picture, self.clock.hz());
        for (slot, trace) in self.traces.iter_mut().enumerate() {
            let Some(trace) = trace.as_mut().filter(|_| traced.slots >> slot & 1 != 0) else { continue };
            let frame = trace.snap.map(|snap| hex(traced.frame.get(..snap).unwrap_or(traced.frame)));
            let packet = Packet { frame, ..packet.clone() };
            if trace.say(&Report::Packet(Box::new(packet))) {
                trace.counts.reported += 1;
            } else {
                trace.counts.client_slow += 1;
            }
        }
        Ok(())
    }

    /// Ends the traces of those who have gone; confirms the others, if that is `due`.
    fn look_after(&mut self, due: bool) -> Result<()> {
        for slot in 0..SLOTS {
            let Some(trace) = &mut self.traces[slot] else { continue };
            if trace.reports.is_closed() || !trace.is_heard() {
                self.end(slot)?;
                continue;
            }
            if !due {
                continue;
            }
            let mut lost = trace.lost_before;
            for program in self.programs.values_mut() {
                program.ask(slot, trace, &self.clock)?;
                lost = sum(lost, program.traces.lost(slot)?);
            }
            (trace.counts.over_rate, trace.counts.ring_full) = (lost.over_rate, lost.ring_full);
            trace.say(&Report::Counts(trace.counts));
        }
        Ok(())
    }

    fn end(&mut self, slot: usize) -> Result<()> {
        if self.traces[slot].take().is_none() {
            return Ok(());
        }
        let _ = self.ended.send(());
        self.programs.values_mut().try_for_each(|program| program.traces.set(slot, Filter::default()))
    }
}

impl Program {
    /// Asks about what `trace` wants, for a while: nothing, if it is about another device.
    fn ask(&mut self, slot: usize, trace: &Trace, clock: &Clock) -> Result<()> {
        let is_asked = trace.device.as_ref().is_none_or(|device| *device == self.device);
        let filter = if is_asked { confirmed(trace.filter, clock) } else { Filter::default() };
        self.traces.set(slot, filter)
    }
}

impl Trace {
    /// Whether there was room for it.
    fn say(&mut self, report: &Report) -> bool {
        let Ok(mut line) = serde_json::to_vec(report) else { return false };
        line.push(b'\n');
        let said = self.reports.try_send(line.into()).is_ok();
        self.queued += usize::from(said);
        said
    }

    /// Whether its client takes what it is told.
    fn is_heard(&mut self) -> bool {
        let waiting = self.reports.max_capacity() - self.reports.capacity();
        let taken = self.queued - waiting;
        if waiting == 0 || taken != self.taken {
            (self.taken, self.heard) = (taken, monotonic());
        }
        monotonic() < self.heard + PATIENCE
    }
}

fn confirmed(filter: Filter, clock: &Clock) -> Filter {
    Filter { until: clock.now().after(tick::ticks(LEASE, clock.hz())).0, ..filter }
}

fn sum(one: Lost, other: Lost) -> Lost {
    Lost { over_rate: one.over_rate + other.over_rate, ring_full: one.ring_full + other.ring_full }
}

/// CLOCK_REALTIME at an instant of CLOCK_MONOTONIC.
fn wall_clock(nanoseconds: u64) -> Timestamp {
    let ago = monotonic().saturating_sub(Duration::from_nanos(nanoseconds));
    let ago = SignedDuration::try_from(ago).unwrap_or_default();
    realtime().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
}
