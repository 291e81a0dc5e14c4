//! The programs of lb-ebpf/src/bare.rs.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::DevMap,
    programs::{Xdp, xdp::XdpMode},
};
use lb_tests::{netns::Netns, packet::Mac};
use nix::net::if_::if_nametoindex;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bare.o"));

/// A program on a device, while it lives.
pub struct Bare(#[expect(dead_code, reason = "dropping it takes the program off")] Ebpf);

impl Bare {
    /// Drops every frame that `device` receives.
    pub fn drop_on(netns: &Netns, device: &str) -> Result<Self> {
        netns.enter(|| attach("drop", device, None, [0; 12]))?
    }

    /// Sends on by `out` whatever `device` receives.
    pub fn relay(netns: &Netns, device: &str, out: &str) -> Result<Self> {
        netns.enter(|| attach("relay", device, Some(out), [0; 12]))?
    }

    /// The same, readdressed.
    pub fn rewrite(netns: &Netns, device: &str, out: &str, to: Mac, from: Mac) -> Result<Self> {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&to);
        macs[6..].copy_from_slice(&from);
        netns.enter(|| attach("rewrite", device, Some(out), macs))?
    }
}

fn attach(name: &str, device: &str, out: Option<&str>, macs: [u8; 12]) -> Result<Bare> {
    let mut ebpf = EbpfLoader::new().override_global("MACS", &macs, true).load(OBJECT)?;
    if let Some(out) = out {
        let mut devices = DevMap::try_from(ebpf.map_mut("DEVICES").context("no map DEVICES")?)?;
        devices.set(0, if_nametoindex(out)?, None, 0)?;
    }
    let program: &mut Xdp =
        ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load()?;
    program.attach(device, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {device}"))?;
    Ok(Bare(ebpf))
}
