//! A second director that does not have the VIP, as a backup, while the first one serves by it.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use lb::api::types::CheckStats;
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    doctor::{doctor_command, says},
    finds,
    hello::{Hello, spread},
    lab::Lab,
    topo::{Node, Topology, VIP4, host_prefix, port},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass,
};

use crate::{
    setup::{HELLO, PORT, SERVICE},
    via::{BLACK, GOOD, ways},
};

/// Attempts, of each director, in which none may fail.
const ATTEMPTS: u64 = 20;

/// Both ask the same backends for the same VIP, each from its own address.
#[test]
fn their_checks_through_the_vip_do_not_disturb_each_other() {
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| {
        let _servers = lab.net.backends.iter().map(|b| Hello::start(b, PORT)).collect::<Result<Vec<_>>>()?;
        lab.start_realservers(&[VIP4])?;
        let backends: Vec<IpAddr> = lab.net.backends.iter().map(Node::ipv4).collect();
        let keys: Vec<String> = backends.iter().map(|backend| format!("{backend}:{PORT}")).collect();
        let master = lab.start_agent(&config("master", Some("eth0"), &backends))?;
        let backup = lab.start_agent_on(second(lab)?, &config("backup", None, &backends))?;
        let both = [&master, &backup];
        for (agent, key) in both.into_iter().flat_map(|agent| keys.iter().map(move |key| (agent, key))) {
            ways(agent, key, GOOD)?;
        }
        // Clients are served meanwhile, and by the master alone.
        let answered = spread(&lab.net.client().netns, HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        both.into_iter().try_for_each(attempts_pass)?;
        ensure!(backup.stats()?.total.connections == 0, "a client came to the backup");

        asked(lab, &master, &backup)?;

        // Each sees by itself what becomes of a backend.
        let netns = &lab.net.backends[0].netns;
        netns.ip(&format!("addr del {} dev lo", host_prefix(VIP4)))?;
        both.into_iter().try_for_each(|agent| ways(agent, &keys[0], BLACK).map(drop))?;
        both.into_iter().try_for_each(|agent| ways(agent, &keys[1], GOOD).map(drop))?;
        netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
        both.into_iter().try_for_each(|agent| ways(agent, &keys[0], GOOD).map(drop))?;

        // And goes on without the other.
        master.detach()?;
        attempts_pass(&backup).context("the backup alone")
    });
}

/// What the doctor says on either: that of a backup knows nothing of its master yet.
fn asked(lab: &Lab, master: &Arc<Agent>, backup: &Arc<Agent>) -> Result<()> {
    finds!(doctor_command(master, "master")?)?;
    let found = finds!(doctor_command(backup, "backup")?, VipTaken, VipNotHere)?;
    says(&found[0], &[&lab.net.director.links[0].mac, "the director that this one is the backup of"])
}

/// A host of clients, as a director. Without a program at the switch's end of its link its XDP_TX would not arrive.
fn second(lab: &Lab) -> Result<&Node> {
    let node = &lab.net.clients[1];
    let port = port(&node.role, &node.links[0]);
    xdp_pass::attach(&lab.net.switch, &port, &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)?;
    Ok(node)
}

fn config(instance: &str, add_to: Option<&str>, backends: &[IpAddr]) -> Config {
    // A lost packet is sent again after a second: it must not fail what is healthy.
    let more = "checks: [{tcp: , interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}]".to_owned();
    let service = Service { more, ..Service::tcp(SERVICE, VIP4, PORT, backends.iter().copied()) };
    Config { add_to: add_to.map(str::to_owned), ..Config::on_eth0(instance, vec![service]) }
}

/// So many through the VIP end from here on, and none fails.
fn attempts_pass(agent: &Arc<Agent>) -> Result<()> {
    let through_vip = || -> Result<CheckStats> {
        let checks = agent.stats()?.checks;
        let found = checks.iter().find(|it| it.kind == "tcp" && it.via_vip).cloned();
        found.with_context(|| format!("no checks through the VIP: {checks:?}"))
    };
    let before = through_vip()?;
    let after = eventually(PATIENCE, &format!("{ATTEMPTS} attempts"), || {
        let now = through_vip()?;
        let done = now.ended - before.ended;
        Ok(if done >= ATTEMPTS { Seen::Yes(now) } else { Seen::NotYet(format!("{done}")) })
    })?;
    ensure!(after.failed == before.failed, "{before:?}, then {after:?}");
    Ok(())
}
