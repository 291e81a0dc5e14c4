//! The control API: HTTP + JSON on the agent's unix socket.
//!
//! [`types`] is the contract (PURE), shared by [`server`] in the agent and [`client`] in the CLI.

mod checks;
pub mod client;
#[cfg(test)]
pub(crate) mod fake;
pub mod server;
pub mod types;
