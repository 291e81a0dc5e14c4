//! The director as its own backend: the VIP on its lo, a server beside the agent.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    config::Config,
    hello::{Hello, Session, spread},
    lab::Lab,
    topo::{Topology, VIP4, host_prefix},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, service, verdict};

#[test]
fn alone() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (hello, _server) = local(lab, [lab.net.director.ipv4()])?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("director".to_owned(), 20)].into(), "{answered:?}");
        let mut session = Session::open(hello.client(), HELLO)?;
        (0..20).try_for_each(|n| session.echo(&[n; 48 << 10]))?;
        let stats = hello.agent.stats()?;
        ensure!(verdict(&stats, "passed-local-backend")? > 100 && verdict(&stats, "forwarded-tx")? == 0);
        ensure!(stats.total.connections == 21 && stats.total.bytes > 20 * (48 << 10), "{stats:#?}");
        Ok(())
    });
}

#[test]
fn beside_a_remote_one() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (hello, _server) = local(lab, [lab.net.director.ipv4(), lab.net.backends[0].ipv4()])?;
        let own = hello.agent.backend(SERVICE, &format!("{}:{PORT}", lab.net.director.ipv4()))?;
        ensure!(own.state == BackendState::Up && own.mac.is_none(), "{own:#?}");
        ensure!(own.detail.as_deref() == Some("this director itself"), "{own:#?}");
        let mut sessions = Vec::new();
        for expected in ["director", "slave1"].into_iter().cycle().take(20) {
            let session = Session::open(hello.client(), HELLO)?;
            ensure!(session.server == expected, "{} instead of {expected}", session.server);
            sessions.push(session);
        }
        sessions.iter_mut().try_for_each(|session| session.echo(&[7; 48 << 10]))?;
        hello.agent.lb(&["backend", "drain", SERVICE, &lab.net.director.ipv4().to_string()])?.ok()?;
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered == [("slave1".to_owned(), 10)].into(), "{answered:?}");
        sessions.iter_mut().try_for_each(|session| session.echo(b"still on the director"))
    });
}

/// The agent adds no VIP: the director has it on lo, as every backend.
fn local(lab: &Lab, backends: impl IntoIterator<Item = IpAddr>) -> Result<(HelloLab<'_>, Hello)> {
    lab.net.director.netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
    let server = Hello::start(&lab.net.director, PORT)?;
    let config = Config { add_to: None, ..Config::on_eth0("lab", vec![service(VIP4, backends)]) };
    Ok((HelloLab::start_with(lab, &config)?, server))
}
