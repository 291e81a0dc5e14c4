//! Thresholds: a backend that has enough connections gets no more.

use anyhow::{Result, anyhow, ensure};
use lb::api::types::BackendState::{Overloaded, Up};
use lb_tests::{hello::Session, lab::Lab, topo::Topology};

use crate::setup::{HELLO, HelloLab, SERVICE, backend_is, config, until_verdict, verdict};

#[test]
fn upper_threshold_sends_the_next_one_elsewhere() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = with_short_memory(lab, 2)?;
        let agent = &hello.agent;
        let open = || Session::open(hello.client(), HELLO);
        agent.lb(&["backend", "edit", SERVICE, &hello.address(1), "-x", "2"])?.ok()?;

        let mut sessions = (0..8).map(|_| open()).collect::<Result<Vec<_>>>()?;
        let servers: Vec<_> = sessions.iter().map(|s| s.server.as_str()).collect();
        ensure!(servers[..4] == ["slave1", "slave2", "slave1", "slave2"], "{servers:?}");
        ensure!(servers[4..].iter().all(|server| *server == "slave2"), "slave1 has two: {servers:?}");
        ensure!(agent.backend(SERVICE, &hello.key(1))?.state == Overloaded);
        ensure!(agent.lb(&["backend", "list"])?.ok()?.contains("overloaded"));
        sessions.iter_mut().try_for_each(|session| session.echo(b"those that are open go on"))?;

        sessions.retain(|session| session.server != "slave1");
        backend_is(agent, SERVICE, &hello.key(1), Up)?;
        let servers = [open()?.server, open()?.server];
        ensure!(servers.contains(&"slave1".to_owned()), "it takes turns again: {servers:?}");
        Ok(())
    });
}

#[test]
fn full_service_lets_a_client_wait_if_it_says_nothing() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = with_short_memory(lab, 1)?;
        let agent = &hello.agent;
        agent.lb(&["backend", "edit", SERVICE, &hello.address(1), "-x", "1"])?.ok()?;
        agent.lb(&["service", "edit", SERVICE, "--reject", "drop"])?.ok()?;
        let first = Session::open(hello.client(), HELLO)?;
        let before = verdict(&agent.stats()?, "dropped-no-backend")?;
        let waiting = hello.client().spawn(|| Session::open_here(HELLO))?;
        until_verdict(agent, "dropped-no-backend", before + 1)?;
        // With the first one's end there is room, and the client's SYN comes again.
        drop(first);
        let second = waiting.join().map_err(|_| anyhow!("the client panicked"))???;
        ensure!(second.server == "slave1");
        Ok(())
    });
}

/// Closed connections count, as in IPVS, but here not for two minutes.
fn with_short_memory(lab: &Lab, backends: usize) -> Result<HelloLab<'_>> {
    let mut config = config(lab, backends);
    config.tcp_fin = 1;
    HelloLab::start_with(lab, &config)
}
