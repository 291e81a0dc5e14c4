//! The compiled programs, and loading them on an instance's maps.

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, Xdp},
};
use lb_common::{meta::Meta, tick};

use super::layout::Layout;

/// The production program, as build.rs made it.
static DIRECTOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.o"));
/// Passes everything: for interfaces that only transmit.
static PASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pass.o"));

/// Every map that is pinned, and how many entries it gets.
fn map_sizes(meta: &Meta) -> [(&'static str, Option<u32>); 19] {
    [
        ("FILTER", None),
        ("ENDPOINTS4", Some(2 * meta.services)),
        ("ENDPOINTS6", Some(2 * meta.services)),
        ("SERVICES", Some(meta.services)),
        ("ARENA", Some(meta.arena)),
        ("DESTS", Some(meta.dests)),
        ("HOSTS", Some(meta.dests)),
        ("LINKS", None),
        ("TAGS", None),
        ("MACS", None),
        ("DEVICES", None),
        ("FLOWS4", Some(meta.narrow_buckets)),
        ("FLOWSW", Some(meta.wide_buckets)),
        ("ROTATIONS", Some(meta.services)),
        ("CONNS", Some(meta.dests)),
        ("SERVICE_COUNTERS", Some(meta.services)),
        ("DEST_COUNTERS", Some(meta.dests)),
        ("VERDICTS", None),
        ("CLOCK", None),
    ]
}

/// Why a program is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the eBPF object cannot be loaded: {0}")]
    Object(#[from] aya::EbpfError),
    /// Not as its source: the verifier says EACCES, which is about the program and not about who loads it.
    #[error("the kernel refuses the program: {error}\n{log}")]
    Refused { error: std::io::Error, log: String },
    #[error("program {0}: {1}")]
    Program(&'static str, Box<ProgramError>),
}

/// The object with its maps open; programs are loaded one by one.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Opens the object for interface `link` (0: only to make or open the maps).
    pub fn open(layout: &Layout, meta: &Meta, link: u16) -> Result<Self, LoadError> {
        let (ingress, shift) = (u32::from(link), tick::shift(meta.hz));
        let (narrow, wide) = (meta.narrow_buckets - 1, meta.wide_buckets - 1);
        // Half of the shortest timeout there is, so that every flow is refreshed before it expires.
        let refresh = (meta.tick_rate() / 2).max(1);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("INGRESS", &ingress, true)
            .override_global("SECRET_A", &meta.secret_a, true)
            .override_global("SECRET_B", &meta.secret_b, true)
            .override_global("FLOWS4_MASK", &narrow, true)
            .override_global("FLOWSW_MASK", &wide, true)
            .override_global("TICK_SHIFT", &shift, true)
            .override_global("REFRESH", &refresh, true);
        for (name, entries) in map_sizes(meta) {
            loader.map_pin_path(name, layout.map(name));
            if let Some(entries) = entries {
                loader.map_max_entries(name, entries);
            }
        }
        Ok(Self { ebpf: loader.load(DIRECTOR)? })
    }

    /// The director's program, loaded.
    pub fn director(&mut self) -> Result<&mut Xdp, LoadError> {
        self.load("lb")
    }

    /// The program that reads the clocks.
    pub fn clock(&mut self) -> Result<&mut Xdp, LoadError> {
        self.load("clock")
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
            LoadError::Refused { error: io_error, log: tail(&verifier_log.to_string()) }
        }
        other => LoadError::Program(name, Box::new(other)),
    };
    let program = ebpf.program_mut(name).ok_or_else(|| {
        LoadError::Program(name, Box::new(ProgramError::InvalidName { name: name.to_owned() }))
    })?;
    let program: &mut Xdp = program.try_into().map_err(failed)?;
    // Loaded by the first who asks; the rest get the same one.
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    Ok(program)
}

/// The end of a verifier log is where the reason stands.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
