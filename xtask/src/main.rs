//! `cargo xtask`: everything a developer of lb does, one verb each.
//!
//! xtask depends on no other crate of the workspace, so that it builds before anything is set up:
//! it runs commands. Read `setup/` for what a machine needs, `test.rs` and `ci.rs` for what runs.

mod bench;
mod build;
mod check;
mod ci;
mod clean;
mod clock;
mod cmd;
mod lab;
mod leftovers;
mod metadata;
mod processes;
mod repo;
mod report;
mod setup;
mod sys;
mod tally;
mod test;
mod tidy;
mod verified;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// Everything a developer of lb can do.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: rust-src, bpf-linker, Debian packages (the other verbs call it)
    Setup(setup::Args),
    /// Build the `lb` binary with the XDP program inside
    Build(build::Args),
    /// rustfmt over the workspace
    Fmt(check::FmtArgs),
    /// clippy with warnings denied, lb-ebpf for its BPF target too
    Lint,
    /// House rules that no compiler checks, each with its reason
    Tidy,
    /// All tests, as root: unit, packets and labs in the kernel, kernel 6.1 in a VM
    Test(test::Args),
    /// The main job: MySQL servers behind an XDP director, in namespaces; `demo health`: what becomes of sick ones
    Demo(lab::DemoArgs),
    /// The demo's lab for yourself: up, down, shell NODE, status
    Lab(lab::LabArgs),
    /// What a packet costs, beside a kernel LRU map and no table at all; `--vm`: beside IPVS; whether the targets hold
    Bench(bench::Args),
    /// Run a program under Debian's kernel 6.1 in qemu
    Vm(vm::Args),
    /// What .ci/run does: fmt, lint, unused dependencies, tidy, test, demo
    Ci,
    /// Remove namespaces, processes, pins and mounts that a broken run left behind
    Clean,
}

fn main() -> ExitCode {
    sys::leave_interrupts_to_children();
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        // Without the backtrace that RUST_BACKTRACE adds to anyhow's Debug: it is for people.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Option<Verb>) -> Result<()> {
    match verb {
        None => list_verbs(),
        Some(Verb::Setup(args)) => setup::main(&args)?,
        Some(Verb::Build(args)) => build::main(&args)?,
        Some(Verb::Fmt(args)) => check::fmt(args.check)?,
        Some(Verb::Lint) => check::lint()?,
        Some(Verb::Tidy) => tidy::main()?,
        Some(Verb::Test(args)) => test::main(&args)?,
        Some(Verb::Demo(args)) => lab::demo(args.what, args.keep)?,
        Some(Verb::Lab(args)) => lab::main(&args)?,
        Some(Verb::Bench(args)) => bench::main(&args)?,
        Some(Verb::Vm(args)) => vm::main(&args)?,
        Some(Verb::Ci) => ci::main()?,
        Some(Verb::Clean) => clean::main()?,
    }
    Ok(())
}

/// What `cargo xtask` understands: tidy holds the documents against it.
fn command_line() -> clap::Command {
    Cli::command()
}

fn list_verbs() {
    let cli = command_line();
    println!("cargo xtask VERB   (VERB --help tells more)\n");
    for verb in cli.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        println!("  {:<14} {about}", verb.get_name());
        for part in verb.get_subcommands() {
            let about = part.get_about().map(ToString::to_string).unwrap_or_default();
            println!("  {:<14} {about}", format!("{} {}", verb.get_name(), part.get_name()));
        }
    }
}
