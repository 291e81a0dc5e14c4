//! `lb doctor` about an agent that may do less than its configuration needs.

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    config::Config,
    doctor::says,
    finds,
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HelloLab, SERVICE, backend_is, config};

const UNIT: &str = include_str!("../../../packaging/systemd/lb.service");

/// As setpriv(1) writes those that the unit grants.
fn of_the_unit() -> String {
    let granted = UNIT.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = granted.flat_map(str::split_whitespace).filter_map(|name| name.strip_prefix("CAP_"));
    names.fold("-all".to_owned(), |all, name| format!("{all},+{}", name.to_lowercase()))
}

/// Checks that take every capability there is a use for.
fn with_checks(lab: &Lab, checks: &str) -> Config {
    let mut config = config(lab, 1);
    config.services[0].more = format!("checks: [{checks}]");
    config
}

const EXEC: &str = "{exec: {command: [/bin/true]}, interval: 300ms, timeout: 10s}";
const PING: &str = "{ping: , interval: 300ms, timeout: 10s}";

#[test]
fn the_unit_grants_what_checks_need() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &with_checks(lab, &format!("{EXEC}, {PING}, {{tcp: }}")))?;
        hello.agent.start_with_capabilities(&of_the_unit())?;
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Up)?;
        finds!(&hello.agent).map(drop)
    });
}

#[test]
fn an_agent_that_cannot_become_nobody() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &with_checks(lab, EXEC))?;
        hello.agent.start_with_capabilities("-setuid,-setgid,-kill")?;
        result_is(&hello, "/bin/true cannot be run: operation not permitted")?;
        let found = finds!(&hello.agent, AgentLacksCapability, NoBackend, CheckWrong)?;
        let services = format!("CAP_SETUID (exec checks of {SERVICE})");
        let fix = "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL";
        says(&found[0], &["agent lab", "CapEff", &services, "systemctl edit lb", fix])?;
        ensure!(found[0].severity == "error", "{found:#?}");
        // What it says to do ends it.
        hello.agent.terminate()?;
        hello.agent.start()?;
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Up)?;
        finds!(&hello.agent).map(drop)
    });
}

/// Neither way: this namespace's `ping_group_range` is the kernel's default, as that of the checks through the VIP.
#[test]
fn an_agent_that_may_not_ping() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &with_checks(lab, PING))?;
        let director = &lab.net.director.netns;
        hello.agent.start_with_capabilities("-net_raw")?;
        for range in ["1 0", "0 0"] {
            director.sysctl("ipv4/ping_group_range", range)?;
            result_is(&hello, "operation not permitted")?;
            let found = finds!(&hello.agent, AgentLacksCapability, NoBackend, CheckWrong)?;
            says(&found[0], &[&format!("CAP_NET_RAW (ping checks of {SERVICE})")])?;
        }
        Ok(())
    });
}

/// Some check of the backend has this result.
fn result_is(hello: &HelloLab, words: &str) -> Result<()> {
    eventually(PATIENCE, words, || {
        let view = hello.agent.backend(SERVICE, &hello.key(1))?;
        let mut results = view.checks.iter().filter_map(|check| check.result.as_deref());
        let is = view.state == BackendState::Down && results.any(|result| result.contains(words));
        Ok(if is { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
    })
}
