//! `lb doctor` about backends: firewalls, routes, MTUs, addresses, and checks that see less than a client.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    doctor::{Found, says},
    finds,
    lab::Lab,
    netns::Netns,
    topo::{Segment, Topology, VIP4, host_prefix},
};

use crate::{
    doctor::two_segments,
    setup::{HelloLab, PORT, SERVICE, backend_is, config, service},
};

/// A firewall rule of a host: what nft(8) takes behind `add rule inet lab HOOK`.
pub fn rule(netns: &Netns, hook: &str, rule: &str) -> Result<()> {
    let chain = format!("{{ type filter hook {hook} priority 0; }}");
    netns.run("nft", &["add", "table", "inet", "lab"])?.ok()?;
    netns.run("nft", &["add", "chain", "inet", "lab", hook, &chain])?.ok()?;
    let words: Vec<_> = rule.split(' ').collect();
    netns.run("nft", &[&["add", "rule", "inet", "lab", hook][..], &words].concat())?.ok()?;
    Ok(())
}

/// The finding that one rule of slave1's causes.
fn firewall(hook: &str, text: &str, finds: impl Fn(&Agent) -> Result<Vec<Found>>, words: &[&str]) {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        rule(&lab.net.backends[0].netns, hook, text)?;
        let found = finds(&hello.agent)?;
        says(&found[0], &[&[hello.address(1).as_str()], words].concat())
    });
}

#[test]
fn a_firewall_drops_the_service() {
    firewall(
        "input",
        &format!("ip daddr {VIP4} tcp dport {PORT} drop"),
        |agent| finds!(agent, Filtered),
        &["echo reply", "nft list ruleset"],
    );
}

#[test]
fn a_firewall_rejects_the_service() {
    firewall(
        "input",
        &format!("ip daddr {VIP4} tcp dport {PORT} reject"),
        |agent| finds!(agent, Rejected),
        &["ICMP port unreachable"],
    );
}

/// What source NAT does to answers.
#[test]
fn answers_come_from_another_address() {
    let text = format!("ip saddr {VIP4} ip saddr set 172.18.14.71");
    firewall("output", &text, |agent| finds!(agent, WrongSource), &["answers from 172.18.14.71"]);
}

#[test]
fn a_backend_that_answers_nothing() {
    firewall(
        "input",
        "meta nfproto ipv4 drop",
        |agent| finds!(agent, BackendSilent),
        &["ARP or ND is answered", "drain"],
    );
}

/// As far as a prober can tell it from a VIP that is not there.
#[test]
fn everything_for_the_vip_is_dropped() {
    let text = format!("ip daddr {VIP4} drop");
    firewall(
        "input",
        &text,
        |agent| finds!(agent, VipMissing),
        &["lb realserver status", "firewall drops packets for it"],
    );
}

/// The way back to the client leads out of another interface than the director's packets come in by.
#[test]
fn a_strict_reverse_path_filter() {
    Lab::test(Topology::two_segments(2), |lab| {
        let hello = HelloLab::start_with(lab, &two_segments(lab, VIP4))?;
        let backend = &lab.net.backends[0];
        backend.netns.sysctl("ipv4/conf/all/rp_filter", "1")?;
        let found = finds!(&hello.agent, ReversePath)?;
        let director = &lab.net.director;
        says(
            &found[0],
            &[
                &backend.link(Segment::Back).ipv4.to_string(),
                &director.link(Segment::Front).ipv4.to_string(),
                "rp_filter=2",
            ],
        )
    });
}

/// Nobody follows it while no agent runs.
#[test]
fn a_backend_with_another_mac() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        hello.agent.kill9()?;
        let mac = "02:12:0e:00:00:99";
        lab.net.backends[0].netns.ip(&format!(
            "link set dev eth0 down\nlink set dev eth0 address {mac}\nlink set dev eth0 up\n"
        ))?;
        let found = finds!(&hello.agent, AgentDown, MacChanged)?;
        says(&found[1], &[&hello.address(1), mac, &lab.net.backends[0].links[0].mac])
    });
}

#[test]
fn a_backend_that_is_not_there() {
    Lab::test(Topology::one_segment(2), |lab| {
        lab.net.backends[1].netns.ip("link set dev eth0 down")?;
        let hello = HelloLab::start(lab, 2)?;
        let found = finds!(&hello.agent, Unresolved)?;
        says(&found[0], &[&hello.address(2), "ARP", "eth0"])
    });
}

#[test]
fn a_backend_in_another_segment() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let (backend, gateway) = (hello.address(1), lab.net.client().ipv4());
        lab.net.director.netns.ip(&format!("route add {backend}/32 via {gateway}"))?;
        let found = finds!(&hello.agent, BehindGateway)?;
        says(&found[0], &[&backend, &gateway.to_string()])
    });
}

#[test]
fn a_backend_without_a_route() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lab.net.director.netns.ip(&format!("route add unreachable {}/32", hello.address(1)))?;
        let found = finds!(&hello.agent, NoRoute)?;
        says(&found[0], &[&hello.address(1)])
    });
}

#[test]
fn long_packets_do_not_arrive() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lab.net.backends[0].netns.ip("link set dev eth0 mtu 1400")?;
        let found = finds!(&hello.agent, PathMtu)?;
        says(&found[0], &[&hello.address(1), "1500"])
    });
}

#[test]
fn a_smaller_mtu_towards_the_backends() {
    Lab::test(Topology::two_segments(1), |lab| {
        let director = &lab.net.director.netns;
        director.ip("link set dev eth1 mtu 1400")?;
        let hello = HelloLab::start_with(lab, &two_segments(lab, VIP4))?;
        let found = finds!(&hello.agent, EgressMtu)?;
        says(&found[0], &["eth0 has MTU 1500", "eth1", "1400"])
    });
}

#[test]
fn a_backend_with_jumbo_frames() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lab.net.backends[0].netns.ip("link set dev eth0 mtu 9000")?;
        let found = finds!(&hello.agent, MssTooLarge)?;
        says(&found[0], &[&hello.address(1), "8960", "9000", "eth0"])
    });
}

/// The check asks the backend's own address alone.
#[test]
fn a_check_that_sees_less_than_a_client() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello =
            HelloLab::start_with(lab, &checked(lab, "checks: [{tcp: , via: rip, timeout: 5s}]", &[]))?;
        (1..=2).try_for_each(|n| backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Up))?;
        finds!(&hello.agent)?;
        lab.net.backends[0].netns.ip(&format!("addr del {} dev lo", host_prefix(VIP4)))?;
        let found = finds!(&hello.agent, VipMissing, CheckBlind)?;
        says(&found[1], &["tcp", "vip-missing", "lb backend drain"])
    });
}

#[test]
fn a_check_that_fails_while_clients_are_served() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start_with(
            lab,
            &checked(lab, "", &["checks: [{tcp: , via: rip, port: 7001, timeout: 5s}]"]),
        )?;
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Down)?;
        let found = finds!(&hello.agent, CheckWrong)?;
        says(&found[0], &[&hello.address(1), "connection refused"])
    });
}

/// Its check has seen it and keeps it out: no error any more.
#[test]
fn a_dead_server_that_is_out_already() {
    Lab::test(Topology::one_segment(2), |lab| {
        let config = checked(lab, "checks: [{tcp: , interval: 200ms, timeout: 5s}]", &[]);
        let mut hello = HelloLab::start_with(lab, &config)?;
        // The check goes through the VIP too, from a namespace of the agent's: neither is in the other's way.
        (1..=2).try_for_each(|n| backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Up))?;
        finds!(&hello.agent)?;
        drop(hello.servers.remove(0));
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Down)?;
        let found = finds!(&hello.agent, PortClosed)?;
        ensure!(found[0].severity == "warning", "{found:#?}");
        Ok(())
    });
}

fn checked(lab: &Lab, more: &str, more_of: &[&'static str]) -> Config {
    let backends: Vec<IpAddr> = lab.net.backends.iter().map(|backend| backend.ipv4()).collect();
    let service = Service { more: more.to_owned(), more_of: more_of.to_vec(), ..service(VIP4, backends) };
    Config { services: vec![service], ..config(lab, 0) }
}
