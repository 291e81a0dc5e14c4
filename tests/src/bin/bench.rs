//! What the director's program costs per packet, measured by the kernel (BPF_PROG_TEST_RUN) beside a bare MAC swap.
//!
//! `cargo run -p lb-tests --bin bench`. A program of lb-ebpf/src/bench.rs makes the packets and calls the one under
//! test; what it costs itself is measured in the same rounds and taken off. Compare figures of one run only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use lb::{
    model::{Backend, BackendKey, Endpoint, FlowSizes, Protocol, Scheduler, Service, ServiceOptions},
    plan::{Desired, HostRoute, LinkSpec},
};
use lb_common::{
    tcp::flag::{ACK, SYN},
    verdict::Verdict,
    vlan::Tags,
};
use lb_tests::{
    packet::{Mac, Packet},
    xdp::Director,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

const ROUNDS: usize = 31;
/// Packets of a measurement.
const PACKETS: u32 = 16384;
/// Rated for twice as many flows as there are.
const SIZES: FlowSizes = FlowSizes { ipv4: 1 << 20, wide: 1 << 18 };
const FLOWS4: u32 = 1 << 19;
const FLOWS6: u32 = 1 << 16;

const DIRECTOR_MAC: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0xc, 1];
const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 100));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, 0x100));
const PORT: u16 = 3306;

/// `Feed` of lb-ebpf/src/bench.rs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Feed {
    counter: u64,
    mask: u64,
    macs: [u8; 12],
    ttl: [u8; 4],
    address: u32,
    is_ipv6: u32,
}

// SAFETY: repr(C), integers and bytes, no padding: 8 + 8 + 12 + 4 + 4 + 4 bytes.
unsafe impl Pod for Feed {}

const _: () = assert!(size_of::<Feed>() == 40);

/// What runs on a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Nothing,
    Swap,
    Director,
}

/// One line of the table.
struct Scenario {
    name: &'static str,
    target: Target,
    frame: Vec<u8>,
    feed: Feed,
    /// Packets to send before measuring, one of each flow, so that every expiry is fresh (writing one is a cost of
    /// slow flows, twice a second at most) and the cache holds what it would.
    warm_up: u32,
    /// Counted for each packet of the director's.
    verdict: Option<Verdict>,
    /// ns per packet of each round, the wrapper's cost included.
    rounds: Vec<u32>,
}

fn main() -> Result<()> {
    // One CPU: its cache, its counters.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let mut bench = Bench::new()?;
    let mut scenarios = scenarios();
    bench.establish(&open(VIP4), FLOWS4)?;
    bench.establish(&open(VIP6), FLOWS6)?;
    let stored = bench.director.flows().len();
    let opened = (FLOWS4 + FLOWS6) as usize;
    ensure!(stored == opened, "{stored} of {opened} flows are in the tables");
    for _ in 0..ROUNDS {
        for scenario in &mut scenarios {
            bench.measure(scenario)?;
        }
    }
    print(&scenarios);
    println!("\n{} instructions verified", bench.director.verified_instructions()?);
    Ok(())
}

fn print(scenarios: &[Scenario]) {
    println!("ns per packet, {ROUNDS} rounds          minimum   median");
    for scenario in scenarios.iter().filter(|scenario| scenario.target != Target::Nothing) {
        let wrapper = scenarios
            .iter()
            .find(|other| other.target == Target::Nothing && other.feed.is_ipv6 == scenario.feed.is_ipv6);
        let (minimum, median) = figures(&scenario.rounds);
        let (without, median_without) = wrapper.map_or((0, 0), |wrapper| figures(&wrapper.rounds));
        let net = |all: u32, wrapper: u32| i64::from(all) - i64::from(wrapper);
        println!("{:<34}{:>9}{:>9}", scenario.name, net(minimum, without), net(median, median_without));
    }
}

/// Minimum and median.
fn figures(rounds: &[u32]) -> (u32, u32) {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    (sorted.first().copied().unwrap_or(0), sorted.get(sorted.len() / 2).copied().unwrap_or(0))
}

fn scenarios() -> Vec<Scenario> {
    let (ack4, ack6) = (open(VIP4).flags(ACK), open(VIP6).flags(ACK));
    let other = ack4.with(|p| p.dest.set_ip([172, 18, 14, 200].into()));
    let tx = Some(Verdict::ForwardedTx);
    let line = |name, target, packet: &Packet, flows: u32, verdict| Scenario {
        name,
        target,
        frame: packet.bytes(),
        feed: feed(packet, flows),
        warm_up: flows,
        verdict,
        rounds: Vec::new(),
    };
    // Beyond all that are established, and none twice.
    let mut new = line("IPv4, new flow", Target::Director, &open(VIP4), 1, tx);
    (new.feed.counter, new.feed.mask, new.warm_up) = (u64::from(FLOWS4), u64::MAX, 0);
    vec![
        line("wrapper, IPv4", Target::Nothing, &ack4, 1, None),
        line("wrapper, IPv6", Target::Nothing, &ack6, 1, None),
        line("bare MAC swap", Target::Swap, &ack4, 1, None),
        line("not a VIP", Target::Director, &other, 1, Some(Verdict::PassedNoService)),
        line("IPv4, 1 known flow", Target::Director, &ack4, 1, tx),
        line("IPv4, 1 k known flows", Target::Director, &ack4, 1 << 10, tx),
        line("IPv4, 64 k known flows", Target::Director, &ack4, 1 << 16, tx),
        line("IPv4, 512 k known flows", Target::Director, &ack4, FLOWS4, tx),
        new,
        line("IPv6, 1 known flow", Target::Director, &ack6, 1, tx),
        line("IPv6, 64 k known flows", Target::Director, &ack6, FLOWS6, tx),
    ]
}

struct Bench {
    director: Director,
    feeder: Ebpf,
    feed: Array<MapData, Feed>,
    target: ProgramArray<MapData>,
}

impl Bench {
    fn new() -> Result<Self> {
        let director = Director::new(SIZES, &want())?;
        let mut feeder = EbpfLoader::new().load(PROGRAMS)?;
        for name in ["feed", "swap", "nothing"] {
            program(&mut feeder, name)?.load()?;
        }
        let feed = Array::try_from(feeder.take_map("FEED").context("FEED")?)?;
        let target = ProgramArray::try_from(feeder.take_map("TARGET").context("TARGET")?)?;
        Ok(Self { director, feeder, feed, target })
    }

    /// Opens flows and completes their handshake.
    fn establish(&mut self, open: &Packet, flows: u32) -> Result<()> {
        self.aim(Target::Director)?;
        for flags in [SYN, ACK] {
            self.feed.set(0, feed(open, flows), 0)?;
            self.run(&open.flags(flags).bytes(), flows)?;
        }
        Ok(())
    }

    fn measure(&mut self, scenario: &mut Scenario) -> Result<()> {
        self.aim(scenario.target)?;
        self.feed.set(0, scenario.feed, 0)?;
        if scenario.warm_up != 0 {
            self.run(&scenario.frame, scenario.warm_up)?;
        }
        let before = self.counted(scenario.verdict)?;
        let nanoseconds = self.run(&scenario.frame, PACKETS)?;
        scenario.feed = self.feed.get(&0, 0)?;
        if scenario.verdict.is_some() {
            let counted = self.counted(scenario.verdict)? - before;
            ensure!(
                counted == u64::from(PACKETS),
                "{}: counted {counted} times for {PACKETS}",
                scenario.name
            );
        }
        scenario.rounds.push(nanoseconds);
        Ok(())
    }

    /// Sends a frame many times; ns per packet.
    fn run(&mut self, frame: &[u8], packets: u32) -> Result<u32> {
        let options = TestRunOptions { data_in: Some(frame), repeat: packets, ..TestRunOptions::new() };
        let ran = program(&mut self.feeder, "feed")?.test_run(options)?;
        ensure!(ran.return_value != 0, "the wrapper could not call the program under test");
        Ok(u32::try_from(ran.duration.as_nanos())?)
    }

    fn aim(&mut self, target: Target) -> Result<()> {
        let fd: ProgramFd = match target {
            Target::Nothing => program(&mut self.feeder, "nothing")?.fd()?.try_clone()?,
            Target::Swap => program(&mut self.feeder, "swap")?.fd()?.try_clone()?,
            Target::Director => self.director.program()?.fd()?.try_clone()?,
        };
        Ok(self.target.set(0, &fd, 0)?)
    }

    fn counted(&self, verdict: Option<Verdict>) -> Result<u64> {
        let counters = self.director.counters()?;
        let counter = counters.into_iter().find(|(name, _)| verdict.is_some_and(|v| v.name() == *name));
        Ok(counter.map_or(0, |(_, times)| times))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// A SYN to the service: 60 bytes of IPv4, 80 of IPv6.
fn open(vip: IpAddr) -> Packet {
    let client: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 0).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0, 0xa00, 0).into(),
    };
    let packet = Packet::tcp(SocketAddr::new(client, 0), SocketAddr::new(vip, PORT), SYN);
    packet.with(|p| {
        (p.to, p.from) = (DIRECTOR_MAC, CLIENT_MAC);
        p.payload.truncate(20);
    })
}

fn feed(packet: &Packet, flows: u32) -> Feed {
    let frame = packet.bytes();
    let (mut macs, mut ttl) = ([0; 12], [0; 4]);
    macs.copy_from_slice(&frame[..12]);
    ttl.copy_from_slice(&frame[22..26]);
    let is_ipv6 = packet.source.is_ipv6().into();
    Feed { counter: 0, mask: u64::from(flows) - 1, macs, ttl, address: 0x0a00_0000, is_ipv6 }
}

/// A service of each family with two backends on the interface that packets come in by.
fn want() -> Desired {
    let backends = |vip: IpAddr| -> [IpAddr; 2] {
        match vip {
            IpAddr::V4(_) => [11, 12].map(|host| Ipv4Addr::new(172, 18, 14, host).into()),
            IpAddr::V6(_) => [11, 12].map(|host| Ipv6Addr::new(0xfd00, 0x14, 0, 0, 0, 0, 0, host).into()),
        }
    };
    let backend = |address| Backend {
        key: BackendKey { address, port: PORT },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        health: Default::default(),
    };
    let service = |vip| {
        let endpoint = Endpoint { address: vip, port: PORT, protocol: Protocol::Tcp };
        let backends = backends(vip).map(backend).to_vec();
        let (name, scheduler) = (endpoint.default_name(), Scheduler::Rr);
        Service {
            name,
            endpoint,
            scheduler,
            backends,
            options: ServiceOptions::default(),
            health: Default::default(),
        }
    };
    let route = |address: IpAddr| {
        let (link, tags) = ("eth0".to_owned(), Tags::NONE);
        (address, HostRoute::Neighbour { mac: [2, 0, 0, 0, 0xb, 1], answers: true, link, tags, mtu: 1500 })
    };
    let link = LinkSpec {
        name: "eth0".to_owned(),
        // The device map wants one that exists; nothing is sent.
        ifindex: 1,
        mac: DIRECTOR_MAC,
        ipv4: None,
        ipv6: None,
        merges: false,
        untagged: true,
        tags: Vec::new(),
        macs: Vec::new(),
    };
    Desired {
        services: vec![service(VIP4), service(VIP6)],
        links: vec![link],
        hosts: [VIP4, VIP6].into_iter().flat_map(backends).map(route).collect(),
        ..Desired::default()
    }
}
