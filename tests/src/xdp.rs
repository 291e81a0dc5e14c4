//! The XDP program in a kernel, on maps of its own, fed with frames through BPF_PROG_TEST_RUN.

mod time;

use anyhow::{Context, Result, bail, ensure};
use aya::{TestRun, TestRunOptions, programs::Xdp};
use lb::{
    clock::kernel_hz,
    dataplane::{Adopted, Clock, FlowEntry, Layout, Maps, Moved, Object, Pins, Sweep, Traces},
    model::{FlowSizes, Limits},
    plan::{Desired, arena_words, plan, reclaim},
};
use lb_common::{
    meta::Meta,
    tick::{self, Tick},
    verdict::Verdict,
};

use crate::scope::Scope;

/// A frame's longest answer.
const MAX_FRAME: usize = 1 << 14;

/// Small tables: a director a test.
pub const SMALL: FlowSizes = FlowSizes { ipv4: 1024, wide: 1024 };

/// A loaded program with pins in a BPF file system of its own. Dropping it, on panic too, takes all of it down; what
/// a killed test leaves behind is swept by the next one ([`Scope::unique`]).
pub struct Director {
    object: Object,
    pub clock: Clock,
    pins: Pins,
    last_sweep: Sweep,
    // Last: the file system goes when nothing of ours is open any more.
    scope: Scope,
}

/// What became of one frame.
#[derive(Clone, Debug)]
pub struct Ran {
    /// `enum xdp_action` (`include/uapi/linux/bpf.h`).
    pub action: u32,
    pub frame: Vec<u8>,
    /// Verdicts and events that were counted, and how often.
    pub moved: Vec<(&'static str, u64)>,
}

impl Director {
    /// Loads the program for link 1 (the first of `want.links`) and configures it.
    pub fn new(sizes: FlowSizes, want: &Desired) -> Result<Self> {
        Self::with_limits(sizes, Limits { services: 64, destinations: 256, endpoints: 256 }, want)
    }

    /// [`Director::new`] for so many services and backends.
    pub fn with_limits(sizes: FlowSizes, limits: Limits, want: &Desired) -> Result<Self> {
        Self::build(None, sizes, limits, want)
    }

    /// [`Director::with_limits`] with another build of the program, to compare them. Flow tables of the kernel's in it
    /// (lb-ebpf/src/flow/lru.rs) are rated alike.
    pub fn build(build: Option<&[u8]>, sizes: FlowSizes, limits: Limits, want: &Desired) -> Result<Self> {
        let scope = Scope::unique()?;
        let layout = Layout::new(scope.bpffs(), "test");
        let arena = arena_words(limits, &want.services);
        let pins = Pins::open(layout, kernel_hz(), sizes, limits, arena)?;
        let mut object = match build {
            Some(build) => {
                let own = [("LRU", sizes.ipv4), ("LRU_WIDE", sizes.wide)];
                Object::open_build(build, &pins.layout, &pins.meta, 1, &own)?
            }
            None => Object::open(&pins.layout, &pins.meta, 1)?,
        };
        let clock = Clock::calibrate(&mut object, &pins.maps, pins.meta.hz)?;
        object.director()?;
        let mut director = Self { object, clock, pins, last_sweep: Sweep::default(), scope };
        director.configure(want)?;
        Ok(director)
    }

    pub fn program(&mut self) -> Result<&mut Xdp> {
        Ok(self.object.director()?)
    }

    pub fn maps(&self) -> &Maps {
        &self.pins.maps
    }

    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.pins.maps
    }

    pub fn meta(&self) -> &Meta {
        &self.pins.meta
    }

    /// What owns the names of whatever else a test needs to make.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn layout(&self) -> &Layout {
        &self.pins.layout
    }

    /// Makes the maps equal to `want`. Planning again must then give nothing.
    pub fn configure(&mut self, want: &Desired) -> Result<()> {
        let want = Desired { hz: self.pins.meta.hz, ..want.clone() };
        let ops = plan(&want, &self.maps().snapshot()?)?;
        self.maps_mut().apply(&ops)?;
        let again = plan(&want, &self.maps().snapshot()?)?;
        ensure!(again.is_empty(), "planning again after applying gave {again:?}");
        Ok(())
    }

    /// Begins to move flows to tables of other sizes: the program looks into both from now on.
    pub fn begin_resize(&mut self, sizes: FlowSizes) -> Result<()> {
        let meta = self.pins.resize(sizes)?;
        self.pins.follow(meta)?;
        self.last_sweep.forget_places();
        self.load(&meta)
    }

    /// One round of moving them.
    pub fn move_flows(&self) -> Moved {
        let mut all = Moved::default();
        (0..).map_while(|part| self.move_part(part)).for_each(|done| all += done);
        all
    }

    /// One part of a round, as the agent does it between other things. None: there are not so many.
    pub fn move_part(&self, part: u32) -> Option<Moved> {
        self.maps().move_part(part, &self.pins.meta, self.clock.now())
    }

    /// Ends the move: the program looks into the new tables alone.
    pub fn end_resize(&mut self) -> Result<()> {
        let meta = self.pins.meta.settled();
        self.load(&meta)?;
        self.pins.follow(meta)
    }

    /// What a starting agent does with what an earlier one has left.
    pub fn start_anew(&mut self) -> Result<()> {
        let (flows, limits) = (SMALL, Limits { services: 1, destinations: 1, endpoints: 1 });
        let arena = arena_words(limits, &[]);
        self.pins = Pins::open(self.pins.layout.clone(), kernel_hz(), flows, limits, arena)?;
        ensure!(self.pins.adopted == Adopted::Tables, "the maps were made anew");
        let meta = self.pins.meta;
        self.load(&meta)
    }

    pub fn pins_mut(&mut self) -> &mut Pins {
        &mut self.pins
    }

    fn load(&mut self, meta: &Meta) -> Result<()> {
        let mut object = Object::open(&self.pins.layout, meta, 1)?;
        object.director()?;
        self.object = object;
        Ok(())
    }

    /// The program that reports is the one from now on; where it reports.
    pub fn trace(&mut self) -> Result<Traces> {
        let mut object = Object::open_tracing(&self.pins.layout, &self.pins.meta, 1)?;
        object.director()?;
        let traces = object.traces()?;
        self.object = object;
        Ok(traces)
    }

    /// And the ordinary one is again.
    pub fn trace_no_more(&mut self) -> Result<()> {
        let meta = self.pins.meta;
        self.load(&meta)
    }

    /// Sends a frame through the program.
    pub fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        let before = self.counters()?;
        let (action, frame) = self.send(frame, None)?;
        let moved =
            self.counters()?.into_iter().zip(before).filter(|((_, after), (_, before))| after != before);
        let moved = moved.map(|((name, after), (_, before))| (name, after - before)).collect();
        Ok(Ran { action, frame, moved })
    }

    /// [`Director::run`] without looking at the counters: action and frame.
    pub fn send(&mut self, frame: &[u8], context: Option<&[u8]>) -> Result<(u32, Vec<u8>)> {
        // It may grow by a tag, or by the headers of an ICMP error.
        let mut out = vec![0; (frame.len() + 64).max(256).next_power_of_two().min(MAX_FRAME)];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::new()
        };
        let ran = self.program()?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let length = ran.data_size_out as usize;
        ensure!(length <= out.len(), "a frame of {length} bytes came back");
        out.truncate(length);
        Ok((ran.return_value, out))
    }

    /// Every verdict and event, and how often it was counted.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>> {
        Ok(self.maps().verdicts()?.into_iter().map(|count| (count.name, count.packets)).collect())
    }

    pub fn flows(&self) -> Vec<FlowEntry> {
        let mut flows = Vec::new();
        self.maps().flows(self.clock.now(), |flow| flows.push(flow));
        flows
    }

    /// A round of the sweeper as it will be in `seconds` from now, then frees the ids that it found unused.
    pub fn sweep_in(&mut self, seconds: u32) -> Result<u64> {
        let now = self.tick_in(seconds);
        let sweep = self.maps().sweep(now, &self.last_sweep);
        let ops = reclaim(&self.maps().snapshot()?, &sweep.census);
        self.maps_mut().apply(&ops)?;
        self.last_sweep = sweep;
        Ok(self.last_sweep.expired)
    }

    /// From the next round on, what is unfinished and idle for so many seconds gives way.
    pub fn press(&mut self, idle: Option<u32>) {
        let idle = idle.map(|seconds| tick::ticks(seconds, self.clock.hz()));
        (self.last_sweep.narrow.idle, self.last_sweep.wide.idle) = (idle, idle);
    }

    /// How many gave way in the last round.
    pub fn pruned(&self) -> u64 {
        self.last_sweep.narrow.pruned + self.last_sweep.wide.pruned
    }

    /// The flow table's clock in `seconds` from now.
    pub fn tick_in(&self, seconds: u32) -> Tick {
        self.clock.now().after(tick::ticks(seconds, self.clock.hz()))
    }

    /// Instructions that the verifier walked to accept the program.
    pub fn verified_instructions(&mut self) -> Result<u32> {
        self.program()?
            .info()?
            .verified_instruction_count()
            .context("this kernel does not tell the count (before 5.16)")
    }
}

impl Ran {
    /// The one verdict that was counted.
    pub fn verdict(&self) -> Result<Verdict> {
        let mut counted = self.moved.iter().filter_map(|(name, times)| {
            let verdict = Verdict::ALL.iter().find(|verdict| verdict.name() == *name)?;
            Some((*verdict, *times))
        });
        match (counted.next(), counted.next()) {
            (Some((verdict, 1)), None) => Ok(verdict),
            _ => bail!("one packet counted {:?}", self.moved),
        }
    }
}
