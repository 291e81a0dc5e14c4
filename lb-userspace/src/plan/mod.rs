//! From what is wanted to map operations. PURE.
//!
//! `plan(desired, snapshot)` compares what should be with what the kernel holds and lists, in the
//! order in which they must happen, the operations that make them equal; planning again after they
//! were applied gives none. A restarted agent has no memory but the kernel's: all ids live there.

mod compile;
mod desired;
mod endpoints;
mod ids;
mod op;
mod probes;
mod ranges;
mod reclaim;
mod records;
mod region;
mod rotation;
mod snapshot;
mod sources;
mod spread;
mod steps;
mod tables;

#[cfg(test)]
mod tests;

pub use compile::{CompileError, compile, scheduler_name};
pub use desired::{ByHealth, Desired, HostRoute, LinkSpec, ProbeSpec, Weights};
pub use op::Op;
pub use ranges::RangeKey;
pub use reclaim::reclaim;
pub use records::{dest_address, host_address};
pub use region::arena_words;
pub use snapshot::{
    Census, EndpointKey, MapSizes, Snapshot, address_bytes, address_from, address_of_words, address_words,
    name_of,
};
pub use sources::RuleKey;
pub use steps::{Compiled, PlanError, plan, plan_links, plan_on};
