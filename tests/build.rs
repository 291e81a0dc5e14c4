//! Builds the benchmark's XDP programs, which no production binary has, for `src/bin/bench/`.

#[path = "../lb-ebpf/builder.rs"]
mod builder;

fn main() {
    builder::build(&["bench"], "bench");
}
