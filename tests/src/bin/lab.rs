//! `cargo xtask lab`: the demo's lab, up until it is taken down.

use std::{fs, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use lb_tests::{
    agent::lb_binary,
    netns::{self, Netns},
    notes::NotesLab,
    proc::Lifetime,
    scope::{self, DEVELOPER_LAB, Scope},
    supervise::{exit_code, supervise},
    topo::VIP4,
};

/// A lab of network namespaces: client, director, slave1, slave2, switch.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the lab and leave it up.
    Up,
    /// Take it down: processes, namespaces, pins, files.
    Down,
    /// Open a shell on a node.
    Shell {
        /// client, director, slave1, slave2 or switch
        node: String,
    },
    /// Say what is up.
    Status,
    #[command(hide = true)]
    Build,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().verb {
        Verb::Up => up(),
        Verb::Build => build(),
        Verb::Down => down(),
        Verb::Shell { node } => shell(&node),
        Verb::Status => status(),
    };
    exit_code(outcome)
}

fn up() -> Result<ExitCode> {
    ensure!(!is_up()?, "the lab is up already; `cargo xtask lab down` takes it down");
    supervise(&["build"], DEVELOPER_LAB, true)
}

fn down() -> Result<ExitCode> {
    let was_up = is_up()?;
    scope::teardown(DEVELOPER_LAB)?;
    println!("{}", if was_up { "the lab is down" } else { "the lab was not up" });
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<ExitCode> {
    let mut up = NotesLab::up(Scope::named(DEVELOPER_LAB, Lifetime::Kept)?, |title| println!("== {title}"))?;
    up.lab.finish();
    println!("The lab is up. On the client:");
    println!("    mysql -u root -p123 -h {VIP4} -e \"select @@hostname;\"");
    println!("On the director, with the control socket {}:", up.agent.socket().display());
    println!("    lb service list");
    println!("Open a shell there with `cargo xtask lab shell client` (or director, slave1, slave2).");
    Ok(ExitCode::SUCCESS)
}

/// Becomes a shell on the node, with `lb` in its path and, on the director, the control socket known.
fn shell(node: &str) -> Result<ExitCode> {
    ensure!(is_up()?, "the lab is not up; `cargo xtask lab up` builds it");
    let prefix = format!("{DEVELOPER_LAB}-");
    let nodes: Vec<_> = netns::names(&prefix).iter().map(|n| n[prefix.len()..].to_owned()).collect();
    ensure!(nodes.iter().any(|n| n == node), "there is no node {node:?}; there are {}", nodes.join(", "));
    let netns = Netns::open(&format!("{prefix}{node}"))?;
    let program = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = netns.command(program)?;
    let lb = lb_binary()?;
    let mut path = lb.parent().context("lb is in no directory")?.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command
        .env("PATH", path)
        .env("LB_SOCKET", socket()?)
        .env("LB_LAB_NODE", node)
        .env("PS1", format!("{node}> "));
    bail!("cannot start a shell: {}", command.exec())
}

fn status() -> Result<ExitCode> {
    if !is_up()? {
        println!("the lab is not up");
        return Ok(ExitCode::FAILURE);
    }
    for name in netns::names(&format!("{DEVELOPER_LAB}-")) {
        println!("== {name}");
        print!("{}", Netns::open(&name)?.run("ip", &["-br", "addr"])?.ok()?);
    }
    println!("== lb status");
    let director = Netns::open(&format!("{DEVELOPER_LAB}-director"))?;
    let socket = socket()?;
    let ran = director.run(lb_binary()?, &["--socket", &socket.to_string_lossy(), "status"])?;
    print!("{}{}", ran.stdout, ran.stderr);
    Ok(if ran.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_up() -> Result<bool> {
    Ok(scope::dir_of(DEVELOPER_LAB)?.exists())
}

/// The control socket of the lab's only instance.
fn socket() -> Result<std::path::PathBuf> {
    let entries = fs::read_dir(scope::dir_of(DEVELOPER_LAB)?)?.flatten();
    let found = entries.map(|e| e.path().join("lb.sock")).find(|path| path.exists());
    found.context("no agent's control socket is in the lab's directory")
}
