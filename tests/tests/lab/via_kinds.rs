//! Health checks of real servers through the VIP, each kind to its service's own port; and what `via` says.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc};

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, CheckState};
use lb_tests::{
    agent::Agent,
    certificate::Certificate,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    mail::{self, GREETER},
    mysql::{Mysql, PASSWORD},
    nginx::{HTTP2, HTTPS, HTTPS2, Nginx},
    proc::Proc,
    stores::{Postgres, REDIS_PORT, redis},
    topo::{Topology, VIP4, host_prefix},
};

use crate::{
    setup::{PORT, SERVICE, said},
    via::{BLACK, GOOD, ways},
};

/// A busy machine, and a packet that was lost, must not fail what is healthy.
const TIMING: &str = "interval: 300ms, timeout: 3s, rise: 2, fall: 2";

fn config(lab: &Lab, port: u16, checks: &str) -> Config {
    let more = format!("checks: [{checks}]");
    Config::on_eth0(
        "lab",
        vec![Service { more, ..Service::tcp(SERVICE, VIP4, port, [lab.net.backends[0].ipv4()]) }],
    )
}

/// A service of a server's port, whose only backend that server is.
struct Served<'lab> {
    lab: &'lab Lab,
    agent: Arc<Agent>,
    key: String,
}

impl<'lab> Served<'lab> {
    fn start(lab: &'lab Lab, port: u16, checks: &str) -> Result<Self> {
        lab.start_realservers(&[VIP4])?;
        let agent = lab.start_agent(&config(lab, port, checks))?;
        Ok(Self { lab, agent, key: format!("{}:{port}", lab.net.backends[0].ipv4()) })
    }

    /// The VIP on the backend's lo, or not.
    fn vip(&self, verb: &str) -> Result<()> {
        self.lab.net.backends[0].netns.ip(&format!("addr {verb} {} dev lo", host_prefix(VIP4)))
    }

    /// The VIP goes and comes back: what each way, of each check, is then. `found` is the detail of a passing one, and the
    /// same both ways.
    fn loses_its_vip(&self, found: &str) -> Result<()> {
        let up = ways(&self.agent, &self.key, GOOD)?;
        for check in &up.checks {
            ensure!(check.result.as_ref().is_some_and(|it| it.starts_with(found)), "{found}: {check:?}");
        }
        self.vip("del")?;
        let told = ways(&self.agent, &self.key, BLACK)?;
        ensure!(told.state == BackendState::Down, "{told:?}");
        let why = format!(
            "through the VIP {VIP4}: it answers on its own address, but not here: no answer (is {VIP4} on its lo?"
        );
        said(&told.detail.unwrap_or_default(), &[&why])?;
        self.vip("add")?;
        ways(&self.agent, &self.key, GOOD).map(drop)
    }

    /// It is refused both ways.
    fn refuses(&self) -> Result<()> {
        let told = ways(&self.agent, &self.key, &[CheckState::Down; 2])?;
        ensure!(told.state == BackendState::Down, "{told:?}");
        said(&told.detail.unwrap_or_default(), &["connection refused"])
    }
}

/// A check of one server, which then ends.
fn is_seen(lab: &Lab, mut server: Proc, port: u16, check: &str, found: &str) -> Result<()> {
    let served = Served::start(lab, port, &format!("{{{check}, {TIMING}}}"))?;
    served.loses_its_vip(found)?;
    server.kill9()?;
    served.refuses()
}

#[test]
fn nginx_over_tls_and_by_http2() {
    let http2 = |tls: &str| format!("http{tls}: {{path: /health, http2: true, body: \"^all is well\"}}");
    for port in [HTTPS, HTTP2, HTTPS2] {
        Lab::test(Topology::one_segment(1), |lab| {
            let web = Nginx::start(&lab.scope, &lab.net.backends[0])?;
            let ca = web.ca.display();
            let check = match port {
                HTTPS => format!("https: {{path: /health, host: www.lab, verify: true, ca: {ca}}}"),
                HTTP2 => http2(""),
                _ => http2("s"),
            };
            is_seen(lab, web.proc, port, &check, "status 200")
        });
    }
}

/// Its name is not the certificate's: so that it is verified is seen both ways, too.
#[test]
fn a_certificate_is_verified() {
    Lab::test(Topology::one_segment(1), |lab| {
        let web = Nginx::start(&lab.scope, &lab.net.backends[0])?;
        let ca = web.ca.display();
        let check = format!("{{https: {{path: /health, sni: other.lab, verify: true, ca: {ca}}}, {TIMING}}}");
        let served = Served::start(lab, HTTPS, &check)?;
        let view = ways(&served.agent, &served.key, &[CheckState::Down; 2])?;
        for check in view.checks {
            said(&check.result.unwrap_or_default(), &["TLS: invalid peer certificate: "])?;
        }
        Ok(())
    });
}

#[test]
fn a_mail_server_with_and_without_tls() {
    for starttls in [false, true] {
        Lab::test(Topology::one_segment(1), |lab| {
            let node = &lab.net.backends[0];
            let web = Nginx::start(&lab.scope, node)?;
            let server = mail::greeter(&lab.scope, node, &web)?;
            let tls = format!("starttls: true, sni: www.lab, verify: true, ca: {}", web.ca.display());
            let check = if starttls { format!("smtp: {{{tls}}}") } else { "smtp: {}".to_owned() };
            is_seen(lab, server, GREETER, &check, "greeting of ")
        });
    }
}

#[test]
fn redis_with_its_password_and_role() {
    Lab::test(Topology::one_segment(1), |lab| {
        let server = redis(&lab.scope, &lab.net.backends[0], &["--requirepass", "secret"])?;
        is_seen(lab, server, REDIS_PORT, "redis: {password: secret, role: primary}", "master")
    });
}

#[test]
fn postgres_over_tls() {
    Lab::test(Topology::one_segment(1), |lab| {
        // The server, of another user, is to find its key.
        let dir = lab.scope.dir().join("tls");
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let tls = Certificate::make(&dir, "db.lab")?;
        let server = Postgres::start_with(&lab.scope, &lab.net.backends[0], false, Some(&tls))?;
        let login = format!(
            "user: check, password: secret, role: primary, query: SELECT 1, tls: on, sni: db.lab, verify: true, ca: {}",
            tls.certificate.display()
        );
        let check = format!("postgres: {{{login}}}");
        is_seen(lab, server.proc, Postgres::PORT, &check, "not in recovery")
    });
}

#[test]
fn mysql_over_tls() {
    Lab::test(Topology::one_segment(1), |lab| {
        let server = Mysql::start(&lab.scope, &lab.net.backends[0], &[])?;
        let login = format!("user: checker, password: {PASSWORD}, role: primary, tls: on");
        is_seen(lab, server.proc, 3306, &format!("mysql: {{{login}}}"), "writable")
    });
}

const CHOICES: [(u16, &str); 6] =
    [(PORT, "rip"), (PORT, "vip"), (PORT, "both"), (PORT + 1, "rip"), (PORT + 1, "vip"), (PORT + 1, "both")];

/// To the service's port, and to another one, of which no client is served: there the default would be `rip`.
#[test]
fn each_way_may_be_chosen() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        let own = node.ipv4();
        let served = Served::start(lab, PORT, "{tcp: }")?;
        for (port, via) in CHOICES {
            let config = config(lab, PORT, &format!("{{tcp: , port: {port}, via: {via}, {TIMING}}}"));
            served.agent.write_config(&config.to_yaml(&served.agent.socket()))?;
            served.agent.lb(&["reload"])?.ok()?;
            for at in [own, VIP4] {
                let _server = Hello::start_on(node, SocketAddr::new(at, port))?;
                let state = |way| if way == at { CheckState::Up } else { CheckState::Down };
                let (rip, vip) = (state(own), state(VIP4));
                let wanted = match via {
                    "rip" => &[rip][..],
                    "vip" => &[vip],
                    _ => &[rip, vip],
                };
                let view = ways(&served.agent, &served.key, wanted)?;
                let is_up = wanted.iter().all(|state| *state == CheckState::Up);
                ensure!((view.state == BackendState::Up) == is_up, "{via} to {at}: {view:?}");
                ensure!(view.checks.len() == wanted.len(), "{via}: {view:?}");
            }
        }
        Ok(())
    });
}
