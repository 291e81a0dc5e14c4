//! Health checks of datagrams and pings through the VIP.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use anyhow::{Context, Result, ensure};
use lb::api::types::{BackendState, CheckState};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    dns,
    doctor::says,
    finds,
    lab::Lab,
    proc::Proc,
    topo::{Link, Segment, Topology, VIP4, VIP6, host_prefix},
};

use crate::{
    doctor_backend::rule,
    setup::{SERVICE, said},
    via::{BLACK, GOOD, ways},
};

const DNS: &str = "{dns: {name: who.lab, type: A}, interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}";

/// A node's address of the VIP's family.
fn own(link: &Link, vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { link.ipv4.into() } else { link.ipv6.into() }
}

/// DNS servers on every backend, behind this VIP by their address in a segment.
struct DnsLab<'lab> {
    lab: &'lab Lab,
    vip: IpAddr,
    segment: Segment,
    config: Config,
}

impl<'lab> DnsLab<'lab> {
    fn new(lab: &'lab Lab, vip: IpAddr, segment: Segment, checks: &str) -> Self {
        let backends = lab.net.backends.iter().map(|node| own(node.link(segment), vip));
        let more = format!("checks: [{checks}]");
        let service = Service { protocol: "udp", more, ..Service::tcp(SERVICE, vip, 53, backends) };
        Self { lab, vip, segment, config: Config::on_eth0("lab", vec![service]) }
    }

    /// Has the backends say each time that a port is closed, and not once a second (`icmp_ratelimit`): which of a check's
    /// attempts is the last one does not matter then.
    fn always_refuses(&self) -> Result<()> {
        self.lab.net.backends.iter().try_for_each(|node| {
            node.netns.sysctl("ipv4/icmp_ratelimit", "0")?;
            node.netns.sysctl("ipv6/icmp/ratelimit", "0")
        })
    }

    /// A server that serves clients, or its own address alone.
    fn server(&self, n: usize, serves: bool) -> Result<Proc> {
        let node = &self.lab.net.backends[n - 1];
        let addresses = [own(node.link(self.segment), self.vip), self.vip];
        dns::start(&self.lab.scope, node, if serves { &addresses } else { &addresses[..1] })
    }

    fn key(&self, n: usize) -> String {
        SocketAddr::new(self.config.services[0].backends[n - 1].0, 53).to_string()
    }

    /// The VIP on lo of a backend, or not.
    fn vip(&self, n: usize, verb: &str) -> Result<()> {
        self.lab.net.backends[n - 1].netns.ip(&format!("addr {verb} {} dev lo", host_prefix(self.vip)))
    }

    /// Who answers clients from each of these ports.
    fn answers(&self, ports: Range<u16>) -> Result<Vec<usize>> {
        let net = &self.lab.net;
        let answers = ports.map(|port| {
            let answer = dns::ask_from(&net.client().netns, port, SocketAddr::new(self.vip, 53))?;
            let number = net.backends.iter().position(|node| node.ipv4() == IpAddr::V4(answer));
            Ok(number.context("an answer of nobody's")? + 1)
        });
        answers.collect()
    }
}

/// The first of two DNS servers loses its VIP and gets it back.
fn loses_its_vip(dns: &DnsLab) -> Result<()> {
    dns.lab.start_realservers(&[dns.vip])?;
    let _servers = [dns.server(1, true)?, dns.server(2, true)?];
    let agent = dns.lab.start_agent(&dns.config)?;
    ways(&agent, &dns.key(1), GOOD)?;
    ways(&agent, &dns.key(2), GOOD)?;
    untouched(&agent)?;
    dns.vip(1, "del")?;
    let told = ways(&agent, &dns.key(1), BLACK)?;
    ensure!(told.state == BackendState::Down, "{told:?}");
    let vip = dns.vip;
    let words =
        format!("through the VIP {vip}: it answers on its own address, but not here: no answer (is {vip} on");
    said(&told.detail.unwrap_or_default(), &[&words])?;
    ensure!(dns.answers(40000..40006)?.iter().all(|number| *number == 2), "the first one was asked");
    let found = finds!(&agent, VipMissing)?;
    says(&found[0], &[&dns.config.services[0].backends[0].0.to_string(), "lb realserver start"])?;
    ensure!(found[0].severity == "warning", "no client is sent there: {found:#?}");
    dns.vip(1, "add")?;
    ways(&agent, &dns.key(1), GOOD)?;
    // A client that has a backend by persistence keeps it.
    let persists = dns.config.services[0].more.contains("persistence");
    ensure!(persists || dns.answers(40010..40020)?.contains(&1), "the first one is not asked again");
    finds!(&agent).map(drop)
}

/// Checks are no clients.
fn untouched(agent: &Agent) -> Result<()> {
    let stats = agent.stats()?;
    let idle = stats.total.connections == 0 && stats.flows.iter().all(|table| table.used == 0);
    ensure!(idle, "{stats:#?}");
    Ok(())
}

#[test]
fn a_dns_server_that_loses_its_vip_leaves_while_its_own_address_answers() {
    Lab::test(Topology::one_segment(2), |lab| loses_its_vip(&DnsLab::new(lab, VIP4, Segment::Front, DNS)));
}

#[test]
fn over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| loses_its_vip(&DnsLab::new(lab, VIP6, Segment::Front, DNS)));
}

#[test]
fn behind_a_second_interface() {
    Lab::test(Topology::two_segments(2), |lab| loses_its_vip(&DnsLab::new(lab, VIP4, Segment::Back, DNS)));
}

/// Each datagram by itself, which needs no flow; and with persistence.
#[test]
fn of_services_with_options_of_their_own() {
    for option in ["ops: true", "persistence: 60"] {
        Lab::test(Topology::one_segment(2), |lab| {
            let mut dns = DnsLab::new(lab, VIP4, Segment::Front, DNS);
            dns.config.services[0].more += &format!(", {option}");
            loses_its_vip(&dns)
        });
    }
}

#[test]
fn a_server_that_listens_on_its_own_address_alone() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(2), |lab| {
            let dns = DnsLab::new(lab, vip, Segment::Front, DNS);
            dns.always_refuses()?;
            lab.start_realservers(&[vip])?;
            let _servers = [dns.server(1, false)?, dns.server(2, true)?];
            let agent = lab.start_agent(&dns.config)?;
            ways(&agent, &dns.key(2), GOOD)?;
            let words = format!("connection refused (does its server listen on {vip}?)");
            said(&ways(&agent, &dns.key(1), BLACK)?.detail.unwrap_or_default(), &[&words])?;
            ensure!(dns.answers(40000..40006)?.iter().all(|number| *number == 2), "the first one was asked");
            let found = finds!(&agent, PortClosed)?;
            let listen = format!("let it listen on {vip} too");
            let backend = dns.config.services[0].backends[0].0.to_string();
            says(&found[0], &[&backend, "ICMP port unreachable", &listen])
        });
    }
}

/// Silence may pass for an answer, but not where the own address gives one.
#[test]
fn datagrams_that_need_no_answer() {
    Lab::test(Topology::one_segment(1), |lab| {
        // A DNS question: `www` A IN.
        let udp = "{udp: {send_hex: 00010100000100000000000003777777000001\
                   0001}, interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}";
        let dns = DnsLab::new(lab, VIP4, Segment::Front, udp);
        lab.start_realservers(&[VIP4])?;
        let _server = dns.server(1, true)?;
        let agent = lab.start_agent(&dns.config)?;
        ways(&agent, &dns.key(1), GOOD)?;
        dns.vip(1, "del")?;
        let told = ways(&agent, &dns.key(1), BLACK)?;
        said(
            &told.detail.unwrap_or_default(),
            &["it answers on its own address, but not here: no reply (is "],
        )?;
        dns.vip(1, "add")?;
        ways(&agent, &dns.key(1), GOOD)?;
        Ok(())
    });
}

/// Of a service that nothing else checks.
#[test]
fn pings_of_the_vip() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(2), |lab| {
            let ping = "{ping: , interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}";
            let dns = DnsLab::new(lab, vip, Segment::Front, ping);
            dns.always_refuses()?;
            lab.start_realservers(&[vip])?;
            let _servers = [dns.server(1, true)?, dns.server(2, true)?];
            let agent = lab.start_agent(&dns.config)?;
            ways(&agent, &dns.key(1), GOOD)?;
            ways(&agent, &dns.key(2), GOOD)?;
            untouched(&agent)?;
            dns.vip(1, "del")?;
            let told = ways(&agent, &dns.key(1), BLACK)?.detail.unwrap_or_default();
            let words = "ping through the VIP";
            said(&told, &[words, &format!("no answer (is {vip} on its lo?")])?;
            dns.vip(1, "add")?;
            ways(&agent, &dns.key(1), GOOD)?;
            // A firewall that says so is heard at once, and by its own words.
            let family = if vip.is_ipv4() { "ip" } else { "ip6" };
            rule(&lab.net.backends[0].netns, "input", &format!("{family} daddr {vip} reject"))?;
            let told = ways(&agent, &dns.key(1), BLACK)?.detail.unwrap_or_default();
            said(&told, &[words, "connection refused"])
        });
    }
}

/// What comes by the back link from an address in front is dropped by a strict rp_filter.
#[test]
fn a_backend_whose_rp_filter_drops_what_clients_send() {
    Lab::test(Topology::two_segments(2), |lab| {
        let ping = "{ping: , interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}";
        let dns = DnsLab::new(lab, VIP4, Segment::Back, &format!("{DNS}, {ping}"));
        lab.start_realservers(&[VIP4])?;
        let _servers = [dns.server(1, true)?, dns.server(2, true)?];
        let agent = lab.start_agent(&dns.config)?;
        ways(&agent, &dns.key(1), &[CheckState::Up; 4])?;
        lab.net.backends[0].netns.sysctl("ipv4/conf/all/rp_filter", "1")?;
        let told = ways(&agent, &dns.key(1), &[GOOD[0], BLACK[1], GOOD[0], BLACK[1]])?;
        said(&told.detail.unwrap_or_default(), &["does rp_filter drop it?"])?;
        ensure!(dns.answers(40000..40006)?.iter().all(|number| *number == 2), "the first one was asked");
        Ok(())
    });
}
