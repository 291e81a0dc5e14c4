//! The agent's side: lets aya copy the records to and from the kernel, and runs the slot protocol on
//! mapped memory.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{
    bucket::Word, counters, dest, endpoint, fragment, host, link, meta, probe, record, service, source, tick,
    trace,
};

macro_rules! pod {
    ($($record:ty),* $(,)?) => {
        $(
            // SAFETY: repr(C), fixed-width integers and byte arrays only, no implicit padding
            // (the size asserts beside each type), so every bit pattern is valid.
            unsafe impl aya::Pod for $record {}
        )*
    };
}

pod!(
    counters::ConnCounts,
    counters::Counters,
    counters::DestCounters,
    dest::Dest,
    endpoint::range::Data4,
    endpoint::range::Data6,
    fragment::Key,
    fragment::Place,
    host::Host,
    link::Link,
    meta::Meta,
    probe::Probes,
    record::Record,
    service::Rotation,
    service::Service,
    source::Data4,
    source::Data6,
    tick::Reading,
    trace::Filter,
    trace::Lost,
);

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Acquire)
    }

    fn store(&self, new: u64) {
        AtomicU64::store(self, new, Ordering::Release);
    }

    fn cas(&self, seen: u64, new: u64) -> bool {
        self.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
