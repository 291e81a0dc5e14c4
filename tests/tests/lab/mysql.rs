//! The main job: MySQL connections.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_tests::{
    config::{Config, Service},
    lab::Lab,
    mariadb::{self, MysqlSession},
    topo::{Node, Topology, VIP4, VIP6},
};

#[test]
fn over_ipv4() {
    Lab::test(Topology::one_segment(2), |lab| alternates(lab, VIP4, Node::ipv4));
}

#[test]
fn over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| alternates(lab, VIP6, Node::ipv6));
}

/// The notes' transcript, and a session that stays where it is meanwhile.
fn alternates(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr) -> Result<()> {
    let _servers =
        lab.net.backends.iter().map(|b| mariadb::start(&lab.scope, b)).collect::<Result<Vec<_>>>()?;
    lab.start_realservers(&[vip])?;
    let backends = lab.net.backends.iter().map(address);
    lab.start_agent(&Config::on_eth0("lab", vec![Service::tcp("mysql-read", vip, 3306, backends)]))?;
    let client = &lab.net.client().netns;
    let mut session = MysqlSession::open(&lab.scope, client, vip, "session.log")?;
    ensure!(session.hostname()? == "slave1", "the first connection goes to the first backend");
    let answers = (0..4).map(|_| mariadb::hostname(client, vip)).collect::<Result<Vec<_>>>()?;
    ensure!(answers == ["slave2", "slave1", "slave2", "slave1"], "{answers:?}");
    ensure!(session.hostname()? == "slave1", "the open session stays on its server");
    Ok(())
}
