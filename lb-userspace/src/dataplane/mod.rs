//! The kernel half as the agent sees it: programs, pins, maps. IO.

mod apply;
mod attach;
pub mod bpf;
mod clock;
mod deliver;
mod explain;
mod flows;
mod growth;
pub mod kernel;
mod layout;
mod link;
mod mapped;
mod maps;
mod object;
mod pins;
mod seen;
mod snapshot;
mod stats;
mod templates;
mod trace;

pub use attach::{AttachError, Attached, Build, Loaded, Opened, Target};
pub use clock::Clock;
pub use deliver::{Delivery, End};
pub use explain::{Explainer, Ran};
pub use flows::{FlowEntry, Pruning, Sweep};
pub use growth::Moved;
pub use layout::Layout;
pub use mapped::Mapped;
pub use maps::Maps;
pub use object::{LoadError, Object};
pub use pins::{Adopted, PinError, Pins, detach, grace_period, is_bpffs, unmount_bpffs};
pub use trace::{Traced, Traces};

/// Bytes of memory by entry, for `lb check-config`.
pub fn entry_sizes() -> crate::config::EntrySizes {
    use lb_common::{counters, dest, endpoint::table, flow, host, service};
    // Four slots a bucket, one of them filled at the rated capacity: a bucket for each rated flow.
    crate::config::EntrySizes {
        flow_ipv4: size_of::<flow::NarrowBucket<u64>>() as u64,
        flow_wide: size_of::<flow::WideBucket<u64>>() as u64,
        service: (size_of::<service::Service>() + size_of::<service::Rotation>()) as u64,
        endpoint: u64::from(object::endpoint_buckets(2)) * size_of::<table::Bucket<u64>>() as u64,
        service_counters: size_of::<counters::Counters>() as u64,
        destination: (size_of::<dest::Dest>() + size_of::<host::Host>() + size_of::<counters::ConnCounts>())
            as u64,
        destination_counters: size_of::<counters::DestCounters>() as u64,
    }
}
