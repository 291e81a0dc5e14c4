//! The program that says what it would do with a packet, on an instance's maps, which it leaves as they are.

use anyhow::{Context, Result, ensure};
use aya::{
    TestRun, TestRunOptions,
    maps::{Array, MapData},
};
use lb_common::record::{Record, STEPS, Step};

use super::{Layout, Object, pins::read_meta};

/// A frame that comes back is at most so much longer than it went in: the headers of an ICMP error.
const ROOM: usize = 256;

/// Loaded for packets that come in by one interface.
pub struct Explainer {
    object: Object,
    /// CONFIG_HZ, of which the instance's ticks are made.
    pub hz: u32,
}

/// What would become of a frame.
#[derive(Clone, Debug)]
pub struct Ran {
    /// `enum xdp_action` (`include/uapi/linux/bpf.h`).
    pub action: u32,
    /// As it would leave, where it would.
    pub frame: Vec<u8>,
    /// In the order in which they were come to, with their two words.
    pub steps: Vec<(Step, [u64; 2])>,
}

impl Explainer {
    /// On the pins of an instance, for index `link` in `LINKS`.
    ///
    /// # Errors
    /// If there are no pins, or the kernel refuses the program.
    pub fn open(layout: &Layout, link: u16) -> Result<Self> {
        let meta = read_meta(layout)?.with_context(|| format!("{} is not there", layout.meta().display()))?;
        let mut object = Object::open_explaining(layout, &meta, link)?;
        object.director()?;
        Ok(Self { object, hz: meta.hz })
    }

    /// Ids of all maps that the program can get at: the instance's, and its own.
    ///
    /// # Errors
    /// If the kernel does not tell them (before 4.15).
    pub fn map_ids(&mut self) -> Result<Vec<u32>> {
        self.object.director()?.info()?.map_ids()?.context("this kernel does not tell a program's maps")
    }

    /// # Errors
    /// If the kernel does not run the program.
    pub fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        self.record()?.set(0, Record { count: 0, steps: [[0; 3]; STEPS] }, 0).context("clearing RECORD")?;
        let mut out = vec![0; frame.len() + ROOM];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let ran = self.object.director()?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let length = ran.data_size_out as usize;
        ensure!(length <= out.len(), "a frame of {length} bytes came back");
        out.truncate(length);
        let record = self.record()?.get(&0, 0).context("reading RECORD")?;
        let noted = record.steps.iter().take(record.count as usize);
        let steps = noted.filter_map(|[step, first, second]| {
            Some((*Step::ALL.get(usize::try_from(*step).ok()?)?, [*first, *second]))
        });
        Ok(Ran { action: ran.return_value, frame: out, steps: steps.collect() })
    }

    fn record(&mut self) -> Result<Array<&mut MapData, Record>> {
        let map = self.object.map_mut("RECORD").context("the program has no RECORD")?;
        Ok(Array::try_from(map)?)
    }
}
