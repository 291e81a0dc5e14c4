//! What qemu calls, and is called by: version 1 of its interface for plugins (docs/devel/tcg-plugins.rst of qemu 7.2),
//! as much as is needed of it. The VM has one CPU, so that nothing here runs twice at the same time.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{Exit, Mark, is_bpf, is_kernel};
use crate::counts::{Counter, Counts};
use crate::walk::{Block, Walk};

/// The version of the interface that this was written for: qemu looks at it, and says so if it has another one.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// What callers promise about registers (`enum qemu_plugin_cb_flags`): nothing is read, nothing written.
const NO_REGISTERS: c_int = 0;
/// Adds to a word without calling anybody (`enum qemu_plugin_op`).
const ADD: c_int = 0;

/// qemu's block and instruction, which live as long as the call that names them.
#[repr(C)]
struct Tb([u8; 0]);
#[repr(C)]
struct Insn([u8; 0]);

type OnRun = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: extern "C" fn(u64, *mut Tb));
    fn qemu_plugin_register_vcpu_tb_exec_cb(tb: *mut Tb, call: OnRun, flags: c_int, data: *mut c_void);
    fn qemu_plugin_register_vcpu_insn_exec_cb(insn: *mut Insn, call: OnRun, flags: c_int, data: *mut c_void);
    fn qemu_plugin_register_vcpu_insn_exec_inline(insn: *mut Insn, op: c_int, word: *mut c_void, by: u64);
    fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    fn qemu_plugin_tb_get_insn(tb: *const Tb, number: usize) -> *mut Insn;
    fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
    fn qemu_plugin_insn_data(insn: *const Insn) -> *const c_void;
    fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
}

/// Of a block's last instruction, if that is a program's.
type Last = Option<&'static Counter>;

/// None until qemu has said where to write.
static COUNTS: Mutex<Option<Counts>> = Mutex::new(None);
static WALK: Mutex<Walk<Last>> = Mutex::new(Walk::START);
/// Whether a window is open. Apart, since every block of the kernel asks, from the first one of its boot on.
static COUNTING: AtomicBool = AtomicBool::new(false);

/// Called once, with the arguments of `-plugin FILE,out=PATH`. Not 0: qemu ends.
#[unsafe(no_mangle)]
pub extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: qemu hands over `argc` strings, which stay where they are.
    let mut arguments = (0..count).map(|at| unsafe { CStr::from_ptr(*argv.add(at)) });
    let out = arguments.find_map(|argument| argument.to_str().ok()?.strip_prefix("out="));
    let opened = match out.map(|path| (path, Counts::new(Path::new(path)))) {
        Some((_, Ok(counts))) => counts,
        Some((path, Err(error))) => {
            eprintln!("steps-plugin: cannot write {path}: {error}");
            return 1;
        }
        None => {
            eprintln!("steps-plugin: `out=PATH` is missing");
            return 1;
        }
    };
    *held(&COUNTS) = Some(opened);
    // SAFETY: the id is ours, and the function lives as long as this library, which qemu keeps.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}

/// A block was translated, and has not run yet.
extern "C" fn translated(_id: u64, tb: *mut Tb) {
    let (mut start, mut exit, mut last) = (None, Exit::Other, None);
    // SAFETY: qemu lends the block for this call; there is an instruction for each number below that of all.
    let (length, instructions) = unsafe {
        let length = qemu_plugin_tb_n_insns(tb);
        (length as u64, (0..length).map(move |number| qemu_plugin_tb_get_insn(tb, number)))
    };
    for insn in instructions {
        // SAFETY: the instruction is the block's, and its bytes are as many as it says.
        let (address, bytes) = unsafe {
            let (bytes, size) = (qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn));
            (qemu_plugin_insn_vaddr(insn), slice::from_raw_parts(bytes.cast::<u8>(), size))
        };
        start.get_or_insert(address);
        if is_bpf(address) {
            (exit, last) = (Exit::of(bytes, address), count(insn, address));
        } else if !is_kernel(address)
            && let Some(mark) = Mark::of(bytes)
        {
            let call: OnRun = match mark {
                Mark::Begin => began,
                Mark::End => ended,
            };
            // SAFETY: the instruction is the block's; no data goes with the call.
            unsafe { qemu_plugin_register_vcpu_insn_exec_cb(insn, call, NO_REGISTERS, std::ptr::null_mut()) };
        }
    }
    let Some(start) = start.filter(|start| is_kernel(*start)) else { return };
    let data = Box::into_raw(Box::new(Block { start, length, exit, last })).cast();
    // SAFETY: the data is a block, which is never freed, as `runs` expects it.
    unsafe { qemu_plugin_register_vcpu_tb_exec_cb(tb, runs, NO_REGISTERS, data) };
}

/// An instruction of a program: its counter from now on goes with it.
fn count(insn: *mut Insn, address: u64) -> Last {
    let counter = held(&COUNTS).as_mut()?.at(address);
    // SAFETY: the instruction is of the block that is being translated; the counter is never freed.
    unsafe { qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, counter.ran.as_ptr().cast(), 1) };
    Some(counter)
}

/// A block of the kernel, or of a program, begins to run.
extern "C" fn runs(_cpu: c_uint, data: *mut c_void) {
    if !COUNTING.load(Relaxed) {
        return;
    }
    // SAFETY: `translated` has registered this function with such a block, which is never freed.
    let block = unsafe { &*data.cast::<Block<Last>>() };
    if let Some((Some(by), instructions)) = held(&WALK).enter(block) {
        by.called.fetch_add(instructions, Relaxed);
    }
}

extern "C" fn began(_cpu: c_uint, _data: *mut c_void) {
    if let Some(counts) = &*held(&COUNTS) {
        counts.begin();
    }
    *held(&WALK) = Walk::START;
    COUNTING.store(true, Relaxed);
}

extern "C" fn ended(_cpu: c_uint, _data: *mut c_void) {
    COUNTING.store(false, Relaxed);
    if let Some(Err(error)) = held(&COUNTS).as_mut().map(Counts::end) {
        // xtask misses the window, and says so.
        eprintln!("steps-plugin: cannot write the counts: {error}");
    }
}

/// What a lock guards, whoever panicked with it.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
