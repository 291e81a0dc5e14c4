//! Which service a packet is for: every port of a VIP, two protocols on one port, two ports of one VIP.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb::api::types::ConnList;
use lb_tests::{
    config::{Config, Service},
    hello::{Hello, Session, spread},
    lab::Lab,
    topo::{Node, Topology, VIP4, VIP6},
    udp::{self, UdpHello},
};

use crate::setup::{HELLO, HelloLab, PORT, config, service, verdict};

/// A port that only the wildcard service covers.
const OTHER: u16 = 7001;

#[test]
fn port_0_is_every_port() {
    Lab::test(Topology::one_segment(2), |lab| {
        let addresses = || lab.net.backends.iter().map(Node::ipv4);
        let wildcard = Service::tcp("all", VIP4, 0, addresses());
        // The exact one wins on its port, whatever the wildcard has.
        let exact = service(VIP4, [lab.net.backends[1].ipv4()]);
        let six = Service::tcp("six", VIP6, 0, lab.net.backends.iter().map(Node::ipv6));
        let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![wildcard, exact, six]))?;
        let _others = lab.net.backends.iter().map(|b| Hello::start(b, OTHER)).collect::<Result<Vec<_>>>()?;

        ensure!(spread(hello.client(), HELLO, 10)?.keys().eq(["slave2"]));
        for vip in [VIP4, VIP6] {
            let mut sessions = Vec::new();
            for expected in ["slave1", "slave2", "slave1", "slave2"] {
                let session = Session::open(hello.client(), SocketAddr::new(vip, OTHER))?;
                ensure!(session.server == expected, "{} instead of {expected} at {vip}", session.server);
                sessions.push(session);
            }
            sessions.iter_mut().try_for_each(|session| session.echo(&[9; 20_000]))?;
        }
        let list: ConnList = hello.agent.json(&["conn", "list", "--service", "six"])?;
        let to = SocketAddr::new(VIP6, OTHER);
        ensure!(list.total == 4 && list.conns.iter().all(|conn| conn.virtual_address == to), "{list:#?}");
        let hello_conns = hello.agent.services()?.iter().map(|s| s.counters.connections).collect::<Vec<_>>();
        ensure!(hello_conns == [4, 10, 4], "{hello_conns:?}");
        // Another protocol of the same address is not its business: the director's stack answers.
        let before = verdict(&hello.agent.stats()?, "passed-no-service")?;
        ensure!(udp::ask(hello.client(), SocketAddr::new(VIP4, OTHER)).is_err());
        ensure!(verdict(&hello.agent.stats()?, "passed-no-service")? > before);
        Ok(())
    });
}

#[test]
fn tcp_and_udp_on_one_port() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 1);
        let datagrams = Service::tcp("udp", VIP4, PORT, [lab.net.backends[1].ipv4()]);
        config.services.push(Service { protocol: "udp", ..datagrams });
        let hello = HelloLab::start_with(lab, &config)?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        for _ in 0..5 {
            ensure!(udp::ask(hello.client(), HELLO)? == "slave2");
            ensure!(Session::open(hello.client(), HELLO)?.server == "slave1");
        }
        Ok(())
    });
}

#[test]
fn two_services_on_one_vip() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 1);
        config.services.push(Service::tcp("other", VIP4, OTHER, [lab.net.backends[1].ipv4()]));
        let hello = HelloLab::start_with(lab, &config)?;
        let _others = lab.net.backends.iter().map(|b| Hello::start(b, OTHER)).collect::<Result<Vec<_>>>()?;
        let other = SocketAddr::new(VIP4, OTHER);
        ensure!(spread(hello.client(), HELLO, 10)?.keys().eq(["slave1"]));
        ensure!(spread(hello.client(), other, 10)?.keys().eq(["slave2"]));
        // Without one of them the other goes on, and its open connections too.
        let mut open = Session::open(hello.client(), other)?;
        hello.agent.lb(&["service", "del", "other"])?.ok()?;
        ensure!(spread(hello.client(), HELLO, 10)?.keys().eq(["slave1"]));
        open.echo(b"a deleted service does not cut its connections")?;
        let list: ConnList =
            hello.agent.json(&["conn", "list", "--service", "other", "--state", "established"])?;
        ensure!(list.total == 1 && list.conns[0].client == open.client()?, "it is still listed: {list:#?}");
        Ok(())
    });
}
