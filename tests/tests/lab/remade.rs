//! The director's interface is deleted and made again: a driver that is loaded anew, a NIC that is probed again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    topo::{Topology, port},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass,
};

use crate::setup::{HELLO, HelloLab, SERVICE, backend_is};

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
        make_anew(lab)?;
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

/// eth0 under another index.
fn make_anew(lab: &Lab) -> Result<()> {
    let (director, switch) = (&lab.net.director, &lab.net.switch);
    let link = &director.links[0];
    director.netns.ip(&format!("link del {}", link.device))?;
    link.plug(&director.role, &director.netns, switch)?;
    let port = port(&director.role, link);
    xdp_pass::attach(switch, &port, &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)
}
