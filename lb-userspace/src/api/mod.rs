//! The control API: HTTP + JSON on the agent's unix socket.
//!
//! [`types`] is the contract (PURE), shared by the server in the agent and the client in the CLI.

pub mod types;
