//! Loading and attaching the few-instruction XDP programs of the harness by raw bpf(2).
//!
//! veth delivers what its peer sends by XDP_TX only if it has an XDP program itself (drivers/net/veth.c,
//! veth_xdp_xmit and veth_xdp_flush), so the far end of every director link gets a program that passes everything.

use std::{
    ffi::CString,
    fs,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

use anyhow::{Context, Result};
use lb::dataplane::bpf::{Obj, bpf, opened};

use crate::netns::Netns;

/// `r0 = XDP_PASS; exit`
pub const PASS: [u64; 2] = [insn(0xb7, 0, 0, 0, 2), insn(0x95, 0, 0, 0, 0)];

/// One BPF instruction as the kernel's `struct bpf_insn` lays it out (little endian).
pub const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    code as u64
        | ((src << 4 | dst) as u64) << 8
        | (off.cast_unsigned() as u64) << 16
        | (imm.cast_unsigned() as u64) << 32
}

/// Loads `program` under the given name (at most 15 characters) and attaches it natively to `device`.
///
/// It is pinned in `bpffs` for the moment that iproute2 needs to find it; afterwards the device alone holds it.
pub fn attach(netns: &Netns, device: &str, bpffs: &Path, name: &str, program: &[u64]) -> Result<()> {
    attach_in("xdpdrv", netns, device, bpffs, name, program)
}

/// The same in a mode of iproute2's: `xdpdrv` or `xdpgeneric`.
pub fn attach_in(
    mode: &str,
    netns: &Netns,
    device: &str,
    bpffs: &Path,
    name: &str,
    program: &[u64],
) -> Result<()> {
    let pin = bpffs.join(format!("{name}-{}-{device}", netns.name()).replace('.', "_"));
    load_and_pin(name, program, &pin).with_context(|| format!("cannot load the XDP program {name}"))?;
    let shown = pin.to_string_lossy();
    let attached = netns.run("ip", &["link", "set", "dev", device, mode, "pinned", &shown]);
    fs::remove_file(&pin)?;
    attached?.ok()?;
    Ok(())
}

/// Takes off whatever native program `device` has.
pub fn detach(netns: &Netns, device: &str) -> Result<()> {
    netns.ip(&format!("link set dev {device} xdpdrv off"))
}

/// Start of the PROG_LOAD member of `union bpf_attr` (include/uapi/linux/bpf.h); the kernel takes a short one.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

fn load_and_pin(name: &str, program: &[u64], pin: &Path) -> Result<()> {
    let mut prog_name = [0; 16];
    prog_name[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let mut log = vec![0u8; 64 << 10];
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(program.len())?,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        // Nothing here looks beyond the first piece of a jumbo frame.
        prog_flags: BPF_F_XDP_HAS_FRAGS,
        prog_name,
    };
    // SAFETY: every pointer in `attr` is to a buffer above that outlives the call, with its length beside it.
    let loaded = unsafe { opened(BPF_PROG_LOAD, &attr) };
    let fd = loaded.with_context(|| String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())?;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = Obj { pathname: path.as_ptr() as u64, bpf_fd: fd.as_raw_fd().cast_unsigned(), file_flags: 0 };
    // SAFETY: `path` outlives the call and ends with a NUL.
    unsafe { bpf(BPF_OBJ_PIN, &attr) }.with_context(|| format!("cannot pin it as {}", pin.display()))?;
    Ok(())
}
