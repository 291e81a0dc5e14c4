//! http and https checks of a real nginx, and programs that check.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, BackendView};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    lab::Lab,
    nginx::{HTTP, HTTP2, HTTPS, HTTPS2, Nginx, PICKY, TEAPOT},
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::setup::{backend_is, backend_is_down, check_finds};

fn down(agent: &Agent, key: &str, why: &str) -> Result<()> {
    backend_is_down(agent, "web", key, why)
}

#[test]
fn nginx_is_asked_with_and_without_tls() {
    Lab::test(Topology::one_segment(2), |lab| {
        let servers =
            lab.net.backends.iter().map(|node| Nginx::start(&lab.scope, node)).collect::<Result<Vec<_>>>()?;
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let timing = "interval: 200ms, timeout: 3s, rise: 1";
        let ca = servers[0].ca.display();
        let more = format!(
            "checks: [{{http: {{path: /health, body: \"^all is\"}}, {timing}}}, \
             {{https: {{path: /health, host: www.lab, verify: true, ca: {ca}}}, port: {HTTPS}, {timing}}}]"
        );
        let service = Service { more, ..Service::tcp("web", VIP4, HTTP, backends) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = |n: usize| format!("{}:{HTTP}", lab.net.backends[n - 1].ipv4());
        backend_is(&agent, "web", &key(1), BackendState::Up)?;
        // The second one has another certificate.
        down(&agent, &key(2), "https GET /health to port 443: TLS: ")?;
        check_finds(&agent, "web", &key(2), 0, "status 200")?;

        fs::write(&servers[0].page, "nothing is well\n")?;
        down(&agent, &key(1), "http GET /health: the body (16 bytes) does not match after")?;
        fs::remove_file(&servers[0].page)?;
        down(&agent, &key(1), "http GET /health: status 404 after")?;
        fs::write(&servers[0].page, "all is well again\n")?;
        backend_is(&agent, "web", &key(1), BackendState::Up)?;

        // It hangs: the kernel still accepts connections for it.
        servers[0].proc.signal(Signal::SIGSTOP)?;
        down(&agent, &key(1), "http GET /health: no answer after")?;
        servers[0].proc.signal(Signal::SIGCONT)?;
        backend_is(&agent, "web", &key(1), BackendState::Up)
    });
}

#[test]
fn nginx_that_is_killed_refuses_until_it_is_started_again() {
    Lab::test(Topology::one_segment(2), |lab| {
        let servers = lab.net.backends.iter().map(|node| Nginx::start(&lab.scope, node));
        let mut servers = servers.collect::<Result<Vec<_>>>()?;
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let timing = "interval: 200ms, timeout: 3s, rise: 1";
        let more = format!(
            "checks: [{{http: {{path: /health}}, {timing}}}, {{https: {{path: /health}}, port: {HTTPS}, {timing}}}]"
        );
        let service = Service { more, ..Service::tcp("web", VIP4, HTTP, backends) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = |n: usize| format!("{}:{HTTP}", lab.net.backends[n - 1].ipv4());
        (1..=2).try_for_each(|n| backend_is(&agent, "web", &key(n), BackendState::Up))?;
        servers[0].proc.kill9()?;
        down(&agent, &key(1), "connection refused after")?;
        let refused = |view: &BackendView| {
            let mut results = view.checks.iter().map(|check| check.result.as_deref());
            results.all(|result| result.is_some_and(|it| it.starts_with("connection refused")))
        };
        eventually(PATIENCE, "each check to be refused", || {
            let view = agent.backend("web", &key(1))?;
            Ok(if refused(&view) { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
        })?;
        backend_is(&agent, "web", &key(2), BackendState::Up)?;
        servers[0] = Nginx::start(&lab.scope, &lab.net.backends[0])?;
        backend_is(&agent, "web", &key(1), BackendState::Up)
    });
}

/// What each of these keys says is in the request: without it the server answers with another status.
#[test]
fn nginx_gets_the_request_that_is_configured() {
    Lab::test(Topology::one_segment(1), |lab| {
        let web = Nginx::start(&lab.scope, &lab.net.backends[0])?;
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let request = format!(
            "path: {PICKY}, method: OPTIONS, headers: [\"X-Check: deep\"], host: app.lab, status: [100-199, {TEAPOT}]"
        );
        let (timing, ca) = ("interval: 200ms, timeout: 3s, rise: 1", web.ca.display());
        let more = format!(
            "checks: [{{http: {{{request}}}, {timing}}}, \
             {{https: {{{request}, sni: www.lab, verify: true, ca: {ca}}}, port: {HTTPS}, {timing}}}]"
        );
        let service = Service { more, ..Service::tcp("web", VIP4, HTTP, backends) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = format!("{}:{HTTP}", lab.net.backends[0].ipv4());
        backend_is(&agent, "web", &key, BackendState::Up)?;
        let config = fs::read_to_string(agent.config_path())?;
        let reload = |config: &str| -> Result<()> {
            agent.write_config(config)?;
            agent.lb(&["reload"])?.ok().map(drop)
        };
        let verified = format!("sni: www.lab, verify: true, ca: {ca}");
        let variants = [
            ("method: OPTIONS, ", "", "http GET /picky: status 405 after"),
            ("X-Check: deep", "X-Check: flat", "http OPTIONS /picky: status 403 after"),
            ("host: app.lab, ", "", "http OPTIONS /picky: status 404 after"),
            ("418]", "419]", "http OPTIONS /picky: status 418 after"),
            ("sni: www.lab, ", "", "https OPTIONS /picky to port 443: TLS: invalid peer certificate: "),
            (&verified, "sni: other.lab", "https OPTIONS /picky to port 443: status 421 after"),
        ];
        for (from, to, why) in variants {
            ensure!(config.contains(from), "{from} is not in\n{config}");
            reload(&config.replace(from, to))?;
            down(&agent, &key, why)?;
            reload(&config)?;
            backend_is(&agent, "web", &key, BackendState::Up)?;
        }
        Ok(())
    });
}

#[test]
fn nginx_speaks_http2_and_has_the_digest() {
    Lab::test(Topology::one_segment(1), |lab| {
        let web = Nginx::start(&lab.scope, &lab.net.backends[0])?;
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let timing = "interval: 200ms, timeout: 3s, rise: 1";
        // Of "all is well\n", by sha256sum and md5sum.
        let [sha, md5] = [
            "d40b628baf7f757149f5b6d6d6aca317d478ef3a29433064d21cfdd06fb33b8d",
            "2670f929ce8c93af815ba0ae8fd591ff",
        ];
        let header = "expect_headers: [\"Content-Length: ^12$\"]";
        let more = format!(
            "checks: [{{http: {{path: /health, http2: true, digest: {sha}, {header}}}, port: {HTTP2}, {timing}}}, \
             {{https: {{path: /health, http2: true, digest: {md5}}}, port: {HTTPS2}, {timing}}}]"
        );
        let service = Service { more, ..Service::tcp("web", VIP4, HTTP, backends) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = format!("{}:{HTTP}", lab.net.backends[0].ipv4());
        backend_is(&agent, "web", &key, BackendState::Up)?;
        fs::write(&web.page, "all is fine\n")?;
        down(&agent, &key, "http GET /health to port 8080: the body (12 bytes) has the digest ")?;
        down(&agent, &key, "https GET /health to port 8443: the body (12 bytes) has the digest ")?;
        fs::write(&web.page, "all is well\n")?;
        backend_is(&agent, "web", &key, BackendState::Up)?;
        // One that speaks HTTP/1.1 alone is told from one that is broken.
        let config =
            agent.lb(&["save"])?.ok()?.replace("port: 8443", "port: 443").replace("port: 8080", "port: 80");
        agent.write_config(&config)?;
        agent.lb(&["reload"])?.ok()?;
        down(&agent, &key, "https GET /health to port 443: TLS: ")
    });
}

#[test]
fn a_program_says_whether_and_with_what_weight() {
    Lab::test(Topology::one_segment(1), |lab| {
        let dir = readable_dir(lab)?;
        let (script, code) = (dir.join("check"), dir.join("code"));
        fs::write(&code, "0\n")?;
        let text = format!("#!/bin/sh\n[ $(id -un) = nobody ] || exit 1\nexit $(cat {})\n", code.display());
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        lab.start_realservers(&[VIP4])?;
        let more = format!(
            "checks: [{{exec: {{command: [{}], dynamic: true}}, interval: 200ms, timeout: 10s}}]",
            script.display()
        );
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let service = Service { more, ..Service::tcp("web", VIP4, HTTP, backends) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = format!("{}:{HTTP}", lab.net.backends[0].ipv4());
        backend_is(&agent, "web", &key, BackendState::Up)?;
        let weighs = |weight: u16| {
            eventually(PATIENCE, &format!("a weight of {weight}"), || {
                let view = agent.backend("web", &key)?;
                let is = view.health_weight == weight && view.state != BackendState::Down;
                Ok(if is { Seen::Yes(view) } else { Seen::NotYet(format!("{view:?}")) })
            })
        };
        fs::write(&code, "42\n")?;
        weighs(40)?;
        let list = agent.lb(&["backend", "list"])?.ok()?;
        ensure!(list.contains(" 40/1 ") && list.contains("exit code 42 in"), "{list}");
        fs::write(&code, "2\n")?;
        ensure!(weighs(0)?.state == BackendState::Quiesced, "weight 0 is no failure");
        fs::write(&code, "0\n")?;
        weighs(1)?;
        fs::write(&code, "1\n")?;
        down(&agent, &key, "exit code 1 after")
    });
}

/// A directory that everybody may read, as the lab's own need not be.
fn readable_dir(lab: &Lab) -> Result<std::path::PathBuf> {
    let dir = lab.scope.dir().join("scripts");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}
