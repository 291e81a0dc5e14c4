//! What is wanted: interfaces, services and backends, valid by construction.
//!
//! PURE. The configuration file, the overlay of CLI changes, health checks and (later) VRRP all end
//! up as one [`Model`]; `plan` turns it into map operations. Words are LVS's: a *service* is IPVS's
//! virtual server, a *backend* its real server.

#[cfg(test)]
pub(crate) mod arbitrary;
pub mod check;
pub mod edit;
pub mod edit_sources;
pub mod endpoint;
mod maintenance;
mod name;
pub mod nearest;
pub mod notify;
pub mod persistence;
mod refusal;
pub mod rules;
mod scheduler;
pub mod sources;
pub mod timeouts;
mod types;

pub use maintenance::Maintenance;
pub use name::{NameError, ServiceName};
pub use persistence::{Persistence, Scope};
pub use scheduler::{HashFlags, Scheduler};
pub use sources::{SourceLimit, SourceRule, Sources};
pub use timeouts::{PartialTimeouts, PerState, Timeouts};
pub use types::{
    AttachMode, Backend, BackendKey, Endpoint, ExpireNodest, FlowSizes, Guard, InterfaceSpec, Limits, Model,
    OffloadPolicy, Protocol, Reject, Service, ServiceOptions, VipPlacement,
};
