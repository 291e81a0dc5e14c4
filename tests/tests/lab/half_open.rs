//! tcp checks that open half of a connection: real servers do not hear of them, and they see what a whole one sees.

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, CheckState};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    mariadb,
    topo::{Topology, VIP4, host_prefix, port},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    doctor::end,
    mysql_lab::MysqlLab,
    setup::{HelloLab, PORT, SERVICE, said},
    via::{BLACK, GOOD, ways},
};

/// A busy machine, and a packet that was lost, must not fail what is healthy.
const TIMING: &str = "interval: 100ms, timeout: 3s, rise: 2, fall: 2";

/// Enough for a few that a busy machine has let become whole to be few.
const MANY: u64 = 40;

/// Waits until so many attempts of tcp checks more have passed, each way if there are two.
fn until_passed(agent: &Agent, ways: usize) -> Result<()> {
    let passed = || -> Result<Vec<u64>> {
        let checks = agent.stats()?.checks;
        Ok(checks.iter().filter(|it| it.kind == "tcp").map(|it| it.ended - it.failed).collect())
    };
    let before = passed()?;
    ensure!(before.len() == ways, "{before:?} of {ways} ways");
    eventually(PATIENCE, "many checks", || {
        let now = passed()?;
        let are_many = before.iter().zip(&now).all(|(before, now)| now - before >= MANY);
        Ok(if are_many { Seen::Yes(()) } else { Seen::NotYet(format!("{now:?} after {before:?}")) })
    })
}

fn hello<'lab>(lab: &'lab Lab, half_open: bool) -> Result<HelloLab<'lab>> {
    let more = format!("checks: [{{tcp: {{half_open: {half_open}}}, {TIMING}}}]");
    let service = Service { more, ..Service::tcp(SERVICE, VIP4, PORT, [lab.net.backends[0].ipv4()]) };
    HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service]))
}

/// Both ways: of whole ones it accepts each, which also shows that it would.
#[test]
fn a_server_accepts_whole_ones_and_hardly_any_half_open_one() {
    for half_open in [false, true] {
        Lab::test(Topology::one_segment(1), |lab| {
            let hello = hello(lab, half_open)?;
            ways(&hello.agent, &hello.key(1), GOOD)?;
            let accepted = || hello.servers[0].accepted().len() as u64;
            let before = accepted();
            until_passed(&hello.agent, 2)?;
            if half_open {
                // Of twice as many: where the agent has no CPU for 200 ms the kernel acknowledges first.
                ensure!(accepted() - before < MANY, "{} are accepted", accepted() - before);
                return Ok(());
            }
            eventually(PATIENCE, "all to be accepted", || {
                let accepted = accepted() - before;
                Ok(if accepted >= 2 * MANY { Seen::Yes(()) } else { Seen::NotYet(accepted.to_string()) })
            })
        });
    }
}

#[test]
fn what_is_closed_gone_or_without_its_vip_fails() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut hello = hello(lab, true)?;
        let (key, node) = (hello.key(1), &lab.net.backends[0]);
        let down = [CheckState::Down; 2];
        let good = |hello: &HelloLab| {
            let view = ways(&hello.agent, &key, GOOD)?;
            ensure!(view.state == BackendState::Up, "{view:?}");
            Ok(())
        };
        good(&hello)?;
        end(hello.servers.remove(0), lab, node)?;
        let view = ways(&hello.agent, &key, &down)?;
        said(&view.detail.unwrap_or_default(), &["tcp half-open", "connection refused"])?;
        hello.servers.push(Hello::start(node, PORT)?);
        good(&hello)?;

        let cable = port(&node.role, &node.links[0]);
        lab.net.switch.ip(&format!("link set dev {cable} down"))?;
        let view = ways(&hello.agent, &key, &down)?;
        ensure!(view.state == BackendState::Down, "{view:?}");
        lab.net.switch.ip(&format!("link set dev {cable} up"))?;
        good(&hello)?;

        node.netns.ip(&format!("addr del {} dev lo", host_prefix(VIP4)))?;
        let view = ways(&hello.agent, &key, BLACK)?;
        said(&view.detail.unwrap_or_default(), &["through the VIP", "but not here: no answer (is "])?;
        node.netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
        good(&hello)
    });
}

/// MariaDB counts who connects, and blocks who hangs up at its greeting too often: nobody has connected.
#[test]
fn mariadb_counts_no_connection() {
    for half_open in [false, true] {
        Lab::test(Topology::one_segment(1), |lab| {
            let server = mariadb::start(&lab.scope, &lab.net.backends[0])?;
            let more = format!("checks: [{{tcp: {{half_open: {half_open}}}, {TIMING}}}]");
            let mysql = MysqlLab::of(lab, vec![server], &more)?;
            mysql.is(1, BackendState::Up)?;
            let before = mysql.connections(1)?;
            until_passed(&mysql.agent, 2)?;
            let counted = mysql.connections(1)? - before;
            ensure!((counted < MANY) == half_open, "{counted} are counted");
            Ok(())
        });
    }
}
