//! `kill -9` of the agent: nothing that flows stops, and the next agent carries on with all of it.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use lb::api::types::{BackendState, ConnList, Counters, Status};
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    proc::Finished,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{self, HELLO, HelloLab, SERVICE};

/// One chunk goes there and back before the next; so many make a stretch of the transfer, 10 MB each way.
const STRETCH: usize = 200;
/// Bytes; an echo of it fits the socket buffers.
const CHUNK: usize = 50_000;

#[test]
fn killed_agent_in_the_middle_of_a_transfer() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        // The first one is slave1's, by rr.
        let transfer = Session::open(hello.client(), HELLO)?;
        ensure!(transfer.server == "slave1", "{} answered the first connection", transfer.server);
        hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(1)])?.ok()?;
        hello.agent.lb(&["backend", "add", SERVICE, &hello.address(3), "-w", "1"])?.ok()?;
        backend_is(&hello, 3, BackendState::Up)?;
        only_undrained(&hello)?;

        let before = counters(&hello)?;
        let progress = Progress::default();
        thread::scope(|scope| {
            let copying = scope.spawn(|| progress.copy(transfer));
            let told = interrupted(&hello, &progress);
            progress.stop.store(true, Ordering::Relaxed);
            let copied = copying.join().map_err(|_| anyhow!("the transfer panicked"))?;
            copied.context("the transfer must survive")?;
            told
        })?;

        let after = counters(&hello)?;
        ensure!(after.connections == before.connections + 40, "before {before:?}, after 40 more {after:?}");
        let transferred = 3 * (STRETCH * CHUNK) as u64;
        ensure!(after.bytes >= before.bytes + transferred, "before {before:?}, after {after:?}");
        backend_is(&hello, 1, BackendState::Drained)?;
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.overlay.len() == 2, "a drain and a hot-added backend: {:#?}", status.overlay);
        Ok(())
    });
}

/// A stretch with the agent, one while it is dead, one with its successor; new connections in the last two.
fn interrupted(hello: &HelloLab, progress: &Progress) -> Result<()> {
    progress.wait_for_stretch("before the crash")?;
    let client = the_transfer(hello)?;
    hello.agent.kill9()?;
    progress.wait_for_stretch("while the agent is dead")?;
    only_undrained(hello).context("while the agent is dead")?;
    hello.agent.start()?;
    ensure!(the_transfer(hello)? == client, "the restarted agent must list the same connection");
    backend_is(hello, 1, BackendState::Drained)?;
    backend_is(hello, 3, BackendState::Up)?;
    progress.wait_for_stretch("after the restart")?;
    only_undrained(hello).context("after the restart")
}

/// Twenty new connections: none on slave1, all on the two others, also on the hot-added one.
fn only_undrained(hello: &HelloLab) -> Result<()> {
    let answered = spread(hello.client(), HELLO, 20)?;
    ensure!(answered == [("slave2".to_owned(), 10), ("slave3".to_owned(), 10)].into(), "{answered:?}");
    Ok(())
}

/// The client's side of the one established connection of slave1.
fn the_transfer(hello: &HelloLab) -> Result<std::net::SocketAddr> {
    let list: ConnList = hello.agent.json(&["conn", "list"])?;
    let key = hello.key(1);
    let mut on_slave1 = list.conns.iter().filter(|c| c.backend.to_string() == key);
    let transfer = on_slave1.next().with_context(|| format!("no connection of {key} in {list:#?}"))?;
    ensure!(on_slave1.next().is_none() && transfer.state == "ESTABLISHED", "{list:#?}");
    Ok(transfer.client)
}

fn backend_is(hello: &HelloLab, n: usize, state: BackendState) -> Result<()> {
    setup::backend_is(&hello.agent, SERVICE, &hello.key(n), state)
}

fn counters(hello: &HelloLab) -> Result<Counters> {
    let services = hello.agent.services()?;
    Ok(services.first().context("the service is not listed")?.counters)
}

/// How far the transfer is.
#[derive(Default)]
struct Progress {
    chunks: AtomicUsize,
    stop: AtomicBool,
    ended: AtomicBool,
}

impl Progress {
    fn copy(&self, mut session: Session) -> Result<()> {
        let chunk = vec![0x5a; CHUNK];
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.stop.load(Ordering::Relaxed) {
            outcome = session.echo(&chunk);
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
        self.ended.store(true, Ordering::Relaxed);
        outcome
    }

    fn wait_for_stretch(&self, when: &str) -> Result<()> {
        let goal = self.chunks.load(Ordering::Relaxed) + STRETCH;
        eventually(PATIENCE, &format!("the transfer to go on {when}"), || {
            ensure!(!self.ended.load(Ordering::Relaxed), "the transfer broke {when}");
            let chunks = self.chunks.load(Ordering::Relaxed);
            Ok(if chunks >= goal {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{chunks} of {goal} chunks"))
            })
        })
    }
}

/// An orderly end leaves forwarding up, too.
#[test]
fn terminated_agent_leaves_forwarding_up() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut session = Session::open(hello.client(), HELLO)?;
        hello.agent.terminate()?;
        session.echo(b"still there?")?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        let Finished { status, stderr, .. } = hello.agent.lb(&["service", "list"])?;
        ensure!(
            !status.success() && stderr.contains("lb run"),
            "it should say how to start the agent: {stderr}"
        );
        hello.agent.start()?;
        session.echo(b"and now?")?;
        ensure!(counters(&hello)?.connections == 21, "counters start over after a restart");
        Ok(())
    });
}
