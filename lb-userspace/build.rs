//! Builds the XDP programs and leaves them in OUT_DIR for `dataplane::object`.

#[path = "../lb-ebpf/builder.rs"]
mod builder;

fn main() {
    builder::build(&["lb", "pass", "deliver"], "");
    // The same program, as `lb explain` runs it.
    builder::build_as(&["lb"], "explain", "-explain");
    // The same program, as it runs while `lb trace` does.
    builder::build_as(&["lb"], "trace", "-trace");
}
