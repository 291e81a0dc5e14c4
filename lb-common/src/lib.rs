//! What the kernel half and the user-space half of `lb` must agree on: the layout of every map, and
//! the pure decisions that the XDP program takes (`no_std`, no allocation, no clock, no IO), so that
//! one implementation runs in the kernel and under unit, property and model tests.
//!
//! ABI rules: map keys and values are `repr(C)`, made of fixed-width integers and byte arrays, with
//! explicit zeroed padding and a size assert; no `bool`, `enum` or `Option` in them. A change to any
//! of them raises [`SCHEMA_VERSION`], which is part of the pin path, so that a new agent never meets
//! old maps.
#![cfg_attr(not(test), no_std)]

pub mod bucket;
pub mod checksum;
pub mod counters;
pub mod dest;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod generation;
pub mod guard;
pub mod hashed;
pub mod host;
pub mod icmp;
pub mod link;
pub mod meta;
pub mod probe;
pub mod record;
pub mod scheduler;
pub mod sctp;
pub mod service;
pub mod source;
pub mod tcp;
pub mod template;
pub mod tick;
pub mod trace;
#[cfg(feature = "user")]
mod user;
pub mod value;
pub mod verdict;
pub mod vlan;

/// Version of all layouts in this crate: pins live in `<bpffs>/lb/<instance>/v<SCHEMA_VERSION>/`.
pub const SCHEMA_VERSION: u32 = 6;

/// IP protocol numbers (IANA) that services may have.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const SCTP: u8 = 132;
}
