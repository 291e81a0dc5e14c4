//! UDP: a real DNS server asked through the VIP.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::{
    config::{Config, Service},
    dns,
    lab::Lab,
    topo::{Node, Topology, VIP4, VIP6},
};

use crate::{setup::verdict, talk::MISSES};

#[test]
fn over_ipv4() {
    Lab::test(Topology::one_segment(2), |lab| alternates(lab, VIP4, Node::ipv4));
}

#[test]
fn over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| alternates(lab, VIP6, Node::ipv6));
}

fn alternates(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr) -> Result<()> {
    lab.start_realservers(&[vip])?;
    let backends = &lab.net.backends;
    let _servers = backends.iter().map(|b| dns::start(&lab.scope, b, &[vip])).collect::<Result<Vec<_>>>()?;
    let service = Service { protocol: "udp", ..Service::tcp("dns", vip, 53, backends.iter().map(address)) };
    let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
    let ask = |port| dns::ask_from(&lab.net.client().netns, port, SocketAddr::new(vip, 53)).map(IpAddr::V4);
    // Every source port is a flow of its own, and the same port again is the same flow.
    let answers = (40000..40010).map(ask).collect::<Result<Vec<_>>>()?;
    let expected: Vec<_> = backends.iter().map(Node::ipv4).cycle().take(10).collect();
    ensure!(answers == expected, "by turns, but the answers came from {answers:?}");
    for (port, first) in (40000..40010).zip(answers) {
        ensure!(ask(port)? == first, "the flow of port {port} was with {first}");
    }
    // Who asks would ask again.
    let stats = agent.stats()?;
    for name in MISSES {
        ensure!(verdict(&stats, name)? == 0, "the director gave up questions: {stats:#?}");
    }
    Ok(())
}
