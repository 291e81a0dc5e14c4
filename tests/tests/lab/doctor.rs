//! `lb doctor`: nothing to say of a healthy director, and each thing that is wrong by its name.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    agent::{Agent, realserver},
    config::{Config, Service},
    lab::Lab,
    netns::Netns,
    proc::run,
    topo::{Segment, Topology, VIP4, VIP6, host_prefix},
};
use serde::Deserialize;

use crate::doctor_backend::rule;
use crate::setup::{HelloLab, PORT, SERVICE, config, service};

/// A finding, as far as the tests look at it.
#[derive(Debug, Deserialize)]
pub struct Found {
    pub id: String,
    pub severity: String,
    pub subject: String,
    pub found: String,
    pub fix: String,
}

#[derive(Debug, Deserialize)]
struct Report {
    findings: Vec<Found>,
    unknown: Vec<String>,
    examined: Examined,
}

#[derive(Debug, Deserialize)]
struct Examined {
    interfaces: usize,
    vips: usize,
    backends: usize,
    probed: usize,
}

/// What it finds; its exit code must agree.
pub fn findings(agent: &Agent) -> Result<Vec<Found>> {
    Ok(report(agent, "lab")?.findings)
}

/// The command line that asks about an instance at this agent's socket.
pub fn doctor_command(agent: &Agent, instance: &str) -> Result<Command> {
    let state = agent.state();
    let mut command =
        agent.lb_command(&["--instance", instance, "--output", "json", "doctor", "--state-dir"])?;
    command.arg(state.parent().context("the state directory has a parent")?);
    command.arg("--bpffs").arg(agent.bpffs());
    Ok(command)
}

fn report(agent: &Agent, instance: &str) -> Result<Report> {
    let ran = run(doctor_command(agent, instance)?)?;
    let report: Report = serde_json::from_str(&ran.stdout)
        .with_context(|| format!("`{}` printed:\n{}{}", ran.command, ran.stdout, ran.stderr))?;
    let has = |severity: &str| report.findings.iter().any(|finding| finding.severity == severity);
    let code = if has("error") {
        9
    } else if has("warning") {
        8
    } else {
        0
    };
    ensure!(ran.status.code() == Some(code), "{} with {report:#?}", ran.status);
    Ok(report)
}

/// It names these, in this order, and nothing else.
pub fn finds(agent: &Agent, ids: &[&str]) -> Result<Vec<Found>> {
    finds_of(agent, "lab", ids)
}

/// The same when asked as an instance.
pub fn finds_of(agent: &Agent, instance: &str, ids: &[&str]) -> Result<Vec<Found>> {
    let found = report(agent, instance)?.findings;
    let named: Vec<_> = found.iter().map(|finding| finding.id.as_str()).collect();
    ensure!(named == ids, "{ids:?} were expected: {found:#?}");
    Ok(found)
}

/// All of these words are in what was seen, what it is about, or what to do.
pub fn says(finding: &Found, words: &[&str]) -> Result<()> {
    let text = format!("{} {} {}", finding.subject, finding.found, finding.fix);
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in {finding:#?}");
    Ok(())
}

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
        let text = hello.agent.lb(&["--instance", "lab", "doctor"])?.ok()?;
        ensure!(text.contains("nothing wrong was found") && text.contains("tried 2 ways"), "{text}");
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
        let found = finds(&hello.agent, &["vip-missing"])?;
        let backend = hello.address(1);
        says(&found[0], &[&backend, "SYN-ACK", &format!("on {backend}: lb realserver start {VIP4}")])?;
        // The same without an agent.
        hello.agent.kill9()?;
        finds(&hello.agent, &["agent-down", "vip-missing"])?;
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
        let found = finds(&hello.agent, &["vip-missing"])?;
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
        let found = finds(&hello.agent, &["vip-missing"])?;
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
        let found = finds(&hello.agent, &["backend-answers-arp"])?;
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
        let found = finds(&hello.agent, &["backend-answers-arp"])?;
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
        let found = finds(&hello.agent, &["vip-taken"])?;
        says(&found[0], &[&VIP4.to_string(), &stranger.links[0].mac])
    });
}

#[test]
fn nothing_listens() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start(lab, 2)?;
        drop(hello.servers.remove(0));
        let found = finds(&hello.agent, &["port-closed"])?;
        says(&found[0], &[SERVICE, &hello.address(1), "RST", &PORT.to_string()])
    });
}

#[test]
fn a_server_listens_on_its_own_address_only() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start(lab, 2)?;
        drop(hello.servers.remove(0));
        let backend = &lab.net.backends[0];
        let own = SocketAddr::new(backend.ipv4(), PORT);
        let _listener = backend.netns.enter(|| std::net::TcpListener::bind(own))??;
        let found = finds(&hello.agent, &["not-on-vip"])?;
        says(&found[0], &[&hello.address(1), "0.0.0.0"])
    });
}

/// Of several services, one finding: the address is missing, not a port of it. UDP is asked by pings.
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
        let Report { findings, examined, .. } = report(&hello.agent, "lab")?;
        ensure!(findings.is_empty() && examined.probed == 6, "{findings:#?} {examined:?}");
        lose_vip(&lab.net.backends[0].netns, VIP4)?;
        finds(&hello.agent, &["vip-missing"])?;
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
        // SYNs to the VIP and to its own address; once more at most where a busy machine answers late.
        let (least, most) = (2 * all as u64, 6 * all as u64);
        let within = |packets: u64| (least..=most).contains(&packets);
        ensure!(within(seen[0]) && within(seen[2]) && seen[1] >= least, "{seen:?} of {all} backends");
        ensure!(hello.servers.iter().all(|server| server.accepted().is_empty()), "a server accepted a probe");
        Ok(())
    });
}

/// Packets of each rule with a counter, in order.
fn counters(netns: &Netns) -> Result<Vec<u64>> {
    let text = netns.run("nft", &["-j", "list", "ruleset"])?.ok()?;
    let ruleset: serde_json::Value = serde_json::from_str(&text)?;
    let rules =
        ruleset["nftables"].as_array().context("a ruleset")?.iter().map(|entry| &entry["rule"]["expr"]);
    let parts = rules.filter_map(|parts| parts.as_array()).flatten();
    Ok(parts.filter_map(|part| part["counter"]["packets"].as_u64()).collect())
}
