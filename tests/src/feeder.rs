//! Packets by the million: a program in the kernel (lb-ebpf/src/bench.rs) makes each of a frame, with the next client's
//! address and port, and calls the one under test.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunAttrs, TestRunOptions,
    maps::{Array, DevMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, Xdp, XdpMode},
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
    /// The first client's (the last four bytes of an IPv6 one).
    address: u32,
    pub is_ipv6: u16,
    is_fixed: u16,
    l3: u32,
    shift: u32,
    port: u32,
    services: u32,
}

// SAFETY: repr(C), integers and bytes, no padding: 8 + 8 + 12 + 4 + 4 + 2 + 2 + 4 + 4 + 4 + 4 bytes.
unsafe impl Pod for Feed {}

const _: () = assert!(size_of::<Feed>() == 56);

impl Feed {
    /// Packets of so many flows in turn, a power of two.
    pub fn of(packet: &Packet, flows: u32) -> Self {
        let (port, is_ipv6) = (packet.dest.port().into(), packet.source.is_ipv6());
        let feed = Self { is_fixed: 0, port, ..Self::fixed(&packet.bytes(), packet.l3(), is_ipv6) };
        Self { mask: u64::from(flows) - 1, ..feed }
    }

    /// One frame, whose IP header begins at `l3`, as it is, again and again.
    pub fn fixed(frame: &[u8], l3: usize, is_ipv6: bool) -> Self {
        let (mut macs, mut ttl) = ([0; 12], [0; 4]);
        macs.copy_from_slice(&frame[..12]);
        ttl.copy_from_slice(&frame[l3 + 8..l3 + 12]);
        Self {
            counter: 0,
            mask: 0,
            macs,
            ttl,
            address: 0x0a00_0000,
            is_ipv6: is_ipv6.into(),
            is_fixed: 1,
            l3: l3 as u32,
            shift: 0,
            port: 0,
            services: 0,
        }
    }

    /// The same, from this packet's number on.
    pub fn from_number(self, counter: u64) -> Self {
        Self { counter, ..self }
    }

    /// The same from other clients, whose addresses begin so much further up.
    pub fn further_up(self, addresses: u32) -> Self {
        Self { address: self.address + addresses, ..self }
    }

    /// The same flows, spread over so many services, a power of two, on ports from the packet's on.
    pub fn to_services(self, services: u32) -> Self {
        Self { services: services - 1, ..self }
    }

    /// Packets of ever new flows.
    pub fn new_flows(packet: &Packet) -> Self {
        Self { mask: u64::MAX, ..Self::of(packet, 1) }
    }

    /// The same, each from a client of its own.
    pub fn new_clients(packet: &Packet) -> Self {
        Self { shift: 16, ..Self::new_flows(packet) }
    }
}

/// What runs on a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Nothing,
    Swap,
    Director,
}

/// Live frames that are made before any is looked at, a quarter of what a veth's ring holds: `VETH_RING_SIZE` in
/// drivers/net/veth.c, beyond which frames are lost. As many as NAPI takes at once.
const BATCH: u32 = 64;

/// What makes packets or takes them in, on a wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The least that forwards: new MACs, and out by the interface of [`Feeder::redirect_to`].
    Redirect,
    /// Counts for [`Feeder::arrived`].
    Sink,
}

/// The maker of packets, and the program that it calls.
pub struct Feeder {
    ebpf: Ebpf,
    feed: Array<MapData, Feed>,
    target: ProgramArray<MapData>,
    out: DevMap<MapData>,
    arrived: PerCpuArray<MapData, u64>,
}

impl Feeder {
    pub fn new() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(PROGRAMS)?;
        for name in ["feed", "swap", "nothing", "transmit", "redirect", "sink"] {
            program(&mut ebpf, name)?.load()?;
        }
        let mut take = |name| ebpf.take_map(name).context(name);
        let (feed, target) = (Array::try_from(take("FEED")?)?, ProgramArray::try_from(take("TARGET")?)?);
        let (out, arrived) = (DevMap::try_from(take("OUT")?)?, PerCpuArray::try_from(take("ARRIVED")?)?);
        Ok(Self { ebpf, feed, target, out, arrived })
    }

    /// Attaches a program natively to a device of this thread's network namespace, until the feeder is dropped.
    pub fn attach(&mut self, end: End, device: u32) -> Result<()> {
        let name = match end {
            End::Redirect => "redirect",
            End::Sink => "sink",
        };
        program(&mut self.ebpf, name)?.attach_to_if_index(device, XdpMode::Driver)?;
        Ok(())
    }

    /// Where [`End::Redirect`] sends to, in this thread's network namespace.
    pub fn redirect_to(&mut self, device: u32) -> Result<()> {
        Ok(self.out.set(0, device, None, 0)?)
    }

    /// Frames that have come to a sink, ever.
    pub fn arrived(&self) -> Result<u64> {
        Ok(self.arrived.get(&0, 0)?.iter().sum())
    }

    /// Sends live frames out by a device of this thread's network namespace; `feed` goes on where it ended. Where they
    /// arrive, softirqs of this CPU run between two batches, so that what forwards keeps up with what sends. The time
    /// that they took, and what they set going; the kernel's own for a run, some 20 ms of waiting for RCU, is not in it.
    pub fn transmit(&mut self, frame: &[u8], feed: &mut Feed, packets: u32, device: u32) -> Result<Duration> {
        self.feed.set(0, *feed, 0)?;
        // struct xdp_md (include/uapi/linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context = [0, u32::try_from(frame.len())?, 0, device, 0, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_flattened()),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let ran = program(&mut self.ebpf, "transmit")?.test_run(options).context("live frames")?;
        *feed = self.feed.get(&0, 0)?;
        Ok(ran.duration * packets)
    }

    pub fn aim(&mut self, target: Target, director: &mut Director) -> Result<()> {
        let fd = self.program(target, director)?;
        Ok(self.target.set(0, &fd, 0)?)
    }

    /// The program that [`Feeder::aim`] aims at.
    pub fn program(&mut self, target: Target, director: &mut Director) -> Result<ProgramFd> {
        let program = match target {
            Target::Nothing => program(&mut self.ebpf, "nothing")?,
            Target::Swap => program(&mut self.ebpf, "swap")?,
            Target::Director => director.program()?,
        };
        Ok(program.fd()?.try_clone()?)
    }

    /// The program that makes packets and calls the other one.
    pub fn maker(&mut self) -> Result<ProgramFd> {
        Ok(program(&mut self.ebpf, "feed")?.fd()?.try_clone()?)
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
