//! What a packet costs lb, and what it costs the kernel's IPVS, in guest instructions. `cargo xtask bench --vm` runs it
//! in a VM whose clocks count them: one CPU, qemu's `-icount shift=0`, an instruction is a nanosecond.
//!
//! * [`lab`] is the wires, [`pktgen`] the generator, [`bare`] the smallest programs;
//! * [`softirq`] lets nothing be sent while the kernel has packets to receive;
//! * [`subject`] is what stands in the director's place: lb, IPVS and what they are compared with;
//! * [`measure`] sends and counts, and sees to it that nothing was lost; [`report`] has the table and the targets.

mod bare;
mod lab;
mod measure;
mod pktgen;
mod report;
mod softirq;
mod subject;

use std::fs;

use anyhow::{Result, ensure};

use crate::{bare::Bare, lab::Lab, measure::Bench, report::Report, subject::Kind};

fn main() -> Result<()> {
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")?;
    ensure!(
        jit.trim() == "1",
        "BPF is not compiled in this kernel (bpf_jit_enable is {}): no comparison",
        jit.trim()
    );
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    softirq::before_all_else()?;
    let lab = Lab::build()?;
    let _sink = Bare::drop_on(&lab.sink, "eth0")?;
    let mut bench = Bench::new(&lab);
    println!("measuring: the generator alone");
    bench.generator()?;
    for kind in Kind::ALL {
        println!("measuring: {}", kind.name());
        bench.subject(kind)?;
    }
    println!();
    Report::new(kernel, bench.into_figures())?.print()
}
