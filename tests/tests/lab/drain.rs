//! `lb backend drain --wait`.

use anyhow::{Context, Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    hello::Session,
    lab::Lab,
    proc::{Lifetime, Proc},
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::setup::{HELLO, HelloLab, SERVICE, config, said};

// As `lb --help` documents them.
const DEADLINE: i32 = 7;
const INTERRUPTED: i32 = 130;

/// A connection to `slave1`.
fn session(hello: &HelloLab) -> Result<Session> {
    let sessions = [Session::open(hello.client(), HELLO)?, Session::open(hello.client(), HELLO)?];
    sessions.into_iter().find(|session| session.server == "slave1").context("rr gave slave1 none")
}

/// `lb backend drain` of `slave1` with these options, running; it has shown what is left.
fn waiting(lab: &Lab, hello: &HelloLab, name: &str, options: &[&str]) -> Result<Proc> {
    let (address, log) = (hello.address(1), lab.scope.dir().join(format!("{name}.log")));
    let command =
        hello.agent.lb_command(&[&["backend", "drain", SERVICE, &address, "--wait"], options].concat())?;
    let mut proc = Proc::spawn(name, command, &log, Lifetime::Guarded)?;
    eventually(PATIENCE, "the first line of the wait", || {
        let log = proc.log();
        if log.contains("1 active") {
            return Ok(Seen::Yes(()));
        }
        proc.check_alive()?;
        Ok(Seen::NotYet(log))
    })?;
    Ok(proc)
}

fn is_drained(hello: &HelloLab) -> Result<()> {
    let backend = hello.agent.backend(SERVICE, &hello.key(1))?;
    ensure!(backend.state == BackendState::Drained, "{backend:?}");
    Ok(())
}

#[test]
fn drain_ends_with_the_last_connection() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.tcp_fin = 1;
        let hello = HelloLab::start_with(lab, &config)?;
        let mut session = session(&hello)?;
        let mut proc = waiting(lab, &hello, "drain", &["--deadline", "5m"])?;
        session.echo(b"while it is waited for")?;
        proc.check_alive()?;
        // An agent that is restarted meanwhile is waited for too.
        hello.agent.terminate()?;
        hello.agent.start()?;
        session.echo(b"still")?;
        drop(session);
        let status = proc.wait(PATIENCE)?;
        let log = proc.log();
        ensure!(status.success(), "{status}\n{log}");
        ensure!(log.trim_end().ends_with("has no connections left"), "{log}");
        is_drained(&hello)
    });
}

#[test]
fn a_deadline_and_an_interrupt_leave_the_drain() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut session = session(&hello)?;
        let address = hello.address(1);

        // Time enough for a busy agent to say what is left.
        let late = hello.agent.lb(&["backend", "drain", SERVICE, &address, "--wait", "--deadline", "4s"])?;
        ensure!(late.status.code() == Some(DEADLINE), "{late:?}");
        said(&late.stderr, &[&hello.key(1), "1 active", "stays drained", "lb conn flush"])?;
        is_drained(&hello)?;

        let mut proc = waiting(lab, &hello, "interrupt", &[])?;
        proc.signal(Signal::SIGINT)?;
        let status = proc.wait(PATIENCE)?;
        ensure!(status.code() == Some(INTERRUPTED), "{status}");
        said(&proc.log(), &["interrupted", &hello.key(1), "stays drained", "lb backend undrain"])?;
        is_drained(&hello)?;
        session.echo(b"after all that")
    });
}
