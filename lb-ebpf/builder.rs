//! Builds programs of this crate for the BPF target: part of the build scripts of those that embed one.
//!
//! aya-build does the same but fixes the compiler's flags, and the flow table needs
//! `-Ctarget-cpu=v3` (64-bit compare-and-swap). A second cargo runs, on nightly for `-Zbuild-std`,
//! with a target directory of its own so that it does not wait for the lock of the first.

use std::{env, path::PathBuf, process::Command};

/// Builds `programs` (with `features`) and leaves each as `PROGRAM.o` in the calling script's OUT_DIR.
pub fn build(programs: &[&str], features: &str) {
    build_as(programs, features, "");
}

/// The same, but leaves it as `PROGRAM<suffix>.o`: another build of a program, in a target directory of its own.
pub fn build_as(programs: &[&str], features: &str, suffix: &str) {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let workspace = manifest.parent().expect("the crate lies in the workspace").to_path_buf();
    for watched in ["lb-ebpf/src", "lb-ebpf/Cargo.toml", "lb-ebpf/builder.rs", "lb-common/src", "Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }
    // One directory for all profiles and features of the embedding crates: the objects are the same.
    let target = out
        .ancestors()
        .nth(4)
        .expect("OUT_DIR is target/PROFILE/build/PKG/out")
        .join(format!("ebpf{suffix}"));
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];
    println!("cargo:rerun-if-env-changed=LB_NIGHTLY");
    let nightly = env::var("LB_NIGHTLY").unwrap_or_else(|_| "nightly".to_owned());
    let status = Command::new("rustup")
        .args(["run", &nightly, "cargo", "build", "--package=lb-ebpf", "--release"])
        .args(programs.iter().flat_map(|program| ["--bin", program]))
        .args(["--features", features])
        .args(["--target=bpfel-unknown-none", "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&workspace)
        // The outer cargo's variables would mislead the inner one.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("building lb-ebpf failed ({status}); `cargo xtask setup` installs what it needs")
        }
        Err(error) => panic!("rustup cannot be run ({error}); `cargo xtask setup` says what to install"),
    }
    for program in programs {
        let built = target.join("bpfel-unknown-none/release").join(program);
        if let Err(error) = std::fs::copy(&built, out.join(format!("{program}{suffix}.o"))) {
            panic!("copying {}: {error}", built.display());
        }
    }
}
