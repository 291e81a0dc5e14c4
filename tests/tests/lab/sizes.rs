//! Packets that do not fit: fragments, ways with a smaller MTU on either side, and who is told.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Result, bail, ensure};
use lb_tests::{
    config::{Config, Service},
    hello::Session,
    lab::Lab,
    netns::Netns,
    packet::{Icmp, Packet},
    topo::{Network, Node, Segment, Topology, VIP4, VIP6},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::setup::{HelloLab, PORT, config, service, until_verdict, verdict};

#[test]
fn fragments_over_ipv4() {
    Lab::test(Topology::one_segment(2), |lab| fragments(lab, VIP4, Node::ipv4));
}

#[test]
fn fragments_over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| fragments(lab, VIP6, Node::ipv6));
}

/// Datagrams in three fragments by turns to two backends: a server answers when it has all of one.
fn fragments(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr) -> Result<()> {
    let hello = udp_lab(lab, vip, address)?;
    let to = SocketAddr::new(vip, PORT);
    let _servers = UdpHello::on_each(&lab.net.backends, to)?;
    let sockets: Vec<UdpSocket> =
        (0..10).map(|_| hello.client().enter(|| udp::client(to))?).collect::<Result<_>>()?;
    for round in 0..3 {
        for (n, socket) in sockets.iter().enumerate() {
            socket.send(&[round; 4000])?;
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer)?;
            let expected = ["slave1", "slave2"][n % 2];
            ensure!(
                &answer[..length] == expected.as_bytes(),
                "{} answered",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    let stats = hello.agent.stats()?;
    ensure!(verdict(&stats, "dropped-fragment")? == 0, "{stats:#?}");
    ensure!(stats.total.packets == 90 && stats.total.connections == 10, "{:?}", stats.total);
    Ok(())
}

fn udp_lab(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr) -> Result<HelloLab<'_>> {
    let udp = Service { protocol: "udp", ..service(vip, lab.net.backends.iter().map(address)) };
    HelloLab::start_with(lab, &Config::on_eth0("lab", vec![udp]))
}

#[test]
fn a_smaller_mtu_before_the_backends_over_ipv4() {
    Lab::test(Topology::two_segments(1), |lab| smaller_mtu(lab, VIP4));
}

#[test]
fn a_smaller_mtu_before_the_backends_over_ipv6() {
    Lab::test(Topology::two_segments(1), |lab| smaller_mtu(lab, VIP6));
}

/// The client's TCP learns from the director what fits.
fn smaller_mtu(lab: &Lab, vip: IpAddr) -> Result<()> {
    narrow_back(&lab.net, 1400)?;
    let back = lab.net.backends[0].link(Segment::Back);
    let address = if vip.is_ipv4() { IpAddr::V4(back.ipv4) } else { IpAddr::V6(back.ipv6) };
    let mut config = config(lab, 0);
    config.services = vec![service(vip, [address])];
    let hello = HelloLab::start_with(lab, &config)?;
    let mut session = Session::open(hello.client(), SocketAddr::new(vip, PORT))?;
    (0..20).try_for_each(|n| session.echo(&[n; 48 << 10]))?;
    let stats = hello.agent.stats()?;
    ensure!(verdict(&stats, "answered-too-big")? > 0, "nothing was too long: {stats:#?}");
    Ok(())
}

fn narrow_back(net: &Network, mtu: u32) -> Result<()> {
    let mut switch = format!("link set dev {} mtu {mtu}\n", Segment::Back.bridge());
    for node in net.nodes() {
        for link in node.links.iter().filter(|link| link.segment == Segment::Back) {
            node.netns.ip(&format!("link set dev {} mtu {mtu}", link.device))?;
            switch += &format!("link set dev p-{}{} mtu {mtu}\n", node.role, &link.device[3..]);
        }
    }
    net.switch.ip(&switch)
}

#[test]
fn a_smaller_mtu_before_the_client_over_ipv4() {
    Lab::test(Topology::one_segment(2), |lab| told_backend(lab, VIP4, Node::ipv4));
}

#[test]
fn a_smaller_mtu_before_the_client_over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| told_backend(lab, VIP6, Node::ipv6));
}

/// A router on the way to the client says that the answers do not fit; the client plays it. The backend whose answers
/// they are learns it, and no other.
fn told_backend(lab: &Lab, vip: IpAddr, address: fn(&Node) -> IpAddr) -> Result<()> {
    let hello = udp_lab(lab, vip, address)?;
    let to = SocketAddr::new(vip, PORT);
    let _servers = UdpHello::on_each(&lab.net.backends, to)?;
    let asker: UdpSocket = hello.client().enter(|| udp::client(to))??;
    let server = udp::ask_by(&asker)?;
    let answer = Packet::udp(to, asker.local_addr()?).with(|p| p.payload = vec![0; 1400]);
    let frame = answer.error_to_sender(Icmp::TooBig(1300), [0; 6], [0; 6], asker.local_addr()?.ip(), 548);
    let header = if vip.is_ipv4() { 20 } else { 40 };
    send_icmp(hello.client(), &frame[14 + header..], to)?;
    until_verdict(&hello.agent, "forwarded-tx", 2)?;
    let client = asker.local_addr()?.ip();
    for backend in &lab.net.backends {
        let mtu = || backend.netns.run("ip", &["route", "get", &client.to_string()])?.ok();
        if backend.role == server {
            eventually(PATIENCE, "the backend to learn the path's MTU", || {
                let route = mtu()?;
                Ok(if route.contains("mtu 1300") { Seen::Yes(()) } else { Seen::NotYet(route) })
            })?;
        } else {
            ensure!(!mtu()?.contains("mtu 1300"), "{}", mtu()?);
        }
    }
    Ok(())
}

/// Sends an ICMP message through a raw socket.
fn send_icmp(netns: &Netns, message: &[u8], to: SocketAddr) -> Result<()> {
    let (family, protocol) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    // A raw socket's address has no port.
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let raw = netns.enter(|| socket(family, SockType::Raw, SockFlag::empty(), protocol))??;
    match sendto(raw.as_raw_fd(), message, &to, MsgFlags::empty())? {
        sent if sent == message.len() => Ok(()),
        sent => bail!("{sent} bytes of {} were sent", message.len()),
    }
}
