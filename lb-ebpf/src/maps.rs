//! Every map and every constant of the program. Sizes here are defaults; the agent sets them at load.

use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    counters::{ConnCounts, Counters, DestCounters},
    dest::Dest,
    endpoint::{self, range, table},
    flow::{NarrowBucket, WideBucket},
    fragment,
    generation::Piece,
    host::Host,
    link::{self, Link},
    probe::Probes,
    service::{Rotation, Service},
    source, verdict,
};

#[cfg(feature = "trace")]
use aya_ebpf::btf_maps::RingBuf;
#[cfg(feature = "trace")]
use lb_common::trace;

use crate::{answer::Allowance, clock::Reading, schedule::repeat::MAX_STATE, word::KernelWord};

/// `BPF_F_MMAPABLE` (`include/uapi/linux/bpf.h`): the agent reads and writes the array through a
/// mapping, and its values are page-aligned, so that a bucket is whole cache lines.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: usize = 1;

// What stays the same while a program is loaded. The agent sets all of them.

/// Index in `LINKS` of the interface that this program is attached to.
#[unsafe(no_mangle)]
pub static INGRESS: Global<u32> = Global::new(0);
/// See [`lb_common::flow::Secret`].
#[unsafe(no_mangle)]
pub static SECRET_A: Global<u64> = Global::new(1);
#[unsafe(no_mangle)]
pub static SECRET_B: Global<u64> = Global::new(1);
/// Buckets of the table of endpoints, less one.
#[unsafe(no_mangle)]
pub static ENDPOINTS_MASK: Global<u32> = Global::new(0);
/// Buckets of each flow table, less one.
#[unsafe(no_mangle)]
pub static FLOWS4_MASK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static FLOWSW_MASK: Global<u32> = Global::new(0);
/// Whether the agent is replacing the flow tables: the ones before are looked at, too. In the program of every other
/// day it is 0, and the verifier takes that path out.
#[unsafe(no_mangle)]
pub static MIGRATING: Global<u32> = Global::new(0);
/// As the masks above, of the tables before.
#[unsafe(no_mangle)]
pub static FLOWS4_OLD_MASK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static FLOWSW_OLD_MASK: Global<u32> = Global::new(0);
/// See [`lb_common::tick::shift`].
#[unsafe(no_mangle)]
pub static TICK_SHIFT: Global<u32> = Global::new(5);
/// Ticks by which an expiry must move to be worth a write to shared memory (half a second).
#[unsafe(no_mangle)]
pub static REFRESH: Global<u32> = Global::new(4);

// Configuration: written by the agent's reconcile step alone.

#[btf_map]
pub static FILTER: Array<u64, { endpoint::filter::WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub static ENDPOINTS: Array<table::Bucket<KernelWord>, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static RANGES4: LpmTrie<range::Data4, u64, 8192> = LpmTrie::new();
#[btf_map]
pub static RANGES6: LpmTrie<range::Data6, u64, 8192> = LpmTrie::new();
/// What services say of where clients come from. Tries allocate what they hold.
#[btf_map]
pub static RULES4: LpmTrie<source::Data4, u64, { source::RULE_ENTRIES as usize }> = LpmTrie::new();
#[btf_map]
pub static RULES6: LpmTrie<source::Data6, u64, { source::RULE_ENTRIES as usize }> = LpmTrie::new();
#[btf_map]
pub static SERVICES: Array<Service, 4096, MMAPABLE> = Array::new();
#[btf_map]
pub static ARENA: Array<Piece, 2048, MMAPABLE> = Array::new();
#[btf_map]
pub static DESTS: Array<Dest, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static HOSTS: Array<Host, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static LINKS: Array<Link, { link::MAX_LINKS as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub static TAGS: HashMap<u64, u8, 4096, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static MACS: HashMap<u64, u8, 256, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static PROBES: HashMap<[u64; 2], Probes, 256, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static DEVICES: DevMap<{ link::MAX_LINKS as usize }> = DevMap::new();

// State: written by the kernel; the agent's sweeper frees flow slots and heals counts.

#[btf_map]
pub static FLOWS4: Array<NarrowBucket<KernelWord>, 65536, MMAPABLE> = Array::new();
#[btf_map]
pub static FLOWSW: Array<WideBucket<KernelWord>, 16384, MMAPABLE> = Array::new();
/// The tables before, while they are replaced; otherwise one bucket that nobody looks at. Nothing is put in.
#[btf_map]
pub static FLOWS4_OLD: Array<NarrowBucket<KernelWord>, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static FLOWSW_OLD: Array<WideBucket<KernelWord>, 1, MMAPABLE> = Array::new();
/// Where the first fragments of datagrams went.
#[btf_map]
pub static FRAGMENTS: LruHashMap<fragment::Key, fragment::Place, { fragment::PLACES as usize }> =
    LruHashMap::new();
/// Sources that a rule limits. See [`source::Set`].
#[btf_map]
pub static SOURCES: Array<source::Set<KernelWord>, { source::SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub static ROTATIONS: Array<Rotation, 4096, MMAPABLE> = Array::new();
#[btf_map]
pub static CONNS: Array<ConnCounts, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<Counters, 4096> = PerCpuArray::new();
#[btf_map]
pub static DEST_COUNTERS: PerCpuArray<DestCounters, 16384> = PerCpuArray::new();
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, { verdict::SLOTS as usize }> = PerCpuArray::new();
/// Where this CPU's share of the sweeping stands.
#[btf_map]
pub static SWEEP: PerCpuArray<u32, 2> = PerCpuArray::new();
/// See [`crate::schedule::repeat`].
#[btf_map]
pub static STATE: PerCpuArray<[u64; MAX_STATE / 8], 1> = PerCpuArray::new();
#[btf_map]
pub static ALLOWANCE: PerCpuArray<Allowance, 1> = PerCpuArray::new();
/// The steps of the packet that was explained last.
#[cfg(feature = "explain")]
#[btf_map]
pub static RECORD: Array<lb_common::record::Record, 1> = Array::new();
/// Of the build for `lb trace`: what is asked, what could not be reported, a CPU's notes, and the reports.
#[cfg(feature = "trace")]
#[btf_map]
pub static TRACES: Array<trace::Filter, { trace::SLOTS }> = Array::new();
#[cfg(feature = "trace")]
#[btf_map]
pub static LOST: PerCpuArray<trace::Lost, { trace::SLOTS }> = PerCpuArray::new();
#[cfg(feature = "trace")]
#[btf_map]
pub static SCRATCH: PerCpuArray<trace::Scratch, 1> = PerCpuArray::new();
#[cfg(feature = "trace")]
#[btf_map]
pub static RING: RingBuf<(), { trace::RING }> = RingBuf::new();
#[btf_map]
pub static CLOCK: Array<Reading, 1, MMAPABLE> = Array::new();
