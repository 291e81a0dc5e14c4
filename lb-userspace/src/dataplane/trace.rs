//! The maps of a program that reports what it does: which packets, and what of them. Each program has its own.

use std::mem::offset_of;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use lb_common::{
    record::{Record, STEPS, Step},
    trace::{Filter, HEAD, Headers, Lost, SLOTS, Seen},
};

use super::Object;

/// Those of the program on one interface. Without an owner nobody is told anything, and the program goes on.
pub struct Traces {
    filters: Array<MapData, Filter>,
    lost: PerCpuArray<MapData, Lost>,
    ring: RingBuf<MapData>,
}

/// A packet, as the program reported it.
#[derive(Clone, Debug)]
pub struct Traced<'a> {
    pub headers: Headers,
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// Of the frame, bytes.
    pub length: u32,
    /// Bits of the slots that want it.
    pub slots: u32,
    pub verdict: u32,
    /// Index in `LINKS`.
    pub ingress: u16,
    pub steps: Vec<(Step, [u64; 2])>,
    /// As it came, as far as a slot wants it.
    pub frame: &'a [u8],
}

impl Traces {
    /// Takes them out of an object whose program is loaded.
    pub(super) fn take(object: &mut Object) -> Result<Self> {
        Ok(Self {
            filters: Array::try_from(taken(object, "TRACES")?)?,
            lost: PerCpuArray::try_from(taken(object, "LOST")?)?,
            ring: RingBuf::try_from(taken(object, "RING")?)?,
        })
    }

    /// # Errors
    /// The kernel refuses.
    pub fn set(&mut self, slot: usize, filter: Filter) -> Result<()> {
        self.filters.set(slot as u32, filter, 0).context("writing TRACES")
    }

    /// Begins to count anew what a slot loses.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_lost(&mut self, slot: usize) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let none = PerCpuValues::try_from(vec![Lost::default(); cpus])?;
        self.lost.set(slot as u32, none, 0).context("writing LOST")
    }

    /// What a slot has lost, on all CPUs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lost(&self, slot: usize) -> Result<Lost> {
        let all = self.lost.get(&(slot as u32), 0).context("reading LOST")?;
        Ok(all.iter().fold(Lost::default(), |sum, one| Lost {
            over_rate: sum.over_rate + one.over_rate,
            ring_full: sum.ring_full + one.ring_full,
        }))
    }

    /// Hands on what has been reported since the last time, at most `most` packets.
    pub fn read(&mut self, most: usize, mut hear: impl FnMut(Traced<'_>)) {
        for _ in 0..most {
            let Some(item) = self.ring.next() else { return };
            if let Some(traced) = decode(&item) {
                hear(traced);
            }
        }
    }
}

fn taken(object: &mut Object, name: &str) -> Result<Map> {
    object.take_map(name).with_context(|| format!("the program has no {name}"))
}

/// A [`Seen`], but for what of its frame is not there.
fn decode(bytes: &[u8]) -> Option<Traced<'_>> {
    const HEADERS: usize = offset_of!(Seen, headers);
    const RECORD: usize = offset_of!(Seen, record);
    let byte = |at: usize| bytes.get(HEADERS + at).copied();
    let port = |at: usize| Some(u16::from_ne_bytes(*bytes.get(HEADERS + at..)?.first_chunk()?));
    let pair = |at: usize| Some([long(bytes, HEADERS + at)?, long(bytes, HEADERS + at + 8)?]);
    let headers = Headers {
        source: pair(offset_of!(Headers, source))?,
        dest: pair(offset_of!(Headers, dest))?,
        source_port: port(offset_of!(Headers, source_port))?,
        dest_port: port(offset_of!(Headers, dest_port))?,
        protocol: byte(offset_of!(Headers, protocol))?,
        family: byte(offset_of!(Headers, family))?,
        flags: byte(offset_of!(Headers, flags))?,
        fragment: byte(offset_of!(Headers, fragment))?,
        bytes: word(bytes, HEADERS + offset_of!(Headers, bytes))?,
        pad: 0,
    };
    let count = usize::try_from(long(bytes, RECORD + offset_of!(Record, count))?).ok()?;
    let mut steps = Vec::new();
    for n in 0..count.min(STEPS) {
        let at = RECORD + offset_of!(Record, steps) + n * 24;
        let step = *Step::ALL.get(usize::try_from(long(bytes, at)?).ok()?)?;
        steps.push((step, [long(bytes, at + 8)?, long(bytes, at + 16)?]));
    }
    let snapped = word(bytes, offset_of!(Seen, snapped))? as usize;
    Some(Traced {
        headers,
        time: long(bytes, offset_of!(Seen, time))?,
        length: word(bytes, offset_of!(Seen, length))?,
        slots: word(bytes, offset_of!(Seen, slots))? & ((1 << SLOTS) - 1),
        verdict: word(bytes, offset_of!(Seen, verdict))?,
        ingress: u16::try_from(word(bytes, offset_of!(Seen, ingress))?).ok()?,
        steps,
        frame: bytes.get(HEAD..HEAD + snapped)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
