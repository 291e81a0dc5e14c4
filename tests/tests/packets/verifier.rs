//! The kernel's verifier, which walks every way through the program, has a limit (a million instructions), and other
//! kernels walk further than this one.

use std::{fs, path::Path};

use lb::{dataplane::Object, model::FlowSizes};

use crate::world::*;

/// Little more than a quarter of what the kernel allows: three protocols are walked, and the members of a service under
/// each scheduler that compares loads, twice.
const LIMIT: u32 = 275_000;
/// Linux 6.1 walks twice as far as 6.18 (see `lb-ebpf/src/packet/forget.rs`), and allows a million, too. Of every
/// build: 551,000 with two flow tables, 499,000 if that is traced, 445,000 on every other day. `cargo xtask vm test`
/// runs these tests there.
const LIMIT_UNDER_6_1: u32 = 650_000;
/// Where the program stood when this was last looked at (Linux 6.18).
const BEFORE: u32 = 260_500;

/// Notes the count of a build where `cargo xtask test` looks for it: what a test prints is seen only if it fails.
fn note(build: &str, walked: u32) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verified-instructions");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join(build), walked.to_string()).expect("written");
    println!("{build}: {walked} instructions");
}

/// `limit`, or that of the old kernel if this is it.
fn limit(limit: u32) -> u32 {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    if release.starts_with("6.1.") { LIMIT_UNDER_6_1 } else { limit }
}

#[test]
fn the_verifier_has_not_much_to_walk() {
    let walked = director(&every_kind()).verified_instructions().expect("the kernel counts");
    let grown = (f64::from(walked) / f64::from(BEFORE) - 1.0) * 100.0;
    note("ordinary", walked);
    assert!(
        walked <= limit(LIMIT),
        "the verifier walks {walked} instructions, {grown:+.0} % against {BEFORE}: above {LIMIT} a small change, or \
         another kernel, may not get through. What it walks again and again belongs into a function of its own that \
         takes numbers (see lb-ebpf/src/flow.rs)."
    );
}

/// A third of what the kernel allows: there are two of each table, or steps are noted.
const LIMIT_WHILE_MOVING: u32 = 300_000;

#[test]
fn nor_in_the_program_that_looks_into_two_tables() {
    let mut director = director(&every_kind());
    let before = director.verified_instructions().expect("the kernel counts");
    director.begin_resize(FlowSizes { ipv4: 64, wide: 64 }).expect("it begins");
    let walked = director.verified_instructions().expect("the kernel counts");
    note("moving flows", walked);
    assert!(before < walked && walked <= limit(LIMIT_WHILE_MOVING), "{walked} instead of {before}");
    director.end_resize().expect("it ends");
    assert_eq!(director.verified_instructions().expect("the kernel counts"), before);
}

/// A trace while tables change their size, which is rare and short. The kernel allows a million.
const LIMIT_WHILE_BOTH: u32 = 350_000;

/// The build for `lb trace`.
#[test]
fn nor_in_the_one_that_traces() {
    let mut director = director(&every_kind());
    director.trace().expect("it loads");
    let walked = director.verified_instructions().expect("the kernel counts");
    note("tracing", walked);
    assert!(walked <= limit(LIMIT_WHILE_MOVING), "{walked}");
}

/// The same while tables change their size.
#[test]
fn nor_in_the_one_that_traces_and_looks_into_two_tables() {
    let mut director = director(&every_kind());
    director.begin_resize(FlowSizes { ipv4: 64, wide: 64 }).expect("it begins");
    director.trace().expect("it loads");
    let walked = director.verified_instructions().expect("the kernel counts");
    note("tracing and moving flows", walked);
    assert!(walked <= limit(LIMIT_WHILE_BOTH), "{walked}");
}

/// The build for `lb explain`, which is loaded beside the others.
#[test]
fn nor_in_the_one_that_explains() {
    let director = director(&every_kind());
    let mut object = Object::open_explaining(director.layout(), director.meta(), 1).expect("it opens");
    let program = object.director().expect("it loads").info().expect("its info");
    let walked = program.verified_instruction_count().expect("the kernel counts");
    note("explaining", walked);
    assert!(walked <= limit(LIMIT_WHILE_MOVING), "{walked}");
}
