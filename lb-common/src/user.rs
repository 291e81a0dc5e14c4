//! Lets aya copy the records to and from the kernel.

use crate::{counters, dest, endpoint, host, link, service, tick};

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
    dest::Dest,
    endpoint::Key6,
    host::Host,
    link::Link,
    service::Rotation,
    service::Service,
    tick::Reading,
);
