//! Builds the XDP programs of measurements, which no production binary has: what makes packets, for
//! `src/feeder.rs`, and with feature `bench` what `src/bin/bench/` compares the director's program with.

#[path = "../lb-ebpf/builder.rs"]
mod builder;

fn main() {
    builder::build(&["bench", "bare"], "bench");
    if std::env::var_os("CARGO_FEATURE_BENCH").is_some() {
        builder::build_as(&["lb"], "lru", "-lru");
        builder::build_as(&["lb"], "stub", "-stub");
    }
}
