//! A packet whose TTL runs out at the director: a traceroute must see it there.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use lb_tests::{
    config::{Config, Service},
    errqueue::{self, IcmpError},
    lab::Lab,
    topo::{Node, Topology, VIP4, VIP6},
    udp::{self, UdpHello},
};

use crate::setup::{HelloLab, PORT, until_verdict};

#[test]
fn time_exceeded_over_ipv4() {
    Lab::test(Topology::one_segment(1), |lab| traced(lab, VIP4, Node::ipv4, (11, 0)));
}

#[test]
fn time_exceeded_over_ipv6() {
    Lab::test(Topology::one_segment(1), |lab| traced(lab, VIP6, Node::ipv6, (3, 0)));
}

fn traced(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr, icmp: (u8, u8)) -> Result<()> {
    let service =
        Service { protocol: "udp", ..Service::tcp("udp", vip, PORT, [address(&lab.net.backends[0])]) };
    let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service]))?;
    let to = SocketAddr::new(vip, PORT);
    let _servers = UdpHello::on_each(&lab.net.backends, to)?;
    let socket: UdpSocket = hello.client().enter(|| udp::client(to))??;
    errqueue::ask_for_errors(&socket)?;

    errqueue::set_hops(&socket, 1)?;
    socket.send(udp::QUESTION)?;
    let (icmp_type, code) = icmp;
    let expected = IcmpError { offender: address(&lab.net.director), icmp_type, code };
    let error = errqueue::wait(&socket)?;
    ensure!(error == expected, "{error:?} instead of {expected:?}");
    until_verdict(&hello.agent, "answered-ttl", 1)?;

    // One hop more reaches the backend, where the TTL is 1.
    errqueue::set_hops(&socket, 2)?;
    socket.send(udp::QUESTION)?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    ensure!(&answer[..length] == b"slave1");
    Ok(())
}
