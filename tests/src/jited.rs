//! What the kernel's JIT made of a program: where its code lies, and which line of the source each piece comes from.

use std::{
    ffi::CStr,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result, ensure};
use lb::dataplane::bpf::{bpf, opened};

/// A program's code.
pub struct Jited {
    /// Where its functions lie.
    pub functions: Vec<Range<u64>>,
    /// In order of their addresses.
    pub lines: Vec<Line>,
}

/// Where the code of a line begins; it goes on to the next one, or to the end of its function.
pub struct Line {
    pub address: u64,
    pub file: String,
    pub line: u32,
}

/// `struct bpf_prog_info` (include/uapi/linux/bpf.h) up to what is asked for. A count that is 0 asks for nothing.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    before: [u64; 13],
    nr_jited_ksyms: u32,
    nr_jited_func_lens: u32,
    jited_ksyms: u64,
    jited_func_lens: u64,
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: u64,
    jited_line_info: u64,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: u64,
}

/// `struct bpf_line_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LineInfo {
    insn_off: u32,
    file_name_off: u32,
    line_off: u32,
    /// The line in the upper 22 bits, the column in the others.
    line_col: u32,
}

/// `struct bpf_btf_info`, its start.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
}

/// The member of `union bpf_attr` for OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_int = 19;

impl Jited {
    /// Of a loaded program.
    pub fn of(program: BorrowedFd<'_>) -> Result<Self> {
        let mut counts = ProgInfo::default();
        info(program, &mut counts).context("the kernel says nothing of the program")?;
        ensure!(
            counts.nr_jited_line_info > 0 && counts.nr_jited_line_info == counts.nr_line_info,
            "the kernel keeps no lines of the program's code: is its JIT on (net.core.bpf_jit_enable), and may we see \
             addresses (kernel.kptr_restrict)?"
        );
        let (functions, lines) = (counts.nr_jited_ksyms as usize, counts.nr_line_info as usize);
        let (mut starts, mut lengths) = (vec![0_u64; functions], vec![0_u32; functions]);
        let (mut addresses, mut records) = (vec![0_u64; lines], vec![LineInfo::default(); lines]);
        let mut asked = ProgInfo {
            nr_jited_ksyms: counts.nr_jited_ksyms,
            nr_jited_func_lens: counts.nr_jited_ksyms,
            jited_ksyms: starts.as_mut_ptr() as u64,
            jited_func_lens: lengths.as_mut_ptr() as u64,
            nr_line_info: counts.nr_line_info,
            nr_jited_line_info: counts.nr_line_info,
            line_info: records.as_mut_ptr() as u64,
            jited_line_info: addresses.as_mut_ptr() as u64,
            line_info_rec_size: size_of::<LineInfo>() as u32,
            jited_line_info_rec_size: size_of::<u64>() as u32,
            ..ProgInfo::default()
        };
        info(program, &mut asked).context("the kernel does not say where the program's code lies")?;
        let btf = btf(counts.btf_id)?;
        let line = |(address, record): (u64, LineInfo)| {
            let file = string(&btf, record.file_name_off).context("a line of a file without a name")?;
            Ok(Line { address, file: file.to_owned(), line: record.line_col >> 10 })
        };
        let mut lines = addresses.into_iter().zip(records).map(line).collect::<Result<Vec<_>>>()?;
        lines.sort_by_key(|line| line.address);
        let functions =
            starts.into_iter().zip(lengths).map(|(start, length)| start..start + u64::from(length));
        Ok(Self { functions: functions.collect(), lines })
    }
}

/// The types of a program, of which its strings are wanted.
fn btf(id: u32) -> Result<Vec<u8>> {
    let context = "the kernel does not hand out the program's types";
    // SAFETY: BTF_GET_FD_BY_ID reads the id, and opens what it names.
    let fd = unsafe { opened(BPF_BTF_GET_FD_BY_ID, &id) }.context(context)?;
    let mut size = BtfInfo::default();
    info(fd.as_fd(), &mut size).context(context)?;
    let mut bytes = vec![0_u8; size.btf_size as usize];
    let mut asked = BtfInfo { btf: bytes.as_mut_ptr() as u64, btf_size: size.btf_size, ..BtfInfo::default() };
    info(fd.as_fd(), &mut asked).context(context)?;
    Ok(bytes)
}

/// A string of them. `struct btf_header` (include/uapi/linux/btf.h): its own length at 4, where strings begin behind it
/// at 16, how long they are at 20.
fn string(btf: &[u8], at: u32) -> Option<&str> {
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?) as usize);
    let start = word(4)? + word(16)?;
    let strings = btf.get(start..start + word(20)?)?;
    CStr::from_bytes_until_nul(strings.get(at as usize..)?).ok()?.to_str().ok()
}

/// Fills `asked`, which says by its counts what its pointers have room for.
fn info<T>(object: BorrowedFd<'_>, asked: &mut T) -> io::Result<()> {
    let info = std::ptr::from_mut(asked) as u64;
    let bpf_fd = object.as_raw_fd().cast_unsigned();
    let attr = GetInfo { bpf_fd, info_len: size_of::<T>() as u32, info };
    // SAFETY: `info` points to a record of `info_len` bytes; the buffers that it names outlive the call, and are as long
    // as the counts beside them say.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) }.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_the_kernels() {
        assert_eq!(std::mem::offset_of!(ProgInfo, jited_ksyms), 112);
        assert_eq!(std::mem::offset_of!(ProgInfo, line_info), 152);
        assert_eq!(size_of::<ProgInfo>(), 192);
    }

    #[test]
    fn strings_lie_behind_the_types() {
        let mut btf = vec![0_u8; 24];
        for (at, word) in [(4, 24_u32), (16, 8), (20, 6)] {
            btf[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        btf.extend_from_slice(b"types...\0a.rs\0");
        assert_eq!(string(&btf, 1), Some("a.rs"));
        assert_eq!(string(&btf, 0), Some(""));
        assert_eq!(string(&btf, 6), None);
        assert_eq!(string(&btf[..20], 1), None);
    }
}
