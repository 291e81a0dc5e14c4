//! `lb timeout`, and a service's own timeouts.

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{ConnList, Reloaded, Status},
    model::Timeouts,
};
use lb_tests::{hello::Session, lab::Lab, topo::Topology};

use crate::setup::{HELLO, HelloLab, SERVICE};

#[test]
fn timeouts_by_command_hold_and_are_kept_as_every_change() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let first_line = || -> Result<String> {
            Ok(agent.lb(&["timeout", "get"])?.ok()?.lines().next().unwrap_or_default().to_owned())
        };
        ensure!(first_line()? == "Timeout (tcp tcpfin udp): 900 120 300", "{}", first_line()?);
        agent.lb(&["timeout", "set", "30m", "0", "60", "--tcp-syn", "7"])?.ok()?;
        let expected = Timeouts { tcp: 1800, udp: 60, tcp_syn: 7, ..Timeouts::default() };
        let get = || agent.json::<Timeouts>(&["timeout", "get"]);
        ensure!(get()? == expected && first_line()? == "Timeout (tcp tcpfin udp): 1800 120 60");
        let mut session = Session::open(hello.client(), HELLO)?;
        expires(&hello, 1700..=1800)?;

        agent.kill9()?;
        agent.start()?;
        ensure!(get()? == expected, "after a crash");
        let saved = agent.lb(&["save"])?.ok()?;
        ensure!(saved.contains("timeouts:\n  tcp: 1800\n  tcp_syn: 7\n  udp: 60\n"), "{saved}");

        // A service's own come first, for its next packets.
        agent.lb(&["service", "edit", SERVICE, "--timeout", "tcp=1h,tcp_fin=5"])?.ok()?;
        session.echo(b"the next packet")?;
        expires(&hello, 3500..=3600)?;
        let shown = agent.lb(&["service", "show", SERVICE])?.ok()?;
        ensure!(shown.contains("timeouts of its own (seconds): tcp 3600, tcp_fin 5\n"), "{shown}");
        let saved = agent.lb(&["save"])?.ok()?;
        ensure!(saved.contains("    timeouts:\n      tcp: 3600\n      tcp_fin: 5\n"), "{saved}");

        let reloaded: Reloaded = agent.json(&["reload"])?;
        let listed = |words: &str| reloaded.discarded.iter().any(|change| change.contains(words));
        ensure!(listed("tcp set to 1800") && listed("timeouts.tcp set to 3600"), "{reloaded:#?}");
        ensure!(get()? == Timeouts::default() && agent.json::<Status>(&["status"])?.overlay.is_empty());
        agent.lb_fails(2, &["timeout", "set", "900", "120"])?;
        agent.lb_fails(2, &["timeout", "set", "--tcp", "32d"]).map(drop)
    });
}

/// The only connection expires in so many seconds.
fn expires(hello: &HelloLab, within: std::ops::RangeInclusive<u32>) -> Result<()> {
    let list: ConnList = hello.agent.json(&["conn", "list"])?;
    let conn = list.conns.first().context("no connection")?;
    ensure!(list.total == 1 && within.contains(&conn.expires), "{list:#?} is not within {within:?}");
    Ok(())
}
