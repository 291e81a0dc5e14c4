//! `lb::net` and `lb::realserver` against the running kernel. Needs root: each test makes network
//! namespaces of its own, which end with their threads, so nothing is left behind and tests do not meet.

mod link;
mod namespace;
mod neighbour;
mod offload;
mod realserver;
mod xdp;
