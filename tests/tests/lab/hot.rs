//! Adding and removing a backend under load.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    clock::now,
    hello::{ANSWER_LIMIT, Session},
    lab::Lab,
    load::{Attempt, Load},
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, SERVICE};

/// The whole load lasts at least this long.
const LOAD: Duration = Duration::from_secs(30);
const WORKERS: usize = 4;
/// Some 400 connections a second: half of the client's ports in 30 s.
const GAP: Duration = Duration::from_millis(8);

#[test]
fn backend_added_and_removed_during_a_load() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut sessions =
            (0..8).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        let began = now();
        let load = Load::start(lab.net.client(), HELLO, WORKERS, GAP)?;
        answers(&load, &["slave1", "slave2"])?;

        hello.agent.lb(&["backend", "add", SERVICE, &hello.address(3), "-w", "1"])?.ok()?;
        answers(&load, &["slave1", "slave2", "slave3"])?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"after the adding"))?;

        let failed = load.attempts().iter().filter(|attempt| attempt.failed()).cloned().collect::<Vec<_>>();
        ensure!(failed.is_empty(), "connections failed before anything was removed: {failed:#?}");
        let removal = now();
        hello.agent.lb(&["backend", "del", SERVICE, &hello.address(1)])?.ok()?;
        let removed = now();
        answers(&load, &["slave2", "slave3"])?;
        for session in sessions.iter_mut().filter(|session| session.server != "slave1") {
            session.echo(b"after the removal")?;
        }

        eventually(LOAD + PATIENCE, "the load to have lasted long enough", || {
            let elapsed = began.elapsed();
            Ok(if elapsed >= LOAD { Seen::Yes(()) } else { Seen::NotYet(format!("{elapsed:?}")) })
        })?;
        let attempts = load.finish()?;
        let late: Vec<_> = attempts.iter().filter(|a| a.started > removed).collect();
        ensure!(
            late.iter().all(|a| a.server.as_deref() != Some("slave1")),
            "slave1 was served after its removal"
        );
        ensure!(late.len() > 100, "only {} connections after the removal", late.len());
        let pinned = hello.servers[0].accepted();
        let on_slave1 = |attempt: &Attempt| {
            attempt.server.as_deref() == Some("slave1")
                || attempt.client.is_some_and(|client| pinned.iter().any(|peer| same(*peer, client)))
                // Half open at that instant: the client has its SYN-ACK, slave1 has not accepted yet. What began
                // earlier had been given up before.
                || (attempt.server.is_none() && attempt.started < removed && attempt.started + ANSWER_LIMIT > removal)
        };
        let failed: Vec<_> = attempts.iter().filter(|a| a.failed()).collect();
        let wrong: Vec<_> = failed.iter().filter(|a| !on_slave1(a)).collect();
        ensure!(wrong.is_empty(), "{} of {} connections failed: {wrong:#?}", wrong.len(), attempts.len());
        // Each worker has one connection open: no more can have been on slave1 at its removal.
        ensure!(
            failed.len() <= WORKERS,
            "removal began at {removal:?}, was done at {removed:?}: {failed:#?}"
        );
        Ok(())
    });
}

/// Waits until a whole batch of new connections was answered, by exactly these servers.
fn answers(load: &Load, servers: &[&str]) -> Result<()> {
    let seen = load.attempts().len();
    let mut from = seen;
    eventually(PATIENCE, &format!("new connections to be answered by {servers:?} and nobody else"), || {
        let attempts = load.attempts();
        let batch = &attempts[from..];
        if batch.len() < 60 {
            return Ok(Seen::NotYet(format!(
                "{} connections, {} of them in this batch",
                attempts.len(),
                batch.len()
            )));
        }
        let mut answered: Vec<_> = batch.iter().filter_map(|a| a.server.as_deref()).collect();
        answered.sort_unstable();
        answered.dedup();
        if answered == servers {
            return Ok(Seen::Yes(()));
        }
        let last = format!("{answered:?}");
        from = attempts.len();
        Ok(Seen::NotYet(last))
    })
}

/// The server sees IPv4 clients as IPv4-mapped addresses.
fn same(peer: SocketAddr, client: SocketAddr) -> bool {
    peer.port() == client.port() && peer.ip().to_canonical() == client.ip()
}
