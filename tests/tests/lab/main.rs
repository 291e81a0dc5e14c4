//! The product in labs of network namespaces, end to end. Each test has a lab of its own; they run in parallel.
//!
//! One binary, one module per topic. A failure prints packets, maps and the agent's log; `LB_CAPTURE=0` records no
//! packets.

mod cli;
mod conns;
mod crash;
mod detach;
mod dns;
mod drain;
mod endpoints;
mod flood;
mod generic;
mod groups;
mod growth;
mod health;
mod health_mysql;
mod health_web;
mod hot;
mod instances;
mod jumbo;
mod leftovers;
mod local;
mod mysql;
mod neighbour;
mod options;
mod overlay;
mod passive;
mod permission;
mod persistence;
mod realserver;
mod refusals;
mod reject;
mod reload;
mod report;
mod save;
mod segments;
mod setup;
mod sizes;
mod spread;
mod starts;
mod stats;
mod swap;
mod talk;
mod threshold;
mod timeouts;
mod ttl;
