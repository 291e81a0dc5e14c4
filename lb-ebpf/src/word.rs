//! 64-bit words that CPUs and the agent share.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr::{read_volatile, write_volatile},
};

use lb_common::bucket::Word;

use crate::record;

/// A word of map memory. Plain loads and stores are volatile: on x86, the only architecture that the
/// agent starts on, the hardware keeps their order.
#[repr(transparent)]
pub struct KernelWord(UnsafeCell<u64>);

impl Word for KernelWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the reference is to map memory, valid and aligned for the program's run.
        unsafe { read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn store(&self, new: u64) {
        if record::is_dry() {
            return;
        }
        // SAFETY: as above; other CPUs read and write it only as whole words.
        unsafe { write_volatile(self.0.get(), new) }
    }

    #[inline(always)]
    fn cas(&self, seen: u64, new: u64) -> bool {
        compare_and_swap(self.0.get(), seen, new)
    }
}

/// Replaces a shared word by `new` if it is `seen`; whether it was.
#[inline(always)]
pub fn compare_and_swap(word: *mut u64, seen: u64, new: u64) -> bool {
    if record::is_dry() {
        // SAFETY: as below.
        return unsafe { read_volatile(word) } == seen;
    }
    // SAFETY: callers pass a pointer to an aligned word of a map's value.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, seen, new).1 }
}

/// Adds to a shared counter and returns what it was before.
#[inline(always)]
pub fn fetch_add(word: *mut u64, by: u64) -> u64 {
    if record::is_dry() {
        // SAFETY: as below.
        return unsafe { read_volatile(word) };
    }
    // SAFETY: callers pass a pointer to an aligned word of a map's value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, by) }
}
