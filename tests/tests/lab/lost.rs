//! Nothing that is done to an agent costs a packet: each of a stream is counted where it arrives.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, Stats};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    lab::Lab,
    topo::{Link, Segment, Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    growth::{resize, settled},
    numbered::{Numbered, Tally},
    setup::{PORT, SERVICE, backend_is},
    trace::{Trace, until_tag},
};

#[test]
fn no_packet_is_lost_whatever_is_done_to_the_agent() {
    Lab::test(Topology::one_segment(4), |lab| nothing_is_lost(lab, "native", 2));
}

#[test]
fn no_packet_is_lost_that_is_redirected() {
    Lab::test(Topology::two_segments(4), |lab| nothing_is_lost(lab, "native", 1));
}

#[test]
fn no_packet_is_lost_in_generic_mode() {
    Lab::test(Topology::one_segment(4), |lab| nothing_is_lost(lab, "generic", 1));
}

/// Each thing is done so many times.
fn nothing_is_lost(lab: &Lab, mode: &str, times: usize) -> Result<()> {
    let config = |scheduler, weights| config(lab, mode, scheduler, weights);
    let agent = lab.start_agent(&config("rr", [1, 1, 1, 1]))?;
    for backend in &lab.net.backends {
        let key = format!("{}:{PORT}", backend.link(Segment::Back).ipv4);
        backend_is(&agent, SERVICE, &key, BackendState::Up)?;
    }
    let ordinary = agent.program_tag("eth0")?;
    let (link, _) = agent.link("eth0")?;
    let before = agent.stats()?;
    let mut numbered = Numbered::start(&lab.net)?;

    numbered.during("`lb reload` of changed services", |numbered| {
        let reload = |config: Config| {
            agent.write_config(&config.to_yaml(&agent.socket()))?;
            agent.lb(&["reload"])?.ok()
        };
        for _ in 0..times {
            reload(config("rr", [1, 1, 1, 0]))?;
            numbered.none_new_to(3)?;
            reload(config("wrr", [3, 1, 1, 2]))?;
            reload(config("wlc", [0, 1, 5, 1]))?;
            numbered.none_new_to(0)?;
            let mut more = config("mh", [1, 2, 3, 4]);
            more.services.push(Service::tcp("another", VIP4, PORT + 1, addresses(lab, |l| l.ipv4.into())));
            reload(more)?;
            numbered.go_on("by mh")?;
            reload(config("rr", [1, 1, 1, 1]))?;
        }
        Ok(())
    })?;
    numbered.during("SIGTERM, and a start", |numbered| {
        replaced(&agent, numbered, times, Agent::terminate, Agent::start)
    })?;
    numbered.during("kill -9, and a start", |numbered| {
        replaced(&agent, numbered, times, Agent::kill9, Agent::start)
    })?;
    numbered.during("kill -9 as soon as a program is replaced", |numbered| {
        replaced(&agent, numbered, times, Agent::kill9, started_and_killed)
    })?;
    numbered.during("an upgrade: the program is of another build", |numbered| {
        for n in 0..times {
            let trace = Trace::start(lab, &agent, &format!("left{n}"), &["tcp", "--sample", "1/50"])?;
            agent.kill9()?;
            ensure!(agent.program_tag("eth0")? != ordinary, "it is the same build");
            numbered.go_on("by another build")?;
            agent.start()?;
            ensure!(agent.program_tag("eth0")? == ordinary, "it was not replaced");
            drop(trace);
        }
        Ok(())
    })?;
    numbered.during("flow tables of other sizes", |numbered| {
        for (ipv4, wide) in [(256, 64), (64, 16), (128, 16)] {
            resize(&agent, &format!("ipv4: {ipv4}k, wide: {wide}k"))?;
            settled(&agent, &[("ipv4", ipv4 << 10), ("wide", wide << 10)])?;
            numbered.go_on("in tables of other sizes")?;
        }
        resize(&agent, "ipv4: 64k, wide: 16k")?;
        agent.kill9()?;
        agent.start()?;
        settled(&agent, &[("ipv4", 64 << 10), ("wide", 16 << 10)])
    })?;
    numbered.during("`lb trace` in and out", |numbered| {
        for n in 0..times {
            let trace = Trace::start(lab, &agent, &format!("swap{n}"), &["tcp", "--sample", "1/50"])?;
            numbered.go_on("while they are traced")?;
            trace.interrupt()?;
            until_tag(&agent, ordinary, "the ordinary program")?;
        }
        Ok(())
    })?;

    let all = numbered.finish()?;
    let Tally { sent, flows, .. } = all;
    // Tells whether those that are missing came to the director.
    let counted = counted(&before, &agent.stats()?, all);
    ensure!(all == Tally { sent, flows, lost: 0, twice: 0, wrong: 0 }, "{all:?}; its counters: {counted:?}");
    ensure!(agent.link("eth0")?.0 == link, "there was a gap: it is another link");
    counted
}

/// Each time another agent, with packets in between.
fn replaced(
    agent: &Agent,
    numbered: &mut Numbered,
    times: usize,
    end: impl Fn(&Agent) -> Result<()>,
    start: impl Fn(&Agent) -> Result<()>,
) -> Result<()> {
    for _ in 0..times {
        let (_, program) = agent.link("eth0")?;
        end(agent)?;
        numbered.go_on("without an agent")?;
        start(agent)?;
        ensure!(agent.link("eth0")?.1 != program, "the program was not replaced");
        numbered.go_on("with the next agent")?;
    }
    Ok(())
}

/// One that is killed before it is ready, and its successor.
fn started_and_killed(agent: &Agent) -> Result<()> {
    let (_, program) = agent.link("eth0")?;
    agent.begin(&[])?;
    eventually(PATIENCE * 3, "another program", || {
        let now = agent.link("eth0")?.1;
        Ok(if now == program { Seen::NotYet(format!("{now}")) } else { Seen::Yes(()) })
    })?;
    agent.kill9()?;
    agent.start()
}

/// The director has counted what was sent, each packet once and no connection twice.
fn counted(before: &Stats, after: &Stats, Tally { sent, flows, .. }: Tally) -> Result<()> {
    let mut forwarded = 0;
    for (old, new) in before.verdicts.iter().zip(&after.verdicts) {
        let (name, packets) = (new.name.as_str(), new.packets - old.packets);
        if name.starts_with("forwarded") {
            forwarded += packets;
        }
        let misses = ["dropped", "answered", "event"].iter().any(|kind| name.starts_with(kind));
        ensure!(!misses || packets == 0, "{packets} packets: {name}");
    }
    ensure!(forwarded == sent as u64, "{forwarded} packets were forwarded, {sent} sent");
    let (packets, connections) = (after.total.packets, after.total.connections);
    ensure!(packets == sent as u64 && connections == flows as u64, "{:?}, not {sent}, {flows}", after.total);
    Ok(())
}

/// Every backend in three services.
fn config(lab: &Lab, mode: &str, scheduler: &'static str, weights: [u16; 4]) -> Config {
    let services = [
        (SERVICE, VIP4, "tcp", addresses(lab, |link| link.ipv4.into())),
        ("datagrams", VIP4, "udp", addresses(lab, |link| link.ipv4.into())),
        ("hello6", VIP6, "tcp", addresses(lab, |link| link.ipv6.into())),
    ];
    let services = services.map(|(name, vip, protocol, backends)| Service {
        protocol,
        scheduler,
        backends: backends.into_iter().zip(weights).collect(),
        ..Service::tcp(name, vip, PORT, [])
    });
    let interfaces = lab.net.director.links.iter().map(|link| (link.device.clone(), mode.to_owned()));
    Config { interfaces: interfaces.collect(), ..Config::on_eth0("lab", services.into()) }
}

fn addresses(lab: &Lab, address: fn(&Link) -> IpAddr) -> Vec<IpAddr> {
    lab.net.backends.iter().map(|backend| address(backend.link(Segment::Back))).collect()
}
