//! `flows` changes on reload: the tables get other sizes under a thousand connections, and an agent may die meanwhile.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use lb::{api::types::Status, events::Kind};
use lb_tests::{
    agent::Agent,
    hello::{Session, spread},
    lab::Lab,
    load::Load,
    proc::{raise_file_limit, run_with},
    topo::{Node, Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    setup::{HELLO, HelloLab, SERVICE, config, happened, said, service, verdict},
    talk::{MISSES, Talk},
};

/// What `lb status` says while it lasts.
const CHANGING: &str = "the flow tables are changing their sizes";

#[test]
fn grown_and_shrunk_under_a_thousand_flows() {
    Lab::test(Topology::one_segment(2), |lab| {
        raise_file_limit()?;
        let mut config = config(lab, 2);
        let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
        config.services.push(lb_tests::config::Service { name: "hello6".to_owned(), ..sister });
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let mut talk = Talk::start(lab.net.client(), &[VIP4, VIP6])?;
        talk.wait_for_round("before the first change")?;
        let short = Load::start(lab.net.client(), HELLO, 1, Duration::from_millis(20))?;
        let before = agent.stats()?;
        let (link, _) = agent.link("eth0")?;
        for (ipv4, wide) in [(256, 64), (4096, 16), (16, 8), (64, 16)] {
            let sizes = format!("ipv4: {ipv4}k, wide: {wide}k");
            resize(agent, &sizes)?;
            talk.wait_for_round(&format!("while the tables change to {sizes}"))?;
            settled(agent, &[("ipv4", ipv4 << 10), ("wide", wide << 10)])?;
            let (begun, ended) = (happened(agent, Kind::ResizeBegin)?, happened(agent, Kind::ResizeEnd)?);
            ensure!(begun.seq < ended.seq, "{begun:?} {ended:?}");
            talk.wait_for_round(&format!("with {sizes}"))?;
        }
        ensure!(agent.link("eth0")?.0 == link, "there was a gap: it is another link");
        let after = agent.stats()?;
        for name in MISSES {
            let (old, new) = (verdict(&before, name)?, verdict(&after, name)?);
            ensure!(new == old, "{} packets ended as {name} while the tables changed", new - old);
        }
        let failed: Vec<_> = short.finish()?.into_iter().filter(|a| a.failed()).collect();
        ensure!(failed.is_empty(), "of the short connections: {failed:#?}");
        let active: u64 = agent.services()?.iter().flat_map(|s| &s.backends).map(|b| b.active).sum();
        ensure!(active == 1000, "{active} connections are counted as active");
        talk.finish()
    });
}

/// The flow of a removed backend holds the change up: it is not moved. So the agent dies in the middle for sure.
#[test]
fn an_agent_that_dies_meanwhile() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let mut sessions =
            (0..4).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"before"))?;
        agent.lb(&["backend", "del", SERVICE, &hello.address(2)])?.ok()?;
        // The others stay open: closed, their flows would end by themselves two minutes later.
        let (mut sessions, _removed): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|session| session.server == "slave1");
        ensure!(sessions.len() == 2, "two are slave1's");

        resize(agent, "ipv4: 4k, wide: 4k")?;
        let held_up = |when: &str| {
            eventually(PATIENCE, &format!("only the removed backend's flows to be left {when}"), || {
                let warnings = agent.json::<Status>(&["status"])?.warnings;
                let left = |said: &&String| said.contains(CHANGING) && said.contains(", 2 still in the old");
                let held = warnings.iter().any(|warning| left(&warning));
                Ok(if held { Seen::Yes(()) } else { Seen::NotYet(format!("{warnings:?}")) })
            })
        };
        held_up("before the agent is killed")?;
        ensure!(tables(agent)?.len() == 4, "both are there: {:?}", tables(agent)?);
        // Neither is the next change lost that comes meanwhile.
        resize(agent, "ipv4: 8k, wide: 4k")?;
        agent.kill9()?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"without an agent"))?;
        ensure!(spread(hello.client(), HELLO, 4)?.values().eq(&[4]), "new ones come in without an agent");
        agent.start()?;
        held_up("after the next one started")?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"with the next agent"))?;
        agent.lb(&["conn", "flush", "--backend", &hello.key(2)])?.ok()?;
        settled(agent, &[("ipv4", 8 << 10), ("wide", 4 << 10)])?;
        said(&agent.log(), &["going on with that"])?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"in the new tables"))?;
        let backend = agent.backend(SERVICE, &hello.key(1))?;
        ensure!(backend.active == 2, "{backend:?}");
        Ok(())
    });
}

#[test]
fn sizes_below_what_is_in_use_are_refused() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let _sessions = (0..20).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        eventually(PATIENCE, "the sweeper to have seen them", || {
            let used = agent.stats()?.flows.iter().map(|table| table.used).sum::<u64>();
            Ok(if used == 20 { Seen::Yes(()) } else { Seen::NotYet(format!("{used}")) })
        })?;
        let before = tables(agent)?;
        change_file(agent, "ipv4: 16, wide: 16")?;
        let error = agent.lb_fails(6, &["reload"])?;
        said(&error, &["flows.ipv4: 16", "20 flows", "nothing was changed"])?;
        ensure!(tables(agent)? == before, "{:?}", tables(agent)?);
        resize(agent, "ipv4: 32, wide: 16")?;
        settled(agent, &[("ipv4", 32), ("wide", 16)])
    });
}

pub fn resize(agent: &Agent, sizes: &str) -> Result<()> {
    change_file(agent, sizes)?;
    // Two programs are loaded and verified for it.
    run_with(agent.lb_command(&["reload", "--keep-runtime"])?, "", PATIENCE * 3)?.ok()?;
    Ok(())
}

fn change_file(agent: &Agent, sizes: &str) -> Result<()> {
    let text = fs::read_to_string(agent.config_path())?;
    let old = text.lines().find(|line| line.starts_with("flows: ")).context("no flows in the file")?;
    agent.write_config(&text.replacen(old, &format!("flows: {{{sizes}}}"), 1))
}

/// Waits until the tables have these rated capacities, and the old ones are gone.
pub fn settled(agent: &Agent, wanted: &[(&str, u64)]) -> Result<()> {
    eventually(PATIENCE * 3, &format!("the tables to be {wanted:?}"), || {
        let stats = agent.stats()?;
        let rated: Vec<_> = stats.flows.iter().map(|table| (table.table.as_str(), table.rated)).collect();
        let (pins, status) = (tables(agent)?, agent.json::<Status>(&["status"])?);
        // A trace that runs is no trouble of theirs.
        let troubles = status.warnings.iter().filter(|warning| !warning.contains("lb trace")).count();
        let done = rated == wanted && pins.len() == 2 && troubles == 0;
        Ok(if done {
            Seen::Yes(())
        } else {
            Seen::NotYet(format!("{rated:?} {pins:?} {:?}", status.warnings))
        })
    })
}

/// Pins of flow tables.
fn tables(agent: &Agent) -> Result<Vec<String>> {
    let maps = agent.pins().join(format!("v{}", lb_common::SCHEMA_VERSION));
    let names = fs::read_dir(maps)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.retain(|name| name.starts_with("FLOWS"));
    names.sort();
    Ok(names)
}
