//! Words that the protocol runs on here.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::bucket::Word;

pub trait NewWord: Word + 'static {
    fn new(word: u64) -> Self;

    /// A word that nobody will write.
    fn constant(word: u64) -> Self;
}

/// The machine's, for the stress: as the agent has it on mapped memory (`lb_common::user`).
pub struct Real(AtomicU64);

impl Word for Real {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn store(&self, new: u64) {
        self.0.store(new, Ordering::Release);
    }

    fn cas(&self, seen: u64, new: u64) -> bool {
        self.0.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl NewWord for Real {
    fn new(word: u64) -> Self {
        Self(AtomicU64::new(word))
    }

    fn constant(word: u64) -> Self {
        Self::new(word)
    }
}
