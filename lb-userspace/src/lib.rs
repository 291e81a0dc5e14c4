//! `lb`: an XDP Direct-Routing load balancer, the user-space half.
//!
//! Three rings, imports point inward only:
//! * PURE: [`model`], [`config`], [`overlay`] (without its journal) - no tokio, no aya, no sockets, no clock;
//! * IO: sockets, netlink, BPF, HTTP;
//! * ROOT: the agent and the command line.

pub mod api;
pub mod config;
pub mod model;
pub mod overlay;
