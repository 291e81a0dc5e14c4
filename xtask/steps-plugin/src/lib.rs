//! What `cargo xtask vm steps` loads into qemu: between two marks that the program in the VM sets, it counts how often
//! each instruction of a BPF program ran, and how many instructions of the kernel ran because that one called them.
//!
//! `qemu.rs` is called by qemu when it translates guest code and when that runs, `walk.rs` follows the way from a BPF
//! program into the kernel and back, `code.rs` reads the few instructions that matter for that, and `counts.rs` keeps
//! the counts and writes them down.

pub mod code;
pub mod counts;
// Its functions are qemu's, which a test program is not linked with.
#[cfg(not(test))]
mod qemu;
pub mod walk;
