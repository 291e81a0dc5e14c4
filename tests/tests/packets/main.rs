//! Packet tables: maps, a packet in, the verdict and the exact packet out, through the real program in the kernel
//! (BPF_PROG_TEST_RUN). Each test has a director of its own; they run in parallel.
//!
//! One binary, one module per topic; [`world`] names who is who, [`table`] runs cases and tells what differs.

mod bytes;
mod table;
mod world;

mod capacity;
mod change;
mod cost;
mod counters;
mod cpus;
mod expiry;
mod explain;
mod forward;
mod fragment;
mod full;
mod fuzz;
mod groups;
mod growth;
mod guard;
mod header;
mod health;
mod icmp;
mod limits;
mod mtu;
mod options;
mod persistence;
mod pressure;
mod probe;
mod property;
mod redirect;
mod reject;
mod schedule;
mod schedulers;
mod sctp;
mod sources;
mod state;
mod threshold;
mod trace;
mod ttl;
mod verifier;
mod vlan;
mod wildcard;
