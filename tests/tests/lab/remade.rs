//! The director's interface is deleted and made again: a driver that is loaded anew, a NIC that is probed again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    topo::{Link, Topology, VIP4, host_prefix, port},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass,
};

use crate::setup::{HELLO, HelloLab, SERVICE, backend_is, config, xdp_program_of};

/// TCP's retransmissions back off meanwhile.
const LIMIT: Duration = Duration::from_secs(90);

/// With the VIP and without the program the host would refuse the packets of its connections.
#[test]
fn the_program_comes_before_the_vip() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut session = Session::open(hello.client(), HELLO)?;
        session.set_limit(LIMIT)?;
        session.echo(b"before")?;
        make_anew(lab, &lab.net.director.links[0])?;
        let since = eventually(PATIENCE, "the VIP to be added again", || {
            let log = hello.agent.log();
            let (_, since) = log.split_once("was deleted and made again").unwrap_or_default();
            let is_there = since.contains("added the VIP");
            Ok(if is_there { Seen::Yes(since.to_owned()) } else { Seen::NotYet(since.to_owned()) })
        })?;
        let (before, _) = since.split_once("added the VIP").context("it was there")?;
        ensure!(before.contains("the XDP program is attached"), "the VIP came first:\n{since}");
        session.echo(b"its connection was not cut")?;
        [1, 2]
            .into_iter()
            .try_for_each(|n| backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Up))?;
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[5, 5]));
        Ok(())
    });
}

/// One that takes no program keeps no other one without, and gets no VIP.
#[test]
fn an_interface_that_takes_no_program() {
    Lab::test(Topology::two_segments(1), |lab| {
        let mut config = config(lab, 1);
        config.interfaces.push(("eth1".to_owned(), "native".to_owned()));
        let hello = HelloLab::start_with(lab, &config)?;
        let director = &lab.net.director;
        // A bridge has no native XDP.
        director.netns.ip("link del eth0\nlink add eth0 type bridge\n")?;
        make_anew(lab, &director.links[1])?;
        eventually(PATIENCE, "eth1 to be attached to again", || {
            let program = xdp_program_of(&director.netns, "eth1")?;
            Ok(if program.is_empty() { Seen::NotYet(hello.agent.log()) } else { Seen::Yes(()) })
        })?;
        eventually(PATIENCE, "it to be said that eth0 is not", || {
            let log = hello.agent.log();
            Ok(if log.contains("network failed: attaching anew") { Seen::Yes(()) } else { Seen::NotYet(log) })
        })?;
        let there = director.netns.run("ip", &["addr", "show", "dev", "eth0"])?.ok()?;
        ensure!(!there.contains(&host_prefix(VIP4)), "{there}");
        Ok(())
    });
}

/// udev, or an operator. Since Linux 6.2 that is possible while the device is up.
#[test]
fn a_renamed_interface_forwards_on() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let director = &lab.net.director.netns;
        let mut session = Session::open(hello.client(), HELLO)?;
        director.ip("link set dev eth0 name uplink")?;
        eventually(PATIENCE, "the agent to see it", || {
            let log = hello.agent.log();
            Ok(if log.contains("eth0 has another name now") { Seen::Yes(()) } else { Seen::NotYet(log) })
        })?;
        // It has acted on it when it answers.
        hello.agent.lb(&["status"])?.ok()?;
        session.echo(b"its connection was not cut")?;
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[5, 5]));
        director.ip("link set dev uplink name eth0")
    });
}

/// Under another index.
fn make_anew(lab: &Lab, link: &Link) -> Result<()> {
    let (director, switch) = (&lab.net.director, &lab.net.switch);
    director.netns.ip(&format!("link del {}", link.device))?;
    link.plug(&director.role, &director.netns, switch)?;
    let port = port(&director.role, link);
    xdp_pass::attach(switch, &port, &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)
}
