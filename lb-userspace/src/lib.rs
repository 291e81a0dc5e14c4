//! `lb`: an XDP Direct-Routing load balancer, the user-space half.
//!
//! Three rings, imports point inward only:
//! * PURE: [`model`] - no tokio, no aya, no sockets, no clock;
//! * IO: sockets, netlink, BPF, HTTP;
//! * ROOT: the agent and the command line.

pub mod api;
pub mod model;
pub mod net;
pub mod realserver;
