//! The compiled programs, and loading them on an instance's maps.

use std::{io, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError},
    programs::{ProgramError, Xdp},
};
use lb_common::{endpoint::table, meta::Meta, tick};

use super::{layout::Layout, trace::Traces};

/// The production program, as build.rs made it.
static DIRECTOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.o"));
/// The same, built to say what it would do with a packet.
static EXPLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-explain.o"));
/// The same, built to report what it does with packets.
static TRACE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-trace.o"));
/// Passes everything: for interfaces that only transmit.
static PASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pass.o"));

/// In the table of endpoints, for each endpoint id: its own, and that of its address.
const ENTRIES_PER_ENDPOINT: u32 = 2;
/// The most prefixes that a range of ports falls into. Tries allocate what they hold, so this costs nothing.
const RANGE_PREFIXES: u32 = 30;

/// Buckets of the table of endpoints for so many ids, of which 0 is nobody's.
pub(super) const fn endpoint_buckets(ids: u32) -> u32 {
    table::buckets(ENTRIES_PER_ENDPOINT * ids.saturating_sub(1))
}

/// Every map that is pinned, and how many entries it gets; but for the flow tables.
fn map_sizes(meta: &Meta) -> [(&'static str, Option<u32>); 23] {
    [
        ("FILTER", None),
        ("ENDPOINTS", Some(endpoint_buckets(meta.endpoints))),
        ("RANGES4", Some(RANGE_PREFIXES * meta.endpoints)),
        ("RANGES6", Some(RANGE_PREFIXES * meta.endpoints)),
        ("RULES4", None),
        ("RULES6", None),
        ("SERVICES", Some(meta.services)),
        ("ARENA", Some(meta.pieces())),
        ("DESTS", Some(meta.dests)),
        ("HOSTS", Some(meta.dests)),
        ("LINKS", None),
        ("TAGS", None),
        ("MACS", None),
        ("PROBES", None),
        ("DEVICES", None),
        ("FRAGMENTS", None),
        ("SOURCES", None),
        ("ROTATIONS", Some(meta.services)),
        ("CONNS", Some(meta.dests)),
        ("SERVICE_COUNTERS", Some(meta.services)),
        ("DEST_COUNTERS", Some(meta.dests)),
        ("VERDICTS", None),
        ("CLOCK", None),
    ]
}

/// A pinned flow table.
pub(super) struct FlowTable {
    /// Its map in the object.
    pub name: &'static str,
    pub pin: PathBuf,
    pub buckets: u32,
}

/// The flow tables, with those before as long as flows are moved from them.
pub(super) fn flow_tables(layout: &Layout, meta: &Meta) -> Vec<FlowTable> {
    let table =
        |name, kind, generation, buckets| FlowTable { name, pin: layout.flows(kind, generation), buckets };
    let (narrow, wide) = (meta.narrow_generation, meta.wide_generation);
    let mut tables = vec![
        table("FLOWS4", "FLOWS4", narrow, meta.narrow_buckets),
        table("FLOWSW", "FLOWSW", wide, meta.wide_buckets),
    ];
    if meta.old_narrow_buckets != 0 {
        tables.push(table("FLOWS4_OLD", "FLOWS4", narrow.wrapping_sub(1), meta.old_narrow_buckets));
    }
    if meta.old_wide_buckets != 0 {
        tables.push(table("FLOWSW_OLD", "FLOWSW", wide.wrapping_sub(1), meta.old_wide_buckets));
    }
    tables
}

/// Why a program is not in the kernel. The `io::Error`s are not sources: the verifier's EACCES is about
/// the program, and not about who loads it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the eBPF object cannot be loaded: {}", chain(.0))]
    Object(Box<EbpfError>),
    #[error("the kernel makes no map {name}: {error}{}", hint(.error))]
    Map { name: String, error: io::Error },
    #[error("the kernel refuses the program {name}: {error}{}", hint(.error))]
    Refused { name: &'static str, error: io::Error },
    /// The log's end has been logged.
    #[error(
        "the kernel's verifier rejects the program {name} ({error}): that is an error in lb, or in a kernel that was \
         changed; please report it with `uname -a` and the verifier's words, which `lb run` has logged"
    )]
    Rejected { name: &'static str, error: io::Error },
    #[error("program {name}: {}", chain(.error))]
    Program { name: &'static str, error: Box<ProgramError> },
}

/// What is likely to be missing.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; it wants CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and a kernel that is not locked down \
             (/sys/kernel/security/lockdown)"
        }
        Some(libc::ENOSYS) => "; this kernel was built without bpf(2) (CONFIG_BPF_SYSCALL)",
        Some(libc::EINVAL) => {
            "; this kernel lacks a feature that lb needs (CONFIG_BPF_SYSCALL, CONFIG_NET and Linux 6.1 as it was \
             released have all)"
        }
        Some(libc::ENOMEM) => "; `lb check-config` prints how much memory `flows` and `limits` ask for",
        Some(libc::E2BIG) => "; `flows` or `limits` ask for a map that is larger than the kernel makes",
        _ => "",
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

impl From<EbpfError> for LoadError {
    fn from(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                Self::Map { name, error: io_error }
            }
            other => Self::Object(Box::new(other)),
        }
    }
}

/// The object with its maps open; programs are loaded one by one.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Opens the object for interface `link` (0: only to make or open the maps).
    pub fn open(layout: &Layout, meta: &Meta, link: u16) -> Result<Self, LoadError> {
        Self::open_build(DIRECTOR, layout, meta, link, &[])
    }

    /// Opens the build that only says what it would do, on the same maps.
    pub fn open_explaining(layout: &Layout, meta: &Meta, link: u16) -> Result<Self, LoadError> {
        Self::open_build(EXPLAIN, layout, meta, link, &[])
    }

    /// Opens the build that reports what it does, on the same maps.
    pub fn open_tracing(layout: &Layout, meta: &Meta, link: u16) -> Result<Self, LoadError> {
        Self::open_build(TRACE, layout, meta, link, &[])
    }

    /// Its maps for that, once the program is loaded.
    ///
    /// # Errors
    /// It is another build, or the kernel refuses.
    pub fn traces(&mut self) -> anyhow::Result<Traces> {
        Traces::take(self)
    }

    /// The same of another build of the program: benchmarks compare some. `own`: maps that only that build has, and
    /// for how many entries.
    pub fn open_build(
        build: &[u8],
        layout: &Layout,
        meta: &Meta,
        link: u16,
        own: &[(&str, u32)],
    ) -> Result<Self, LoadError> {
        let (ingress, shift) = (u32::from(link), tick::shift(meta.hz));
        let endpoints = endpoint_buckets(meta.endpoints) - 1;
        let (narrow, wide) = (meta.narrow_buckets - 1, meta.wide_buckets - 1);
        let old_narrow = meta.old_narrow_buckets.saturating_sub(1);
        let old_wide = meta.old_wide_buckets.saturating_sub(1);
        let migrating = u32::from(meta.is_migrating());
        // Half of the shortest timeout there is, so that every flow is refreshed before it expires.
        let refresh = (meta.tick_rate() / 2).max(1);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("INGRESS", &ingress, true)
            .override_global("SECRET_A", &meta.secret_a, true)
            .override_global("SECRET_B", &meta.secret_b, true)
            .override_global("ENDPOINTS_MASK", &endpoints, true)
            .override_global("FLOWS4_MASK", &narrow, true)
            .override_global("FLOWSW_MASK", &wide, true)
            .override_global("MIGRATING", &migrating, true)
            .override_global("FLOWS4_OLD_MASK", &old_narrow, true)
            .override_global("FLOWSW_OLD_MASK", &old_wide, true)
            .override_global("TICK_SHIFT", &shift, true)
            .override_global("REFRESH", &refresh, true);
        for (name, entries) in map_sizes(meta) {
            loader.map_pin_path(name, layout.map(name));
            if let Some(entries) = entries {
                loader.map_max_entries(name, entries);
            }
        }
        for FlowTable { name, pin, buckets } in flow_tables(layout, meta) {
            loader.map_pin_path(name, pin).map_max_entries(name, buckets);
        }
        for (name, entries) in own {
            loader.map_max_entries(name, *entries);
        }
        Ok(Self { ebpf: loader.load(build)? })
    }

    /// The director's program, loaded.
    pub fn director(&mut self) -> Result<&mut Xdp, LoadError> {
        self.load("lb")
    }

    /// The program that reads the clocks.
    pub fn clock(&mut self) -> Result<&mut Xdp, LoadError> {
        self.load("clock")
    }

    /// A map of the object's own.
    pub(super) fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.ebpf.map_mut(name)
    }

    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.ebpf.take_map(name)
    }

    fn load(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        load(&mut self.ebpf, name)
    }
}

/// The program for interfaces that only transmit.
pub struct PassObject {
    ebpf: Ebpf,
}

impl PassObject {
    pub fn open() -> Result<Self, LoadError> {
        Ok(Self { ebpf: EbpfLoader::new().load(PASS)? })
    }

    pub fn program(&mut self) -> Result<&mut Xdp, LoadError> {
        load(&mut self.ebpf, "pass")
    }
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    let failed = |error: ProgramError| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            refused(name, io_error, &verifier_log.to_string())
        }
        other => LoadError::Program { name, error: Box::new(other) },
    };
    let program =
        ebpf.program_mut(name).ok_or_else(|| failed(ProgramError::InvalidName { name: name.to_owned() }))?;
    let program: &mut Xdp = program.try_into().map_err(failed)?;
    // Loaded by the first who asks; the rest get the same one.
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    Ok(program)
}

fn refused(name: &'static str, error: io::Error, log: &str) -> LoadError {
    if log.trim().is_empty() {
        return LoadError::Refused { name, error };
    }
    tracing::error!("the verifier's log of program {name} ends:\n{}", tail(log));
    LoadError::Rejected { name, error }
}

/// The end of a verifier log is where the reason stands.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn says(error: &LoadError, words: &[&str]) {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)) && !text.contains('\n'), "{text}");
    }

    #[test]
    fn each_refusal_is_one_sentence_that_says_what_is_missing() {
        let errno = io::Error::from_raw_os_error;
        says(&refused("lb", errno(libc::EPERM), ""), &["program lb", "CAP_BPF", "locked down"]);
        says(&refused("lb", errno(libc::ENOSYS), ""), &["CONFIG_BPF_SYSCALL"]);
        let log = "func#0 @0\n0: R1=ctx()\nBPF program is too large. Processed 1000001 insn\n";
        says(&refused("lb", errno(libc::E2BIG), log), &["verifier rejects", "program lb", "report"]);
        let map = |errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            LoadError::from(EbpfError::MapError(MapError::CreateError {
                name: "FLOWS4".to_owned(),
                io_error,
            }))
        };
        says(&map(libc::ENOMEM), &["map FLOWS4", "Cannot allocate memory", "lb check-config"]);
        says(&map(libc::EPERM), &["map FLOWS4", "CAP_BPF"]);
    }

    #[test]
    fn the_cause_is_said_once() {
        let error = LoadError::from(EbpfError::MapError(MapError::InvalidName { name: "x y".to_owned() }));
        assert_eq!(error.to_string().matches("x y").count(), 1, "{error}");
        assert!(std::error::Error::source(&error).is_none(), "it is part of the text");
    }
}
