//! Reads the facts: one file for each subject that is judged. IO; nothing is changed.

pub mod agent;
pub mod backend;
pub mod capability;
pub mod driver;
pub mod interface;
pub mod keepalived;
pub mod local;
pub mod machine;
pub mod network;
pub mod rivals;
pub mod service;
pub mod stack;
pub mod tables;
