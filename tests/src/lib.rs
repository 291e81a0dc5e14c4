//! The harness of everything that needs a kernel: labs of network namespaces with real servers and clients.
//!
//! * [`topo`] builds a lab: switch, clients, director, backends; [`scope`] owns its names and takes it down;
//! * [`agent`] runs `lb run` on the director and talks to it through the `lb` command line;
//! * [`doctor`] asks `lb doctor`;
//! * [`mariadb`], [`hello`], [`udp`], [`dns`], [`errqueue`] are what runs on the backends, and how a client asks them;
//! * [`galera`] makes a cluster of MariaDB servers, [`mysql`] is MySQL itself;
//! * [`certificate`], [`nginx`], [`mail`], [`receiver`] are real servers of other kinds, that are checked or told of events;
//! * [`proxy`] breaks off what a server says after so many bytes;
//! * [`lab::Lab::test`] runs a test and prints packets, maps and logs if it fails;
//! * [`xdp`] runs the program on frames made by [`packet`], without any interface; [`jited`] says where its code lies,
//!   [`mark`] when to count it;
//! * [`netns`], [`proc`], [`raw`], [`xdp_pass`], [`wait`], [`clock`] are the tools all of these are made of.

pub mod agent;
mod capture;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod detour;
pub mod dns;
pub mod doctor;
pub mod errqueue;
pub mod feeder;
pub mod galera;
pub mod hello;
pub mod jited;
pub mod lab;
pub mod load;
pub mod mail;
pub mod mariadb;
pub mod mark;
pub mod mysql;
pub mod netns;
pub mod nginx;
pub mod notes;
pub mod packet;
mod pins;
pub mod proc;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod scope;
pub mod sql_load;
pub mod steps;
pub mod stores;
pub mod supervise;
pub mod topo;
pub mod udp;
pub mod wait;
pub mod xdp;
pub mod xdp_pass;
