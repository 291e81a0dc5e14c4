//! Jumbo frames in native mode, which reach the program in pieces.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb::api::types::Status;
use lb_tests::{
    hello::Session,
    lab::Lab,
    topo::{Topology, VIP4, VIP6},
};

use crate::setup::{HelloLab, PORT, config, service};

const MTU: u32 = 9000;

#[test]
fn over_ipv4() {
    Lab::test(Topology::one_segment(1), |lab| transfer(lab, SocketAddr::new(VIP4, PORT)));
}

#[test]
fn over_ipv6() {
    Lab::test(Topology::one_segment(1), |lab| transfer(lab, SocketAddr::new(VIP6, PORT)));
}

#[test]
fn redirected() {
    Lab::test(Topology::two_segments(1), |lab| transfer(lab, SocketAddr::new(VIP4, PORT)));
}

fn transfer(lab: &Lab, to: SocketAddr) -> Result<()> {
    lab.net.set_mtu(MTU)?;
    let backend = &lab.net.backends[0].links[0];
    let address = if to.is_ipv4() { backend.ipv4.into() } else { backend.ipv6.into() };
    let mut config = config(lab, 0);
    config.services = vec![service(to.ip(), [address])];
    let hello = HelloLab::start_with(lab, &config)?;
    let status: Status = hello.agent.json(&["status"])?;
    ensure!(status.interfaces[0].mtu == MTU && status.interfaces[0].mode == "native", "{status:#?}");
    let mut session = Session::open(hello.client(), to)?;
    (0..50).try_for_each(|n| session.echo(&[n; 60_000]))?;
    // The client sends data and acknowledges as much: half of its packets may be small.
    let sent = hello.agent.stats()?.total;
    ensure!(sent.bytes > 50 * 60_000, "{sent:?}");
    ensure!(sent.bytes / sent.packets > 2_000, "no large packets: {sent:?}");
    Ok(())
}
