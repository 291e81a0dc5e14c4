//! The director as its own backend (the VIP on its lo, a server beside the agent), and what its own stack does about
//! a VIP.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use lb::{api::types::BackendState, model::check::CheckKind};
use lb_tests::{
    config::Config,
    hello::{Hello, Session, spread},
    lab::Lab,
    topo::{Topology, VIP4, VIP6, host_prefix},
    wait::PATIENCE,
};

use crate::{
    cut::probe,
    setup::{HELLO, HelloLab, PORT, SERVICE, service, verdict},
};

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

/// The director answers, as IPVS's does: backends may be down, or not know ICMP.
#[test]
fn a_vip_answers_an_echo_request() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(1), |lab| {
            let node = &lab.net.backends[0];
            let own = if vip.is_ipv4() { node.ipv4() } else { node.links[0].ipv6.into() };
            let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service(vip, [own])]))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ping = probe(&CheckKind::Ping, SocketAddr::new(vip, 0), PATIENCE);
            let echo = || hello.client().enter(|| runtime.block_on(lb::checks::once(&ping)).result);
            let answered = echo()?.map_err(|failure| anyhow::anyhow!(failure.why))?;
            ensure!(answered.found == "echo reply", "{answered:?}");
            // Not the backend, which has the VIP too.
            node.netns.ip("link set eth0 down")?;
            echo()?.map(drop).map_err(|failure| anyhow::anyhow!("without the backend: {}", failure.why))
        });
    }
}

/// docs/ipvs-differences.md: they come to its own stack, which refuses them; a backend's own address is the way round.
#[test]
fn a_program_on_the_director_is_not_balanced() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let director = &lab.net.director.netns;
        let refused = director.enter(|| TcpStream::connect_timeout(&HELLO, PATIENCE))?;
        let kind = refused.err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
        let own = hello.key(2).parse().context("an address and a port")?;
        ensure!(Session::open(director, own)?.server == "slave2");
        ensure!(spread(hello.client(), HELLO, 2)?.len() == 2, "clients are");
        Ok(())
    });
}

/// The agent adds no VIP: the director has it on lo, as every backend.
fn local(lab: &Lab, backends: impl IntoIterator<Item = IpAddr>) -> Result<(HelloLab<'_>, Hello)> {
    lab.net.director.netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
    let server = Hello::start(&lab.net.director, PORT)?;
    let config = Config { add_to: None, ..Config::on_eth0("lab", vec![service(VIP4, backends)]) };
    Ok((HelloLab::start_with(lab, &config)?, server))
}
