//! `lb reload`: a good file is applied whole, a bad one not at all.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    load::Load,
    topo::Topology,
};

use crate::setup::{HELLO, HelloLab, SERVICE, backend_is, config};

#[test]
fn broken_files_change_nothing() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let load = Load::start(lab.net.client(), HELLO, 2, Duration::from_millis(5))?;
        let good = fs::read_to_string(hello.agent.config_path())?;
        let before = standing(&hello)?;
        let third = config(lab, 3).to_yaml(&hello.agent.socket());
        // Each also adds a backend, which must not come.
        let broken = [
            ("scheduler: rr", "sheduler: rr", "sheduler"),
            ("weight: 1", "weight: 70000", "65535"),
            ("protocol: tcp", "protocol: ftp", "ftp"),
            ("persistence: 0,", "persistence: 0, ]", ""),
            ("172.18.14.71", "172.18.14.710", "172.18.14.710"),
        ];
        for (right, wrong, named) in broken {
            let text = third.replacen(right, wrong, 1);
            ensure!(text != third, "{right:?} is not in the file");
            hello.agent.write_config(&text)?;
            let error = hello.agent.lb(&["reload"])?.failed()?;
            ensure!(error.contains(named), "{wrong:?} should be named: {error}");
            let line = text.lines().position(|l| l.contains(wrong)).unwrap_or_default() + 1;
            let place = format!("{}:{line}:", hello.agent.config_path().display());
            let column = error.split_once(&place).and_then(|(_, rest)| rest.chars().next());
            ensure!(column.is_some_and(|c| c.is_ascii_digit()), "{place}COLUMN is not in the error: {error}");
            ensure!(standing(&hello)? == before, "{wrong:?} changed something");
        }
        hello.agent.write_config(&good)?;
        hello.agent.lb(&["reload"])?.ok()?;
        ensure!(standing(&hello)? == before, "the old file again is the old state");
        let failed: Vec<_> = load.finish()?.into_iter().filter(|a| a.failed()).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        Ok(())
    });
}

#[test]
fn good_file_is_applied_and_cuts_nothing() {
    Lab::test(Topology::one_segment(3), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut session = Session::open(hello.client(), HELLO)?;
        hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(2)])?.ok()?;
        hello.agent.write_config(&config(lab, 3).to_yaml(&hello.agent.socket()))?;
        hello.agent.lb(&["reload"])?.ok()?;
        session.echo(b"still there?")?;
        // Its MAC is asked for; until it is known, nobody is sent there.
        backend_is(&hello.agent, SERVICE, &hello.key(3), BackendState::Up)?;
        // Drains survive a reload.
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave1".to_owned(), 10), ("slave3".to_owned(), 10)].into(), "{answered:?}");
        Ok(())
    });
}

/// What a reload could change: service, backend, weight, state.
fn standing(hello: &HelloLab) -> Result<Vec<String>> {
    let services = hello.agent.services()?;
    let backends = services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
    Ok(backends
        .map(|(s, b)| {
            format!("{} {} {} {} {} {:?}", s.name, s.endpoint, s.scheduler, b.key, b.weight, b.state)
        })
        .collect())
}
