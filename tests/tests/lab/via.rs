//! Health checks through the VIP: a backend that answers its own address but serves no client leaves.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, BackendView, CheckState, Status},
    events::Kind,
};
use lb_tests::{
    agent::Agent,
    clock::{Stalls, realtime},
    config::{Config, Service},
    doctor::says,
    finds,
    hello::{Hello, spread},
    lab::Lab,
    netns::Netns,
    topo::{Link, Node, Segment, Topology, VIP4, VIP6, host_prefix},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, happened, said, verdict};

/// A lost packet is sent again after a second: it must not fail what is healthy.
const CHECKS: &str = "checks: [{tcp: , interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}]";

/// A VIP in the back segment.
const VIP_BACK: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 15, 100));

/// All backends of the lab behind this VIP, by their address in a segment.
fn config(lab: &Lab, vip: IpAddr, segment: Segment) -> Config {
    let own = |link: &Link| if vip.is_ipv4() { link.ipv4.into() } else { link.ipv6.into() };
    let backends: Vec<IpAddr> = lab.net.backends.iter().map(|node| own(node.link(segment))).collect();
    Config::on_eth0(
        "lab",
        vec![Service { more: CHECKS.to_owned(), ..Service::tcp(SERVICE, vip, PORT, backends) }],
    )
}

/// `ADDRESS:PORT` of the configuration's nth backend.
fn key(config: &Config, n: usize) -> String {
    SocketAddr::new(config.services[0].backends[n - 1].0, PORT).to_string()
}

/// Waits until both ways to a backend are in these states, and nothing is left out.
pub fn ways(agent: &Agent, key: &str, wanted: &[CheckState]) -> Result<BackendView> {
    eventually(PATIENCE, &format!("the ways to {key} to be {wanted:?}"), || {
        let view = agent.backend(SERVICE, key)?;
        let made = |check: &lb::api::types::CheckView| {
            check.result.as_ref().is_some_and(|found| !found.starts_with("not made"))
        };
        let states = view.checks.iter().filter(|check| made(check)).map(|check| check.state);
        let are = states.eq(wanted.iter().copied());
        Ok(if are { Seen::Yes(view) } else { Seen::NotYet(format!("{view:?}")) })
    })
}

pub const GOOD: &[CheckState] = &[CheckState::Up, CheckState::Up];
pub const BLACK: &[CheckState] = &[CheckState::Up, CheckState::Down];

/// The first of two backends loses its VIP and gets it back: traffic follows.
fn loses_its_vip(lab: &Lab, config: &Config) -> Result<()> {
    let hello = HelloLab::start_with(lab, config)?;
    let vip = config.services[0].address;
    let to = SocketAddr::new(vip, PORT);
    ways(&hello.agent, &key(config, 1), GOOD)?;
    ways(&hello.agent, &key(config, 2), GOOD)?;
    let backend = &lab.net.backends[0].netns;
    backend.ip(&format!("addr del {} dev lo", host_prefix(vip)))?;
    let told = ways(&hello.agent, &key(config, 1), BLACK)?;
    ensure!(told.state == BackendState::Down, "{told:?}");
    let told = told.detail.unwrap_or_default();
    let words =
        format!("through the VIP {vip}: it answers on its own address, but not here: no answer (is {vip} on");
    said(&told, &[&words])?;
    let answered = spread(hello.client(), to, 20)?;
    ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
    backend.ip(&format!("addr add {} dev lo", host_prefix(vip)))?;
    ways(&hello.agent, &key(config, 1), GOOD)?;
    let answered = spread(hello.client(), to, 20)?;
    ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
    Ok(())
}

#[test]
fn a_backend_that_loses_its_vip_leaves_while_its_own_address_answers() {
    Lab::test(Topology::one_segment(2), |lab| loses_its_vip(lab, &config(lab, VIP4, Segment::Front)));
}

/// Failures that take a backend out, and the time between two checks, of the tests of how soon it leaves.
const FALL: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(1);

/// Within fall × interval and the last attempt's timeout, which it takes whole: a timeout that is no longer than the
/// interval delays no other attempt.
#[test]
fn a_backend_that_loses_its_vip_leaves_in_time() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    leaves_in_time("timeout: 1s", TIMEOUT, FALL * INTERVAL + TIMEOUT);
}

/// Where timeout and fast interval are short, the last attempt's timeout is within fall × interval, too.
#[test]
fn a_backend_that_loses_its_vip_leaves_within_fall_intervals() {
    leaves_in_time("fast_interval: 200ms, timeout: 300ms", Duration::from_millis(300), FALL * INTERVAL);
}

/// The agent's own clock and log are what is measured. By how much it says that an attempt began late does not count, nor how
/// long the machine stood still: by so much an attempt ends late, and gets as much once more.
fn leaves_in_time(timing: &str, timeout: Duration, bound: Duration) {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, VIP4, Segment::Front);
        config.services[0].more =
            format!("checks: [{{tcp: , interval: {INTERVAL:?}, {timing}, rise: 2, fall: {FALL}}}]");
        let hello = HelloLab::start_with(lab, &config)?;
        (1..=2).try_for_each(|n| ways(&hello.agent, &key(&config, n), GOOD).map(drop))?;
        let failed_before = failed(&hello.agent, true)?;
        let (stalls, before) = (Stalls::watch()?, realtime());
        lab.net.backends[0].netns.ip(&format!("addr del {} dev lo", host_prefix(VIP4)))?;
        let after = realtime();
        let left = happened(&hello.agent, Kind::BackendDown)?;
        let stood_still = stalls.end()?;
        // From here on nobody is sent there, and everybody is served.
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
        ensure!(left.what.backend.is_some_and(|backend| backend.to_string() == hello.key(1)), "{left:?}");
        ensure!(left.what.reason.contains("through the VIP"), "{left:?}");
        let attempts = failed(&hello.agent, true)? - failed_before;
        ensure!(attempts >= u64::from(FALL), "down after {attempts} failures");
        ways(&hello.agent, &key(&config, 1), BLACK).context("its own address goes on answering")?;
        let latest = hello.agent.stats()?.checks.iter().map(|it| it.latest_us).max().unwrap_or_default();
        let took = left.time.duration_since(after);
        let bound = bound + FALL * (Duration::from_micros(latest) + Stalls::LATE) + 2 * stood_still;
        ensure!(took <= bound.try_into()?, "it left {took:?} after its VIP, at most {bound:?} were expected");
        // Not before its failures had time to be: each hangs.
        let took = left.time.duration_since(before);
        ensure!(took >= (FALL * timeout).try_into()?, "{took:?}");
        Ok(())
    });
}

/// Attempts of tcp checks that have failed, by one of the two ways.
fn failed(agent: &Agent, via_vip: bool) -> Result<u64> {
    let checks = agent.stats()?.checks;
    Ok(checks.iter().filter(|it| it.kind == "tcp" && it.via_vip == via_vip).map(|it| it.failed).sum())
}

#[test]
fn over_ipv6() {
    Lab::test(Topology::one_segment(2), |lab| loses_its_vip(lab, &config(lab, VIP6, Segment::Front)));
}

#[test]
fn in_generic_mode() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, VIP4, Segment::Front);
        config.interfaces[0].1 = "generic".to_owned();
        loses_its_vip(lab, &config)
    });
}

/// The program is on the interface in front alone: answers come there, as a client's do.
#[test]
fn behind_a_second_interface() {
    Lab::test(Topology::two_segments(2), |lab| loses_its_vip(lab, &config(lab, VIP4, Segment::Back)));
}

#[test]
fn behind_a_second_interface_that_has_the_program_too() {
    Lab::test(Topology::two_segments(2), |lab| {
        let mut config = config(lab, VIP6, Segment::Back);
        config.interfaces.push(("eth1".to_owned(), "native".to_owned()));
        loses_its_vip(lab, &config)
    });
}

/// The operator's VIPs, or none yet: a director without them, as a backup is, sees the same.
#[test]
fn on_a_director_that_does_not_have_the_vip() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, VIP4, Segment::Front);
        config.add_to = None;
        let hello = HelloLab::start_with(lab, &config)?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        lab.net.backends[0].netns.ip(&format!("addr del {VIP4}/32 dev lo"))?;
        ways(&hello.agent, &key(&config, 1), BLACK)?;
        Ok(())
    });
}

#[test]
fn a_server_that_listens_on_its_own_address_alone() {
    Lab::test(Topology::one_segment(2), |lab| {
        let config = config(lab, VIP4, Segment::Front);
        let mut hello = HelloLab::start_with(lab, &config)?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        drop(hello.servers.remove(0));
        let node = &lab.net.backends[0];
        hello.servers.push(Hello::start_on(node, SocketAddr::new(node.ipv4(), PORT))?);
        let view = ways(&hello.agent, &key(&config, 1), BLACK)?;
        said(
            &view.detail.unwrap_or_default(),
            &["connection refused (does its server listen on 172.18.14.100?)"],
        )?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
        Ok(())
    });
}

/// What comes by the back link from an address in front is dropped by a strict rp_filter: the director's packets to
/// the backend's own address come from an address in back, a client's do not.
#[test]
fn a_backend_whose_rp_filter_drops_what_clients_send() {
    Lab::test(Topology::two_segments(2), |lab| {
        let config = config(lab, VIP4, Segment::Back);
        let hello = HelloLab::start_with(lab, &config)?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        lab.net.backends[0].netns.sysctl("ipv4/conf/all/rp_filter", "1")?;
        let view = ways(&hello.agent, &key(&config, 1), BLACK)?;
        said(&view.detail.unwrap_or_default(), &["does rp_filter drop it?"])?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
        lab.net.backends[0].netns.sysctl("ipv4/conf/all/rp_filter", "0")?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        Ok(())
    });
}

#[test]
fn the_director_as_its_own_backend_is_not_asked() {
    Lab::test(Topology::one_segment(1), |lab| {
        lab.net.director.netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
        let _server = Hello::start(&lab.net.director, PORT)?;
        let mut config = config(lab, VIP4, Segment::Front);
        config.add_to = None;
        config.services[0].backends.push((lab.net.director.ipv4(), 1));
        let hello = HelloLab::start_with(lab, &config)?;
        backend_is(&hello.agent, SERVICE, &key(&config, 2), BackendState::Up)?;
        let view = hello.agent.backend(SERVICE, &key(&config, 2))?;
        let results: Vec<_> = view.checks.iter().filter_map(|check| check.result.as_deref()).collect();
        ensure!(results == ["connected", "not made: the backend is the director itself"], "{view:#?}");
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        Ok(())
    });
}

/// Devices of the checks, and what is reserved for them.
fn traces(director: &Netns) -> Result<(usize, String)> {
    let links = director.run("ip", &["-o", "link"])?.ok()?;
    let ports = director.enter(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports"))??;
    Ok((links.matches("lb-probe").count(), ports.trim().to_owned()))
}

fn until_traces(director: &Node, devices: usize, ports: &str) -> Result<()> {
    eventually(PATIENCE, &format!("{devices} devices, ports {ports:?}"), || {
        let found = traces(&director.netns)?;
        let as_wanted = found == (devices, ports.to_owned());
        Ok(if as_wanted { Seen::Yes(()) } else { Seen::NotYet(format!("{found:?}")) })
    })
}

#[test]
fn a_killed_agent_leaves_no_device_and_the_next_one_looks_again() {
    Lab::test(Topology::one_segment(2), |lab| {
        let director = &lab.net.director;
        director.netns.sysctl("ipv4/ip_local_reserved_ports", "80,61000-61009")?;
        let config = config(lab, VIP4, Segment::Front);
        let hello = HelloLab::start_with(lab, &config)?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        until_traces(director, 1, "80,61000-64999")?;
        lab.net.backends[0].netns.ip(&format!("addr del {VIP4}/32 dev lo"))?;
        ways(&hello.agent, &key(&config, 1), BLACK)?;
        hello.agent.kill9()?;
        until_traces(director, 0, "80,61000-64999")?;
        // It knows from the first moment what its predecessor has found.
        hello.agent.start()?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
        lab.net.backends[0].netns.ip(&format!("addr add {VIP4}/32 dev lo"))?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;

        // Nobody wants it any more; and again.
        let off = Config {
            services: vec![Service {
                more: "checks: [{tcp: , via: rip}]".to_owned(),
                ..config.services[0].clone()
            }],
            ..config.clone()
        };
        hello.agent.write_config(&off.to_yaml(&hello.agent.socket()))?;
        hello.agent.lb(&["reload"])?.ok()?;
        until_traces(director, 0, "80,61000-64999")?;
        ensure!(hello.agent.backend(SERVICE, &key(&config, 1))?.checks.len() == 1);
        hello.agent.write_config(&config.to_yaml(&hello.agent.socket()))?;
        hello.agent.lb(&["reload"])?.ok()?;
        until_traces(director, 1, "80,61000-64999")?;
        ways(&hello.agent, &key(&config, 1), GOOD)?;
        let probes = verdict(&hello.agent.stats()?, "forwarded-probe")?;
        ensure!(probes > 0, "no answer was counted");

        hello.agent.detach()?;
        until_traces(director, 0, "80,61000-61009")
    });
}

#[test]
fn two_instances_on_one_host() {
    let topology = Topology { clients_in_back: true, ..Topology::two_segments(2) };
    Lab::test(topology, |lab| {
        let _servers = lab.net.backends.iter().map(|b| Hello::start(b, PORT)).collect::<Result<Vec<_>>>()?;
        lab.start_realservers(&[VIP4, VIP_BACK])?;
        let front = Config { instance: "front".to_owned(), ..config(lab, VIP4, Segment::Front) };
        let mut back = Config { instance: "back".to_owned(), ..config(lab, VIP_BACK, Segment::Back) };
        back.interfaces[0].0 = "eth1".to_owned();
        back.add_to = Some("eth1".to_owned());
        let (one, two) = (lab.start_agent(&front)?, lab.start_agent(&back)?);
        for (agent, config) in [(&one, &front), (&two, &back)] {
            ways(agent, &key(config, 1), GOOD)?;
            ways(agent, &key(config, 2), GOOD)?;
        }
        until_traces(&lab.net.director, 2, "61000-64999")?;
        lab.net.backends[0].netns.ip(&format!("addr del {VIP_BACK}/32 dev lo"))?;
        ways(&two, &key(&back, 1), BLACK)?;
        ways(&one, &key(&front, 1), GOOD)?;
        one.detach()?;
        lab.net.backends[0].netns.ip(&format!("addr add {VIP_BACK}/32 dev lo"))?;
        ways(&two, &key(&back, 1), GOOD)?;
        Ok(())
    });
}

/// A director that cannot look says so, and keeps its pools.
#[test]
fn without_the_capability_for_a_namespace() {
    Lab::test(Topology::one_segment(1), |lab| {
        let config = config(lab, VIP4, Segment::Front);
        let hello = HelloLab::prepare(lab, &config)?;
        hello.agent.start_with_capabilities("-sys_admin")?;
        backend_is(&hello.agent, SERVICE, &key(&config, 1), BackendState::Up)?;
        let status: Status = hello.agent.json(&["status"])?;
        let words = ["health checks through the VIP are not made", "CAP_SYS_ADMIN", "via: rip"];
        ensure!(status.warnings.iter().any(|warning| said(warning, &words).is_ok()), "{:?}", status.warnings);
        said(&hello.agent.log(), &words)?;
        let view = hello.agent.backend(SERVICE, &key(&config, 1))?;
        let results: Vec<_> = view.checks.iter().filter_map(|check| check.result.as_deref()).collect();
        ensure!(results == ["connected", "not made: there is no way through the VIP"], "{view:#?}");
        // An operator who asks the doctor, which may look at everything, is told so too.
        let lacks = format!("CAP_SYS_ADMIN (health checks through the VIP of {SERVICE})");
        says(&finds!(&hello.agent, AgentLacksCapability)?[0], &[&lacks, "via: rip"])?;
        until_traces(&lab.net.director, 0, "")
    });
}
