//! What the kernel half and the user-space half of `lb` must agree on.
#![no_std]

pub mod service;
