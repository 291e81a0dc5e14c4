//! SIGHUP, and what a reload makes of changes by command.

use std::fs;

use anyhow::{Context, Result, ensure};
use lb::api::types::{BackendState, Reloaded, Status};
use lb_tests::{hello::spread, lab::Lab, topo::Topology};

use crate::setup::{self, HELLO, HelloLab, SERVICE, config, decided};

#[test]
fn hang_up_applies_a_good_file_and_refuses_a_bad_one() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let third = config(lab, 3).to_yaml(&agent.socket());
        agent.write_config(&third)?;
        agent.hang_up()?;
        setup::backend_is(agent, SERVICE, &hello.key(3), BackendState::Up)?;
        ensure!(spread(hello.client(), HELLO, 12)?.values().eq(&[4, 4, 4]));

        let before = decided(&agent.services()?);
        let bad = third.replacen("weight: 1", "wieght: 1", 1).replacen("scheduler: rr", "scheduler: wrr", 1);
        agent.write_config(&bad)?;
        let line = bad.lines().position(|line| line.contains("wieght")).context("not in the file")? + 1;
        let place = format!("{}:{line}:", agent.config_path().display());
        agent.hang_up()?;
        let log = agent.log();
        let said =
            log.lines().find(|line| line.contains(&place)).with_context(|| format!("no {place} in {log}"))?;
        let column = said.split_once(&place).and_then(|(_, rest)| rest.chars().next());
        ensure!(column.is_some_and(|c| c.is_ascii_digit()), "no column: {said}");
        ensure!(said.contains("wieght") && said.contains("ERROR"), "{said}");
        ensure!(decided(&agent.services()?) == before, "the bad file changed something");
        ensure!(spread(hello.client(), HELLO, 12)?.values().eq(&[4, 4, 4]));
        Ok(())
    });
}

#[test]
fn reload_keeps_drains_and_lists_what_it_discards() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["backend", "drain", SERVICE, &hello.address(2)])?.ok()?;
        agent.lb(&["backend", "add", SERVICE, &hello.address(3), "-w", "5"])?.ok()?;
        setup::backend_is(agent, SERVICE, &hello.key(3), BackendState::Up)?;

        let kept: Reloaded = agent.json(&["reload", "--keep-runtime"])?;
        ensure!(kept.discarded.is_empty() && kept.changes.is_empty(), "{kept:#?}");
        ensure!(overlay(&hello)? == 2 && agent.services()?[0].backends.len() == 3);

        let reloaded: Reloaded = agent.json(&["reload"])?;
        ensure!(
            reloaded.discarded.len() == 1 && reloaded.discarded[0].contains(&hello.key(3)),
            "{reloaded:#?}"
        );
        ensure!(reloaded.changes.len() == 1 && reloaded.changes[0].contains(&hello.key(3)), "{reloaded:#?}");
        let stands = || {
            ensure!(agent.services()?[0].backends.len() == 2 && overlay(&hello)? == 1);
            ensure!(agent.backend(SERVICE, &hello.key(2))?.state == BackendState::Drained);
            let answered = spread(hello.client(), HELLO, 6)?;
            ensure!(answered == [("slave1".to_owned(), 6)].into(), "{answered:?}");
            Ok(())
        };
        stands().context("after the reload")?;
        agent.kill9()?;
        agent.start()?;
        stands().context("after a crash: the journal must have followed the reload")
    });
}

/// The same by signal: there is nobody to tell but the log.
#[test]
fn hang_up_logs_what_it_discards() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.lb(&["backend", "add", SERVICE, &hello.address(2)])?.ok()?;
        hello.agent.hang_up()?;
        let log = hello.agent.log();
        let discarded = log.lines().find(|line| line.contains("discarded")).context(log.clone())?;
        ensure!(discarded.contains("WARN") && discarded.contains(&hello.key(2)), "{discarded}");
        ensure!(hello.agent.services()?[0].backends.len() == 1);
        Ok(())
    });
}

/// What a running agent cannot change is refused, and nothing else of the file is applied either.
#[test]
fn reload_refuses_what_needs_a_restart() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let before = agent.services()?;
        let good = fs::read_to_string(agent.config_path())?;
        let third = config(lab, 3).to_yaml(&agent.socket());
        for (old, new, named) in [
            ("mode: native", "mode: generic", "interfaces"),
            ("flows:", "limits: {services: 99}\nflows:", "limits"),
            ("instance: lab", "instance: other", "instance"),
            ("add_to: eth0", "add_to: eth9", "eth9"),
        ] {
            let text = third.replacen(old, new, 1);
            ensure!(text != third, "{old:?} is not in the file");
            agent.write_config(&text)?;
            let error = agent.lb_fails(6, &["reload"])?;
            ensure!(error.contains(named), "{named} should be named: {error}");
            ensure!(agent.services()? == before, "{new:?} changed something");
        }
        agent.write_config(&good)
    });
}

fn overlay(hello: &HelloLab) -> Result<usize> {
    Ok(hello.agent.json::<Status>(&["status"])?.overlay.len())
}
