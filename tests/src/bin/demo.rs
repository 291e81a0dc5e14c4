//! `cargo xtask demo`: the notes' configuration and transcript, with real servers and clients, checked.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::{
    clock::now,
    mariadb::{self, MysqlSession},
    notes::{NotesLab, SERVICE},
    proc::{self, Lifetime},
    scope::Scope,
    steps::Steps,
    supervise::{self, DemoArgs},
    topo::VIP4,
    wait::PATIENCE,
};

/// MySQL connections balanced through an XDP director, in network namespaces of this machine.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    demo: DemoArgs,
}

fn main() -> ExitCode {
    supervise::show(Args::parse().demo, demo)
}

fn demo(name: &str, keep: bool) -> Result<()> {
    let start = now();
    let lifetime = if keep { Lifetime::Kept } else { Lifetime::Guarded };
    let mut steps = Steps::default();
    let mut demo = NotesLab::up(Scope::named(name, lifetime)?, |title| steps.next(title))?;
    steps.end();
    let outcome = show(&demo, &mut steps);
    if outcome.is_ok() {
        demo.lab.finish();
    }
    outcome?;
    if keep {
        println!("\nThe lab stays up. Look around with");
        println!("    cargo xtask lab shell client      (or director, slave1, slave2)");
        println!("    cargo xtask lab down");
    } else {
        steps.next("clean-up: lb detach, servers, namespaces");
        demo.agent.detach()?;
        drop(demo);
        steps.end();
    }
    println!("\ndone in {:.1} s: every answer was as it should be", start.elapsed().as_secs_f32());
    Ok(())
}

/// What the user came to see; every answer is checked.
fn show(demo: &NotesLab, steps: &mut Steps) -> Result<()> {
    steps.next("the notes' transcript: four connections, by turns");
    transcript(demo)?;
    steps.next("the backends");
    println!("{}", shown(demo, "director", &["backend", "list"])?);
    steps.next("draining a backend under an open session");
    drain(demo)?;
    steps.next("the same for programs: lb service list --output json | jq");
    jq(demo)?;
    steps.end();
    Ok(())
}

fn transcript(demo: &NotesLab) -> Result<()> {
    let client = &demo.lab.net.client().netns;
    for expected in ["slave1", "slave2", "slave1", "slave2"] {
        println!("Shell> mysql {} -e \"select @@hostname;\"", mariadb::client_args(VIP4).join(" "));
        let answer = mariadb::query(client, VIP4, &["-t"], "select @@hostname;")?.ok()?;
        println!("{answer}");
        ensure!(answer.contains(expected), "{expected} should have answered this one");
    }
    Ok(())
}

fn drain(demo: &NotesLab) -> Result<()> {
    let net = &demo.lab.net;
    let client = &net.client().netns;
    let mut session = MysqlSession::open(&demo.lab.scope, client, VIP4, "open-session.log")?;
    let server = session.hostname()?;
    println!("an open session is on {server}");
    let drained = net.backends.iter().find(|b| b.role == server).context("an unknown server answered")?;
    let address = drained.ipv4().to_string();
    println!("{}", shown(demo, "director", &["backend", "drain", SERVICE, &address])?);
    for _ in 0..4 {
        let other = mariadb::hostname(client, VIP4)?;
        println!("a new connection goes to {other}");
        ensure!(other != server, "{server} is drained and must get no new connection");
        let same = session.hostname()?;
        println!("the open session is answered by {same}");
        ensure!(same == server, "the open session must stay on {server}");
    }
    println!("{}", shown(demo, "director", &["backend", "list"])?);
    println!("{}", shown(demo, "director", &["backend", "undrain", SERVICE, &address])?);
    Ok(())
}

fn jq(demo: &NotesLab) -> Result<()> {
    let json = demo.agent.lb(&["--output", "json", "service", "list"])?.ok()?;
    let mut jq = Command::new("jq");
    jq.arg(".");
    let pretty = proc::run_with(jq, &json, PATIENCE)?.ok()?;
    println!("{pretty}");
    Ok(())
}

/// A command of the product with its prompt and its output.
fn shown(demo: &NotesLab, host: &str, args: &[&str]) -> Result<String> {
    let output = demo.agent.lb(args)?.ok()?;
    Ok(format!("{host}> lb {}\n{output}", args.join(" ")))
}
