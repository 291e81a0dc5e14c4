//! Packets by the million: a program in the kernel (lb-ebpf/src/bench.rs) makes each of a frame, with the next client's
//! address and port, and calls the one under test.

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};

use crate::{packet::Packet, xdp::Director};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

/// `Feed` of lb-ebpf/src/bench.rs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Feed {
    /// Number of the next packet: its client's port is in the lowest 16 bits, the rest is added to the address.
    pub counter: u64,
    /// Flows, less one: a power of two.
    pub mask: u64,
    macs: [u8; 12],
    ttl: [u8; 4],
    address: u32,
    pub is_ipv6: u32,
}

// SAFETY: repr(C), integers and bytes, no padding: 8 + 8 + 12 + 4 + 4 + 4 bytes.
unsafe impl Pod for Feed {}

const _: () = assert!(size_of::<Feed>() == 40);

impl Feed {
    /// Packets of so many flows in turn, a power of two.
    pub fn of(packet: &Packet, flows: u32) -> Self {
        let frame = packet.bytes();
        let (mut macs, mut ttl) = ([0; 12], [0; 4]);
        macs.copy_from_slice(&frame[..12]);
        ttl.copy_from_slice(&frame[22..26]);
        let is_ipv6 = packet.source.is_ipv6().into();
        Self { counter: 0, mask: u64::from(flows) - 1, macs, ttl, address: 0x0a00_0000, is_ipv6 }
    }

    /// Packets of ever new flows.
    pub fn new_flows(packet: &Packet) -> Self {
        Self { mask: u64::MAX, ..Self::of(packet, 1) }
    }
}

/// What runs on a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Nothing,
    Swap,
    Director,
}

/// The maker of packets, and the program that it calls.
pub struct Feeder {
    ebpf: Ebpf,
    feed: Array<MapData, Feed>,
    target: ProgramArray<MapData>,
}

impl Feeder {
    pub fn new() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(PROGRAMS)?;
        for name in ["feed", "swap", "nothing"] {
            program(&mut ebpf, name)?.load()?;
        }
        let feed = Array::try_from(ebpf.take_map("FEED").context("FEED")?)?;
        let target = ProgramArray::try_from(ebpf.take_map("TARGET").context("TARGET")?)?;
        Ok(Self { ebpf, feed, target })
    }

    pub fn aim(&mut self, target: Target, director: &mut Director) -> Result<()> {
        let fd: ProgramFd = match target {
            Target::Nothing => program(&mut self.ebpf, "nothing")?.fd()?.try_clone()?,
            Target::Swap => program(&mut self.ebpf, "swap")?.fd()?.try_clone()?,
            Target::Director => director.program()?.fd()?.try_clone()?,
        };
        Ok(self.target.set(0, &fd, 0)?)
    }

    /// Sends a frame many times, as `feed` makes it; ns per packet. `feed` goes on where it ended.
    pub fn run(&mut self, frame: &[u8], feed: &mut Feed, packets: u32) -> Result<u32> {
        self.feed.set(0, *feed, 0)?;
        let options = TestRunOptions { data_in: Some(frame), repeat: packets, ..TestRunOptions::new() };
        let ran = program(&mut self.ebpf, "feed")?.test_run(options)?;
        ensure!(ran.return_value != 0, "the wrapper could not call the program under test");
        *feed = self.feed.get(&0, 0)?;
        Ok(u32::try_from(ran.duration.as_nanos())?)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
