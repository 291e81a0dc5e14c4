//! The kernel's verifier, which walks every way through the program, has a limit (a million instructions), and other
//! kernels walk further than this one.

use crate::world::*;

/// A seventh of what the kernel allows.
const LIMIT: u32 = 150_000;
/// Where the program stood when this was last looked at (Linux 6.18).
const BEFORE: u32 = 120_000;

#[test]
fn the_verifier_has_not_much_to_walk() {
    let walked = director(&every_kind()).verified_instructions().expect("the kernel counts");
    let grown = (f64::from(walked) / f64::from(BEFORE) - 1.0) * 100.0;
    println!("{walked} instructions verified");
    assert!(
        walked <= LIMIT,
        "the verifier walks {walked} instructions, {grown:+.0} % against {BEFORE}: above {LIMIT} a small change, or \
         another kernel, may not get through. What it walks again and again belongs into a function of its own that \
         takes numbers (see lb-ebpf/src/flow.rs)."
    );
}
