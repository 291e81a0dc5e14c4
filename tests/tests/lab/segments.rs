//! Backends behind the director's second interface.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    topo::{Link, Segment, Topology, VIP4, VIP6},
};

use crate::setup::{HelloLab, PORT, SERVICE, config, service};

#[test]
fn redirect_over_ipv4() {
    Lab::test(Topology::two_segments(2), |lab| redirected(lab, VIP4, |link| IpAddr::V4(link.ipv4)));
}

#[test]
fn redirect_over_ipv6() {
    Lab::test(Topology::two_segments(2), |lab| redirected(lab, VIP6, |link| IpAddr::V6(link.ipv6)));
}

fn redirected(lab: &Lab, vip: IpAddr, address: fn(&Link) -> IpAddr) -> Result<()> {
    let backends: Vec<_> = lab.net.backends.iter().map(|b| address(b.link(Segment::Back))).collect();
    let mut config = config(lab, 0);
    config.services = vec![service(vip, backends.iter().copied())];
    let hello = HelloLab::start_with(lab, &config)?;
    for (address, node) in backends.iter().zip(&lab.net.backends) {
        let backend = hello.agent.backend(SERVICE, &SocketAddr::new(*address, PORT).to_string())?;
        ensure!(backend.interface.as_deref() == Some("eth1"), "{backend:#?}");
        ensure!(backend.mac.as_ref() == Some(&node.link(Segment::Back).mac), "{backend:#?}");
    }
    let to = SocketAddr::new(vip, PORT);
    let answered = spread(hello.client(), to, 100)?;
    ensure!(answered == [("slave1".to_owned(), 50), ("slave2".to_owned(), 50)].into(), "{answered:?}");
    let mut session = Session::open(hello.client(), to)?;
    (0..50).try_for_each(|n| session.echo(&[n; 48 << 10]))
}
