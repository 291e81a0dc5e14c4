//! `lb save`: the running state as a file that reproduces it.

use std::fs;

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, Status};
use lb_tests::{
    agent::Agent,
    lab::Lab,
    topo::{Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HelloLab, PORT, SERVICE, backend_is, decided};

#[test]
fn saved_file_alone_reproduces_the_running_state() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &*hello.agent;
        change_everything(&hello)?;
        all_answer(agent)?;
        let expected = agent.services()?;
        let weights: Vec<_> = expected[0].backends.iter().map(|b| (b.weight, b.state)).collect();
        let drained = (1, BackendState::Drained);
        ensure!(weights == [(3, BackendState::Up), (70, BackendState::Up), drained], "{expected:#?}");

        let saved = agent.config_path().with_file_name("saved.yaml").to_string_lossy().into_owned();
        agent.lb(&["save", &saved])?.ok()?;
        agent.lb(&["check-config", &saved])?.ok()?;
        let printed = agent.lb(&["save"])?.ok()?;
        ensure!(printed == fs::read_to_string(&saved)?, "to a file and to stdout it is the same");

        // A successor on the pins: even counters are the same.
        agent.terminate()?;
        begin_with(agent, &printed)?;
        all_answer(agent)?;
        ensure!(agent.services()? == expected, "{:#?}\nshould be\n{expected:#?}", agent.services()?);
        // And one that begins with nothing but the file.
        agent.detach()?;
        begin_with(agent, &printed)?;
        all_answer(agent)?;
        ensure!(decided(&agent.services()?) == decided(&expected), "{:#?}", agent.services()?);
        ensure!(agent.lb(&["save"])?.ok()? == printed, "saving what was saved gives the same file");
        Ok(())
    });
}

/// One of every change that the command line can make.
fn change_everything(hello: &HelloLab) -> Result<()> {
    let (vip4, vip6) = (format!("{VIP4}:53"), format!("[{VIP6}]:{PORT}"));
    let [one, two, three] = [1, 2, 3].map(|n| hello.address(n));
    let sisters: Vec<_> = hello.net.backends.iter().map(|b| b.ipv6().to_string()).collect();
    for command in [
        &["backend", "add", SERVICE, &three, "-w", "3", "-x", "1000", "-y", "500"][..],
        &["backend", "edit", SERVICE, &one, "-w", "70"],
        &["backend", "drain", SERVICE, &two],
        &["service", "edit", SERVICE, "-s", "wrr", "--timeout", "tcp=1h", "--sloppy-tcp"],
        &["service", "edit", SERVICE, "--add-endpoint", "tcp/172.18.14.101:7000-7099", "-p", "300"],
        &["service", "edit", SERVICE, "-p", "300", "--persistence-scope", "endpoint"],
        &["timeout", "set", "0", "30", "0", "--tcp-close", "5"],
        &["service", "add", "six", "-t", &vip6],
        &["backend", "add", "six", &sisters[0]],
        &["backend", "add", "six", &sisters[1], "-w", "0"],
        &["backend", "drain", "six", &sisters[0]],
        &["service", "add", "-u", &vip4, "-s", "wrr", "--ops", "--expire-nodest", "drop"],
        &["backend", "add", &format!("udp/{vip4}"), &two, "-w", "65535", "-x", "7"],
    ] {
        hello.agent.lb(command)?.ok()?;
    }
    backend_is(&hello.agent, SERVICE, &hello.key(3), BackendState::Up)?;
    backend_is(&hello.agent, &format!("udp/{vip4}"), &format!("{two}:53"), BackendState::Up)
}

/// Waits until every backend has answered: who does not get connections, because he is drained say, is not waited for by
/// [`backend_is`], nor by a start.
fn all_answer(agent: &Agent) -> Result<()> {
    eventually(PATIENCE, "all backends to answer", || {
        let services = agent.services()?;
        let mut backends = services.iter().flat_map(|service| &service.backends);
        let all = backends.all(|backend| backend.mac.is_some() && backend.detail.is_none());
        Ok(if all { Seen::Yes(()) } else { Seen::NotYet(format!("{services:#?}")) })
    })
}

/// A start with this file and no memory of commands.
fn begin_with(agent: &Agent, config: &str) -> Result<()> {
    // Not there if the agent before had no changes to remember.
    let _ = fs::remove_file(agent.state().join("overlay.json"));
    agent.write_config(config)?;
    agent.start()?;
    let status: Status = agent.json(&["status"])?;
    ensure!(status.overlay.is_empty() && status.warnings.is_empty(), "{status:#?}");
    Ok(())
}
