//! `lb`: an XDP Direct-Routing load balancer, the user-space half.
//!
//! Three rings, imports point inward only:
//! * PURE: [`model`], [`config`], [`overlay`] (its journal apart), [`plan`], [`neigh`], [`health`], [`estimator`],
//!   [`events`] (its file apart), [`pressure`], [`api::types`] - no tokio, no aya, no sockets, no clock;
//! * IO: [`dataplane`], [`net`], [`checks`], [`notify`], [`program`], [`realserver`], [`doctor`], [`explain`], [`trace`], [`api`],
//!   [`clock`], [`durable`], [`log`] - BPF, netlink, HTTP, the time;
//! * ROOT: [`agent`] and [`cli`].

pub mod agent;
pub mod api;
pub mod checks;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dataplane;
pub mod doctor;
pub mod durable;
pub mod estimator;
pub mod events;
pub mod explain;
pub mod health;
pub mod log;
pub mod model;
pub mod neigh;
pub mod net;
pub mod notify;
pub mod overlay;
pub mod plan;
pub mod pressure;
pub mod program;
pub mod realserver;
pub mod trace;
