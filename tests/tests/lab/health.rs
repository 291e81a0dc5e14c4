//! Health checks: a backend that fails leaves, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb::api::types::{BackendState, BackendView, CheckState, Status};
use lb_tests::{
    clock::now,
    config::{Config, Service},
    hello::{Hello, Session, spread},
    lab::Lab,
    load::Load,
    topo::{Segment, Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is};

// Timeouts in these configurations are long: a busy machine must not fail what is healthy.

/// A port that nothing but checks go to.
const CHECKED: u16 = 7001;

/// The first `backends` backends, with these further keys.
fn config(lab: &Lab, backends: usize, more: &str) -> Config {
    let backends = lab.net.backends[..backends].iter().map(|backend| backend.ipv4());
    let service = Service { more: more.to_owned(), ..Service::tcp(SERVICE, VIP4, PORT, backends) };
    Config::on_eth0("lab", vec![service])
}

fn is(hello: &HelloLab, n: usize, state: BackendState) -> Result<()> {
    backend_is(&hello.agent, SERVICE, &hello.key(n), state)
}

fn detail(hello: &HelloLab, n: usize) -> Result<String> {
    Ok(hello.agent.backend(SERVICE, &hello.key(n))?.detail.unwrap_or_default())
}

/// Twenty new connections, all to this one.
fn only(hello: &HelloLab, server: &str) -> Result<()> {
    let answered = spread(hello.client(), HELLO, 20)?;
    ensure!(answered == [(server.to_owned(), 20)].into(), "{answered:?}");
    Ok(())
}

/// Waits until so many more attempts have ended.
fn more_attempts(load: &Load, count: usize) -> Result<()> {
    let goal = load.attempts().len() + count;
    eventually(PATIENCE, "the load to go on", || {
        let ended = load.attempts().len();
        Ok(if ended >= goal { Seen::Yes(()) } else { Seen::NotYet(format!("{ended} of {goal}")) })
    })
}

/// The backend's address is in both segments: behind eth1, as the routes say, is the backend, and behind eth0 a stranger.
#[test]
fn a_check_leaves_by_its_interface() {
    Lab::test(Topology::two_segments(1), |lab| {
        let (backend, stranger) = (lab.net.backends[0].link(Segment::Back).ipv4, lab.net.client());
        stranger.netns.ip(&format!("addr add {backend}/32 dev lo"))?;
        // Whoever hangs does so twice before it is down: with the time that is given back to late attempts, well within
        // our patience.
        let by = |kind: &str, interface: &str| {
            format!("{{{kind}: , interface: {interface}, interval: 200ms, timeout: 3s, rise: 1, fall: 2}}")
        };
        let checks = [by("tcp", "eth0"), by("tcp", "eth1"), by("ping", "eth0"), by("ping", "eth1")];
        let more = format!("checks: [{}]", checks.join(", "));
        let service = Service { more, ..Service::tcp(SERVICE, VIP4, PORT, [backend.into()]) };
        let mut hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service]))?;
        let key = format!("{backend}:{PORT}");
        let up = |hello: &HelloLab| backend_is(&hello.agent, SERVICE, &key, BackendState::Up);
        let fails = |hello: &HelloLab, why: &str, other: &str| {
            backend_is(&hello.agent, SERVICE, &key, BackendState::Down)?;
            eventually(PATIENCE, why, || {
                let detail = hello.agent.backend(SERVICE, &key)?.detail.unwrap_or_default();
                let is_so = detail.contains(why) && !detail.contains(other);
                Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(detail) })
            })
        };
        fails(&hello, "tcp by eth0: connection refused after ", "by eth1: ")?;
        let _server = Hello::start(stranger, PORT)?;
        up(&hello)?;
        stranger.netns.sysctl("ipv4/icmp_echo_ignore_all", "1")?;
        fails(&hello, "ping by eth0: no answer after ", "by eth1: ")?;
        stranger.netns.sysctl("ipv4/icmp_echo_ignore_all", "0")?;
        up(&hello)?;
        hello.servers.clear();
        fails(&hello, "tcp by eth1: connection refused after ", "by eth0: ")
    });
}

#[test]
fn a_dead_server_leaves_and_comes_back() {
    Lab::test(Topology::one_segment(2), |lab| {
        let config = config(lab, 2, "checks: [{tcp: , interval: 300ms, timeout: 5s, fall: 3, rise: 2}]");
        let mut hello = HelloLab::start_with(lab, &config)?;
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let load = Load::start(lab.net.client(), HELLO, 2, Duration::from_millis(8))?;
        more_attempts(&load, 50)?;
        let failed = load.attempts().iter().filter(|attempt| attempt.failed()).count();
        ensure!(failed == 0, "{failed} connections failed while both are healthy");

        drop(hello.servers.remove(0));
        is(&hello, 1, BackendState::Down)?;
        let left = now();
        // Whichever way found it first, the other one follows.
        let both = |view: &BackendView| view.checks.iter().all(|check| check.state == CheckState::Down);
        let view = eventually(PATIENCE, "both checks to fail", || {
            let view = hello.agent.backend(SERVICE, &hello.key(1))?;
            Ok(if both(&view) { Seen::Yes(view) } else { Seen::NotYet(format!("{view:?}")) })
        })?;
        let told = view.detail.context("a backend that is down says why")?;
        ensure!(told.starts_with("tcp: connection refused after ") && told.ends_with(" ms"), "{told}");
        ensure!(view.checks.len() == 2, "{:?}", view.checks);
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.unhealthy_backends == 1, "{status:#?}");
        for command in [&["backend", "list"][..], &["service", "show", SERVICE], &["status"]] {
            let text = hello.agent.lb(command)?.ok()?;
            ensure!(text.contains("down") && text.contains("tcp: connection refused after"), "{text}");
        }
        more_attempts(&load, 100)?;

        // The dead one stays out without an agent, and with the next one from its start on.
        let said_down = |log: &str| log.matches("backend is down").count();
        ensure!(said_down(&hello.agent.log()) == 1, "one transition is one line");
        hello.agent.kill9()?;
        more_attempts(&load, 50)?;
        hello.agent.start()?;
        ensure!(detail(&hello, 1)?.contains("connection refused"), "{}", detail(&hello, 1)?);
        is(&hello, 1, BackendState::Down)?;
        more_attempts(&load, 100)?;
        ensure!(said_down(&hello.agent.log()) == 1, "the next agent knew it: {}", hello.agent.log());
        let late: Vec<_> = load.attempts().into_iter().filter(|attempt| attempt.started > left).collect();
        ensure!(late.len() > 200, "only {} connections since it has left", late.len());
        let wrong: Vec<_> = late.iter().filter(|it| it.server.as_deref() != Some("slave2")).collect();
        ensure!(wrong.is_empty(), "since slave1 has left: {wrong:#?}");

        hello.servers.push(Hello::start(&lab.net.backends[0], PORT)?);
        is(&hello, 1, BackendState::Up)?;
        let back = now();
        ensure!(detail(&hello, 1)?.is_empty(), "{}", detail(&hello, 1)?);
        more_attempts(&load, 100)?;
        let attempts = load.finish()?;
        let failed: Vec<_> = attempts.iter().filter(|it| it.started > left && it.failed()).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        let served = attempts.iter().filter(|it| it.started > back);
        ensure!(served.filter(|it| it.server.as_deref() == Some("slave1")).count() > 20, "it is back");
        let log = hello.agent.log();
        // By whichever way was the last.
        let is_up = |line: &str| line.contains("backend is up: tcp") && line.contains(": connected in ");
        ensure!(log.lines().any(is_up), "{log}");
        Ok(())
    });
}

/// The check's own server ends while the service's goes on: what becomes of connections is seen by it.
#[test]
fn open_connections_of_an_unhealthy_backend_go_on_and_persistent_clients_move() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut checked =
            lab.net.backends.iter().map(|b| Hello::start(b, CHECKED)).collect::<Result<Vec<_>>>()?;
        let more =
            format!("persistence: 300, checks: [{{tcp: , port: {CHECKED}, interval: 200ms, timeout: 5s}}]");
        let hello = HelloLab::start_with(lab, &config(lab, 2, &more))?;
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let mut session = Session::open(hello.client(), HELLO)?;
        let (n, other) = if session.server == "slave1" { (1, "slave2") } else { (2, "slave1") };
        only(&hello, &session.server)?;
        drop(checked.remove(n - 1));
        is(&hello, n, BackendState::Down)?;
        session.echo(b"on a backend that is down")?;
        only(&hello, other)?;
        session.echo(b"still")?;
        // A drained one that is down as well is shown as what the operator did.
        hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(n)])?.ok()?;
        is(&hello, n, BackendState::Drained)?;
        ensure!(detail(&hello, n)?.contains("connection refused"), "{}", detail(&hello, n)?);
        only(&hello, other)
    });
}

#[test]
fn a_new_backend_gets_nothing_until_it_has_passed() {
    Lab::test(Topology::one_segment(3), |lab| {
        let config = config(lab, 2, "checks: [{tcp: , interval: 200ms, timeout: 5s}]");
        let mut hello = HelloLab::start_with(lab, &config)?;
        drop(hello.servers.pop());
        hello.agent.lb(&["backend", "add", SERVICE, &hello.address(3)])?.ok()?;
        let first = hello.agent.backend(SERVICE, &hello.key(3))?;
        ensure!(first.state != BackendState::Up, "{first:?}");
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        is(&hello, 3, BackendState::Down)?;
        let _server = Hello::start(&lab.net.backends[2], PORT)?;
        is(&hello, 3, BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 30)?;
        ensure!(answered.values().eq(&[10, 10, 10]), "{answered:?}");
        Ok(())
    });
}

#[test]
fn checks_come_and_go_by_reload_without_an_outage() {
    Lab::test(Topology::one_segment(2), |lab| {
        let checked = config(lab, 2, "checks: [{tcp: , interval: 200ms, timeout: 5s}]");
        let mut hello = HelloLab::start_with(lab, &config(lab, 2, ""))?;
        let load = Load::start(lab.net.client(), HELLO, 2, Duration::from_millis(8))?;
        more_attempts(&load, 20)?;
        hello.agent.write_config(&checked.to_yaml(&hello.agent.socket()))?;
        let told = hello.agent.lb(&["reload"])?.ok()?;
        ensure!(told.contains("checks changed from (none) to tcp every 200ms, rise 2, fall 3"), "{told}");
        for n in [1, 2] {
            let first = hello.agent.backend(SERVICE, &hello.key(n))?;
            ensure!(first.state == BackendState::Up && first.checks.len() == 2, "{first:?}");
        }
        more_attempts(&load, 100)?;
        let attempts = load.finish()?;
        let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.failed()).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        let save = hello.agent.lb(&["save"])?.ok()?;
        ensure!(save.contains("interval: 200ms"), "{save}");

        drop(hello.servers.remove(0));
        is(&hello, 1, BackendState::Down)?;
        hello.agent.write_config(&config(lab, 2, "").to_yaml(&hello.agent.socket()))?;
        hello.agent.lb(&["reload"])?.ok()?;
        is(&hello, 1, BackendState::Up)
    });
}

#[test]
fn a_failing_checker_does_not_empty_the_pool() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut checked =
            lab.net.backends.iter().map(|b| Hello::start(b, CHECKED)).collect::<Result<Vec<_>>>()?;
        let check = format!("{{tcp: , port: {CHECKED}, interval: 200ms, timeout: 5s}}");
        let more = format!("checks: [{check}], minimum_healthy: 50");
        let hello = HelloLab::start_with(lab, &config(lab, 2, &more))?;
        drop(checked.remove(0));
        is(&hello, 1, BackendState::Down)?;
        only(&hello, "slave2")?;
        // Now none is healthy: both are kept, and it is said.
        drop(checked.remove(0));
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        ensure!(
            detail(&hello, 1)?.starts_with("kept by minimum_healthy; tcp to port"),
            "{}",
            detail(&hello, 1)?
        );
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.warnings.iter().any(|it| it.contains("minimum_healthy")), "{:?}", status.warnings);
        let _back = Hello::start(&lab.net.backends[1], CHECKED)?;
        is(&hello, 1, BackendState::Down)?;
        only(&hello, "slave2")
    });
}

#[test]
fn a_backup_serves_while_nobody_else_can() {
    Lab::test(Topology::one_segment(3), |lab| {
        let mut config = config(lab, 3, "checks: [{tcp: , interval: 200ms, timeout: 5s}]");
        config.services[0].more_of = vec!["backup: false", "backup: false", "backup: true, checks: []"];
        let mut hello = HelloLab::start_with(lab, &config)?;
        is(&hello, 3, BackendState::Standby)?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        drop(hello.servers.remove(0));
        is(&hello, 1, BackendState::Down)?;
        only(&hello, "slave2")?;
        drop(hello.servers.remove(0));
        is(&hello, 2, BackendState::Down)?;
        is(&hello, 3, BackendState::Up)?;
        only(&hello, "slave3")?;
        hello.agent.kill9()?;
        hello.agent.start()?;
        only(&hello, "slave3")?;
        hello.servers.push(Hello::start(&lab.net.backends[0], PORT)?);
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 3, BackendState::Standby)?;
        only(&hello, "slave1")
    });
}
