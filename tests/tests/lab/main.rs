//! The product in labs of network namespaces, end to end. Each test has a lab of its own; they run in parallel.
//!
//! One binary, one module per topic. `LB_CAPTURE=1` adds the packets to the report of a failure.

mod cli;
mod conns;
mod crash;
mod detach;
mod dns;
mod drain;
mod endpoints;
mod hot;
mod instances;
mod jumbo;
mod leftovers;
mod local;
mod mysql;
mod neighbour;
mod overlay;
mod permission;
mod refusals;
mod reload;
mod save;
mod segments;
mod setup;
mod spread;
mod stats;
mod swap;
mod threshold;
mod timeouts;
mod ttl;
