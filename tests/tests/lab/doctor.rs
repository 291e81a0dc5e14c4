//! `lb doctor`: nothing to say of a healthy director, and each thing that is wrong by its name.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::doctor_backend::rule;
use crate::setup::{HELLO, HelloLab, PORT, SERVICE, config, service};
use anyhow::{Context, Result, ensure};
use lb::doctor::Id;
use lb_tests::{
    agent::{Agent, realserver},
    config::{Config, Service},
    doctor::{Examined, IN_THE_VM, Report, provoked, report, says},
    finds,
    hello::Hello,
    lab::Lab,
    netns::Netns,
    topo::{Node, Segment, Topology, VIP4, VIP6, host_prefix},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually},
};

fn healthy(agent: &Agent, backends: usize) -> Result<()> {
    let Report { findings, unknown, examined } = report(agent, "lab")?;
    ensure!(findings.is_empty() && unknown.is_empty(), "{findings:#?} {unknown:#?}");
    let Examined { interfaces, vips, backends: seen, probed } = examined;
    ensure!(interfaces >= 1 && vips == 1 && seen == backends && probed == backends, "{examined:?}");
    Ok(())
}

/// A service of all backends by their addresses in the back segment.
pub fn two_segments(lab: &Lab, vip: IpAddr) -> Config {
    let address =
        |link: &lb_tests::topo::Link| if vip.is_ipv4() { link.ipv4.into() } else { IpAddr::V6(link.ipv6) };
    let backends: Vec<IpAddr> = lab.net.backends.iter().map(|b| address(b.link(Segment::Back))).collect();
    Config { services: vec![service(vip, backends)], ..config(lab, 0) }
}

#[test]
fn a_healthy_director() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        healthy(&hello.agent, 2)?;
        let text = hello.agent.lb(&["--instance", "lab", "doctor"])?.stdout;
        let clock = lb::clock::is_synchronised() == Some(false);
        let verdict = if clock { "0 errors, 1 warning" } else { "nothing wrong was found" };
        ensure!(text.contains(verdict) && text.contains("tried 2 ways"), "{text}");
        // No flow, and no packet in a counter: the probes pass the program by.
        let stats = hello.agent.stats()?;
        ensure!(
            stats.total.connections == 0 && stats.flows.iter().all(|table| table.used == 0),
            "{stats:#?}"
        );
        ensure!(hello.servers.iter().all(|server| server.accepted().is_empty()), "a server accepted a probe");
        Ok(())
    });
}

#[test]
fn a_healthy_director_over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| {
        let backends = lab.net.backends.iter().map(|backend| backend.ipv6());
        let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service(VIP6, backends)]))?;
        healthy(&hello.agent, 2)
    });
}

#[test]
fn a_healthy_director_of_two_segments() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::two_segments(2), |lab| {
            let hello = HelloLab::start_with(lab, &two_segments(lab, vip))?;
            healthy(&hello.agent, 2)
        });
    }
}

/// The VIP taken off lo, while the backend's own address goes on answering.
#[test]
fn the_vip_is_missing() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lose_vip(&lab.net.backends[0].netns, VIP4)?;
        let found = finds!(&hello.agent, VipMissing)?;
        let backend = hello.address(1);
        says(&found[0], &[&backend, "SYN-ACK", &format!("on {backend}: lb realserver start {VIP4}")])?;
        // The same without an agent.
        hello.agent.kill9()?;
        finds!(&hello.agent, AgentDown, VipMissing)?;
        hello.agent.start()?;
        // What it says to do mends it.
        realserver(&lab.scope, &lab.net.backends[0], "start", &[&VIP4.to_string()])?.ok()?;
        healthy(&hello.agent, 2)
    });
}

#[test]
fn the_vip_is_missing_over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| {
        let backends = lab.net.backends.iter().map(|backend| backend.ipv6());
        let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service(VIP6, backends)]))?;
        lose_vip(&lab.net.backends[1].netns, VIP6)?;
        let found = finds!(&hello.agent, VipMissing)?;
        says(&found[0], &[&lab.net.backends[1].ipv6().to_string()])
    });
}

/// A backend that is a router too would send the packet back to the VIP: to the director.
#[test]
fn a_backend_that_routes_has_no_vip() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let netns = &lab.net.backends[0].netns;
        lose_vip(netns, VIP4)?;
        netns.sysctl("ipv4/conf/all/forwarding", "1")?;
        let found = finds!(&hello.agent, VipMissing)?;
        says(&found[0], &[&hello.address(1), "time exceeded"])
    });
}

fn lose_vip(netns: &Netns, vip: IpAddr) -> Result<()> {
    netns.ip(&format!("addr del {} dev lo", host_prefix(vip)))
}

#[test]
fn a_backend_answers_arp() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let backend = &lab.net.backends[1];
        for name in ["all", "lo"] {
            backend.netns.sysctl(&format!("ipv4/conf/{name}/arp_ignore"), "0")?;
        }
        let found = finds!(&hello.agent, AnswersArp)?;
        says(&found[0], &[&hello.address(2), &backend.links[0].mac, "eth0", "arp_ignore=1"])
    });
}

/// IPv6 needs no sysctl: the VIP on the interface is what answers.
#[test]
fn a_backend_answers_neighbour_solicitations() {
    Lab::test(Topology::one_segment(2), |lab| {
        let backends = lab.net.backends.iter().map(|backend| backend.ipv6());
        let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service(VIP6, backends)]))?;
        let backend = &lab.net.backends[1];
        backend.netns.ip(&format!("addr add {} dev eth0 nodad", host_prefix(VIP6)))?;
        let found = finds!(&hello.agent, AnswersArp)?;
        says(&found[0], &[&backend.ipv6().to_string(), &backend.links[0].mac, "ND"])
    });
}

#[test]
fn another_host_has_the_vip() {
    Lab::test(Topology::one_segment(2), |lab| {
        // The service does not have the second one.
        let hello = HelloLab::start(lab, 1)?;
        let stranger = &lab.net.backends[1];
        stranger.netns.ip(&format!("addr add {} dev eth0", host_prefix(VIP4)))?;
        let found = finds!(&hello.agent, VipTaken)?;
        says(&found[0], &[&VIP4.to_string(), &stranger.links[0].mac])
    });
}

/// By a neighbour solicitation, not by ARP.
#[test]
fn another_host_has_the_vip_over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [backend, stranger] = &lab.net.backends[..] else { unreachable!("there are two") };
        let config = Config::on_eth0("lab", vec![service(VIP6, [backend.ipv6()])]);
        let hello = HelloLab::start_with(lab, &config)?;
        // It has it on lo, as each backend of a lab: of that nobody hears.
        healthy(&hello.agent, 1)?;
        let on_eth0 = format!("{} dev eth0", host_prefix(VIP6));
        stranger.netns.ip(&format!("addr add {on_eth0} nodad"))?;
        let found = finds!(&hello.agent, VipTaken)?;
        says(&found[0], &[&VIP6.to_string(), &stranger.links[0].mac, "eth0"])?;
        stranger.netns.ip(&format!("addr del {on_eth0}"))?;
        healthy(&hello.agent, 1)
    });
}

/// Ends a server, and waits until its port is closed: a child that another test has just forked holds its sockets too,
/// until it becomes the program that it is to be.
pub fn end(server: Hello, lab: &Lab, node: &Node) -> Result<()> {
    drop(server);
    let at = SocketAddr::new(node.ipv4(), PORT);
    eventually(PATIENCE, &format!("{at} to be closed"), || {
        let tried = lab.net.client().netns.enter(|| TcpStream::connect_timeout(&at, PATIENCE))?;
        let refused = tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        Ok(if refused { Seen::Yes(()) } else { Seen::NotYet(format!("{tried:?}")) })
    })
}

#[test]
fn nothing_listens() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start(lab, 2)?;
        end(hello.servers.remove(0), lab, &lab.net.backends[0])?;
        let found = finds!(&hello.agent, PortClosed)?;
        says(&found[0], &[SERVICE, &hello.address(1), "RST", &PORT.to_string()])
    });
}

#[test]
fn a_server_listens_on_its_own_address_only() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start(lab, 2)?;
        let backend = &lab.net.backends[0];
        end(hello.servers.remove(0), lab, backend)?;
        let own = SocketAddr::new(backend.ipv4(), PORT);
        let _listener = backend.netns.enter(|| std::net::TcpListener::bind(own))??;
        let found = finds!(&hello.agent, NotOnVip)?;
        says(&found[0], &[&hello.address(1), "0.0.0.0"])
    });
}

/// A service of UDP servers on every backend, each at `at`.
fn datagrams<'lab>(lab: &'lab Lab, vip: IpAddr, at: IpAddr) -> Result<(HelloLab<'lab>, Vec<UdpHello>)> {
    let backends =
        lab.net.backends.iter().map(|backend| if vip.is_ipv4() { backend.ipv4() } else { backend.ipv6() });
    let udp = Service { protocol: "udp", ..service(vip, backends) };
    let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![udp]))?;
    let servers = UdpHello::on_each(&lab.net.backends, SocketAddr::new(at, PORT))?;
    Ok((hello, servers))
}

/// As [`end`], asked on the server's own host: it says nothing when it is dead, but its host does.
fn end_datagrams(server: UdpHello, node: &Node, at: SocketAddr) -> Result<()> {
    drop(server);
    eventually(PATIENCE, &format!("{at} to be closed"), || {
        let tried = node.netns.enter(|| -> Result<_> {
            let socket = udp::client(at)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            socket.send(udp::QUESTION)?;
            Ok(socket.recv(&mut [0; 64]))
        })??;
        let refused = tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        Ok(if refused { Seen::Yes(()) } else { Seen::NotYet(format!("{tried:?}")) })
    })
}

#[test]
fn nothing_takes_datagrams() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(2), |lab| {
            let (hello, mut servers) = datagrams(lab, vip, vip)?;
            healthy(&hello.agent, 2)?;
            let backend = &lab.net.backends[1];
            end_datagrams(servers.remove(1), backend, SocketAddr::new(vip, PORT))?;
            let found = finds!(&hello.agent, PortClosed)?;
            let backend = if vip.is_ipv4() { backend.ipv4() } else { backend.ipv6() };
            let words = [&backend.to_string(), SERVICE, "ICMP port unreachable", "start the server"];
            says(&found[0], &words)
        });
    }
}

/// On the wildcard address it answers from whatever address the way back has.
#[test]
fn a_udp_server_answers_from_its_own_address() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (hello, _servers) = datagrams(lab, VIP4, IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
        let found = finds!(&hello.agent, WrongSource)?;
        says(&found[0], &[&hello.address(1), &format!("let the server listen on {VIP4} itself")])
    });
}

#[test]
fn a_udp_server_listens_on_its_own_address_only() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (hello, _servers) = datagrams(lab, VIP4, lab.net.backends[0].ipv4())?;
        let found = finds!(&hello.agent, NotOnVip)?;
        says(&found[0], &[&hello.address(1), "ICMP port unreachable", &format!("listen on {VIP4} too")])
    });
}

/// Of several services, one finding: the address is missing, not a port of it. UDP is asked by pings first.
#[test]
fn one_vip_of_several_services() {
    Lab::test(Topology::one_segment(2), |lab| {
        let backends: Vec<IpAddr> = lab.net.backends.iter().map(|backend| backend.ipv4()).collect();
        let more = |name: &str, protocol, port| Service {
            name: name.to_owned(),
            protocol,
            port,
            ..service(VIP4, backends.iter().copied())
        };
        let services = vec![more("udp", "udp", PORT), more("tcp", "tcp", PORT), more("all", "tcp", 0)];
        let hello = HelloLab::start_with(lab, &Config { services, ..config(lab, 0) })?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        let Report { findings, examined, .. } = report(&hello.agent, "lab")?;
        ensure!(findings.is_empty() && examined.probed == 6, "{findings:#?} {examined:?}");
        lose_vip(&lab.net.backends[0].netns, VIP4)?;
        finds!(&hello.agent, VipMissing)?;
        Ok(())
    });
}

/// What the doctor does to backends, counted there: at most what `lb-userspace/src/doctor/probe` promises.
#[test]
fn many_backends_are_asked_gently() {
    /// Two hosts with so many addresses each: 2 × 150 is less than a neighbour table takes by default.
    const EACH: u8 = 150;
    Lab::test(Topology::one_segment(2), |lab| {
        let mut backends = Vec::new();
        for (n, node) in (16u8..).zip(&lab.net.backends) {
            let addresses = (1..=EACH).map(|host| format!("172.18.{n}.{host}"));
            let batch: String = addresses.clone().map(|it| format!("addr add {it}/32 dev eth0\n")).collect();
            node.netns.ip(&batch)?;
            lab.net.director.netns.ip(&format!("route add 172.18.{n}.0/24 dev eth0"))?;
            for address in addresses {
                backends.push(address.parse::<IpAddr>()?);
            }
        }
        let all = backends.len();
        let hello =
            HelloLab::start_with(lab, &Config { services: vec![service(VIP4, backends)], ..config(lab, 0) })?;
        let counted = ["tcp flags & (syn | ack) == syn", "tcp flags & rst == rst", "icmp type echo-request"];
        for node in &lab.net.backends {
            for matched in counted {
                rule(&node.netns, "input", &format!("{matched} counter"))?;
            }
        }
        healthy(&hello.agent, all)?;
        let mut seen = [0; 3];
        for node in &lab.net.backends {
            for (seen, packets) in seen.iter_mut().zip(counters(&node.netns)?) {
                *seen += packets;
            }
        }
        // To the VIP and to its own address, and one of the MTU; each again at most where a busy machine answers late.
        let all = all as u64;
        let within = |packets: u64, each: u64| (each * all..=3 * each * all).contains(&packets);
        ensure!(within(seen[0], 2) && seen[1] >= 2 * all && within(seen[2], 3), "{seen:?} of {all} backends");
        ensure!(hello.servers.iter().all(|server| server.accepted().is_empty()), "a server accepted a probe");
        Ok(())
    });
}

/// Packets of each rule with a counter, in order.
pub fn counters(netns: &Netns) -> Result<Vec<u64>> {
    let text = netns.run("nft", &["-j", "list", "ruleset"])?.ok()?;
    let ruleset: serde_json::Value = serde_json::from_str(&text)?;
    let rules =
        ruleset["nftables"].as_array().context("a ruleset")?.iter().map(|entry| &entry["rule"]["expr"]);
    let parts = rules.filter_map(|parts| parts.as_array()).flatten();
    Ok(parts.filter_map(|part| part["counter"]["packets"].as_u64()).collect())
}

/// Each by its name. What is provoked here is what `finds!` and `names!` stand for: they register a finding where they make
/// sure that the doctor names it, so none is known that is not asserted.
#[test]
fn every_finding_is_provoked_by_a_lab() {
    let all: BTreeSet<Id> = Id::ALL.iter().copied().collect();
    let provoked: BTreeSet<Id> = provoked().into_iter().chain(IN_THE_VM).collect();
    assert!(provoked == all, "no lab provokes {:?}", all.difference(&provoked).collect::<Vec<_>>());
}
