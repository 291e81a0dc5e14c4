//! The programs that bring health checks through the VIP to their backends (`lb-ebpf/src/deliver.rs`). They are
//! attached for as long as the agent lives.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType, tc},
    util::KernelVersion,
};
use lb_common::meta::Meta;

use super::{layout::Layout, object::chain};

static DELIVER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/deliver.o"));

/// A program on a device; it goes with this.
pub struct Delivery {
    _ebpf: Ebpf,
}

/// Which end of the way out of the checks' namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The checks': what leaves is addressed to the backend that its socket is marked with.
    Inner,
    /// The director's: what arrives is sent on to that backend.
    Outer,
}

impl Delivery {
    /// Attaches to a device of the calling thread's network namespace.
    pub fn attach(layout: &Layout, meta: &Meta, interface: &str, end: End) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_pin_path("HOSTS", layout.map("HOSTS")).map_max_entries("HOSTS", meta.dests);
        loader.map_pin_path("LINKS", layout.map("LINKS"));
        let mut ebpf = loader.load(DELIVER).context("opening the program `deliver`")?;
        let (name, direction) = match end {
            End::Inner => ("mark", TcAttachType::Egress),
            End::Outer => ("deliver", TcAttachType::Ingress),
        };
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?.try_into()?;
        let failed = |error: &dyn std::error::Error| anyhow::anyhow!("the program {name}: {}", chain(error));
        program.load().map_err(|error| failed(&error))?;
        // Newer ones attach without a queueing discipline (tcx).
        if KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(6, 6, 0)) {
            tc::qdisc_add_clsact(interface).map_err(|error| failed(&error))?;
        }
        program.attach(interface, direction).map_err(|error| failed(&error))?;
        Ok(Self { _ebpf: ebpf })
    }
}
