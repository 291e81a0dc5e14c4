//! `lb backend maintenance`: a reason, an end, and no alarm meanwhile.

use anyhow::{Result, ensure};
use lb::{
    api::types::{BackendState, Status},
    events::{Event, Kind},
};
use lb_tests::{
    hello::{Hello, Session, spread},
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, config, events, happened, said};

const CHECKS: &str = "checks: [{tcp: , interval: 200ms, timeout: 5s, rise: 1}]";

fn is(hello: &HelloLab<'_>, n: usize, state: BackendState) -> Result<()> {
    backend_is(&hello.agent, SERVICE, &hello.key(n), state)
}

/// All new connections go to this one.
fn only(hello: &HelloLab<'_>, server: &str) -> Result<()> {
    let answered = spread(hello.client(), HELLO, 6)?;
    ensure!(answered == [(server.to_owned(), 6)].into(), "{answered:?}");
    Ok(())
}

fn on(hello: &HelloLab<'_>, n: usize, more: &[&str]) -> Result<String> {
    let address = hello.address(n);
    let words = [&["backend", "maintenance", "on", SERVICE, &address, "--comment", "new memory"], more];
    hello.agent.lb(&words.concat())?.ok()
}

#[test]
fn a_maintenance_keeps_new_connections_away_and_outlives_agent_and_reload() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.services[0].more = CHECKS.to_owned();
        let mut hello = HelloLab::start_with(lab, &config)?;
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let sessions = [Session::open(hello.client(), HELLO)?, Session::open(hello.client(), HELLO)?];
        let mut sessions = sessions.into_iter().filter(|session| session.server == "slave1");
        let mut session = sessions.next().ok_or_else(|| anyhow::anyhow!("rr gave slave1 none"))?;

        on(&hello, 1, &["--for", "2h", "--by", "ann"])?;
        is(&hello, 1, BackendState::Maintenance)?;
        only(&hello, "slave2")?;
        session.echo(b"an open connection goes on")?;
        for command in [&["backend", "list"][..], &["service", "show", SERVICE], &["status"]] {
            said(&hello.agent.lb(command)?.ok()?, &["maintenance by ann until ", "new memory"])?;
        }
        let begun = happened(&hello.agent, Kind::Maintenance)?;
        ensure!(begun.what.reason.contains("by ann") && begun.what.backend.is_some(), "{begun:?}");

        hello.agent.lb(&["reload"])?.ok()?;
        let before = hello.agent.backend(SERVICE, &hello.key(1))?.maintenance;
        ensure!(before.as_ref().is_some_and(|it| it.until.is_some()), "{before:?}");
        hello.agent.kill9()?;
        only(&hello, "slave2")?;
        hello.agent.start()?;
        is(&hello, 1, BackendState::Maintenance)?;
        let after = hello.agent.backend(SERVICE, &hello.key(1))?.maintenance;
        ensure!(after == before, "{after:?}");
        only(&hello, "slave2")?;
        session.echo(b"still")?;

        // What is worked on goes down, and comes back: its check sees that, and it is no failure.
        drop(session);
        drop(hello.servers.remove(0));
        let fails = happened(&hello.agent, Kind::CheckFails)?;
        is(&hello, 1, BackendState::Maintenance)?;
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.unhealthy_backends == 0, "{status:#?}");
        hello.servers.insert(0, Hello::start(&lab.net.backends[0], PORT)?);
        // It had passed at the start, too.
        let passes = |event: &Event| event.what.kind == Kind::CheckPasses && event.seq > fails.seq;
        eventually(PATIENCE, "its check to pass again", || {
            let events = events(&hello.agent)?;
            Ok(if events.iter().any(passes) { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) })
        })?;
        let kinds: Vec<_> = events(&hello.agent)?.iter().map(|event| event.what.kind).collect();
        ensure!(!kinds.contains(&Kind::BackendDown), "{kinds:?}");

        hello.agent.lb(&["backend", "maintenance", "off", SERVICE, &hello.address(1)])?.ok()?;
        is(&hello, 1, BackendState::Up)?;
        happened(&hello.agent, Kind::MaintenanceEnd)?;
        let answered = spread(hello.client(), HELLO, 6)?;
        ensure!(answered.values().eq(&[3, 3]), "{answered:?}");
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.overlay.is_empty(), "{status:#?}");
        Ok(())
    });
}

#[test]
fn a_maintenance_ends_by_itself_also_if_no_agent_ran_then() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        on(&hello, 1, &["--for", "1s"])?;
        is(&hello, 1, BackendState::Up)?;
        let over = happened(&hello.agent, Kind::MaintenanceEnd)?;
        ensure!(over.what.reason.contains("new memory"), "{over:?}");

        on(&hello, 2, &["--for", "1s"])?;
        hello.agent.kill9()?;
        hello.agent.start()?;
        is(&hello, 2, BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 6)?;
        ensure!(answered.values().eq(&[3, 3]), "{answered:?}");

        let refused = hello.agent.lb(&[
            "backend",
            "maintenance",
            "on",
            SERVICE,
            &hello.address(1),
            "--comment",
            " ",
        ])?;
        ensure!(!refused.status.success());
        said(&refused.stderr, &["a comment is a line of 1 to 200 characters"])
    });
}
