//! Checks of the real servers that have no topic of their own: PostgreSQL, Redis, SMTP, DNS; and pings.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    certificate::Certificate,
    config::{Config, Service},
    dns,
    hello::{Session, spread},
    lab::Lab,
    mail,
    nginx::Nginx,
    proc,
    stores::{Postgres, REDIS_PORT, redis},
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, backend_is_down, check_finds};

/// A busy machine must not fail what is healthy.
const TIMING: &str = "interval: 200ms, timeout: 3s, rise: 1";

/// Servers that say their name on every backend; their checks go elsewhere.
fn start<'lab>(lab: &'lab Lab, checks: &str) -> Result<HelloLab<'lab>> {
    let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
    let service =
        Service { more: format!("checks: [{checks}]"), ..Service::tcp(SERVICE, VIP4, PORT, backends) };
    HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service]))
}

fn up(hello: &HelloLab, n: usize) -> Result<()> {
    backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Up)
}

/// Waits until the backend is down for this reason.
fn down(hello: &HelloLab, n: usize, why: &str) -> Result<()> {
    backend_is_down(&hello.agent, SERVICE, &hello.key(n), why)
}

fn finds(hello: &HelloLab, n: usize, check: usize, found: &str) -> Result<()> {
    check_finds(&hello.agent, SERVICE, &hello.key(n), check, found)
}

#[test]
fn redis_is_asked_for_its_life_and_its_role() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [first, second] = &lab.net.backends[..] else { unreachable!("there are two") };
        let mut primary = redis(&lab.scope, first, &["--requirepass", "secret"])?;
        let replica_of = format!("{} {REDIS_PORT}", first.ipv4());
        let follow = ["--requirepass", "secret", "--masterauth", "secret", "--replicaof", &replica_of];
        let replica = redis(&lab.scope, second, &follow)?;
        let hello = start(
            lab,
            &format!("{{redis: {{password: secret, role: replica}}, port: {REDIS_PORT}, {TIMING}}}"),
        )?;
        down(&hello, 1, "the primary, no replica")?;
        up(&hello, 2)?;
        replica.signal(Signal::SIGSTOP)?;
        down(&hello, 2, "redis to port 6379: AUTH: no answer after")?;
        replica.signal(Signal::SIGCONT)?;
        up(&hello, 2)?;
        // It has old data from now on.
        primary.kill9()?;
        down(&hello, 2, "the link to the primary is down")?;
        down(&hello, 1, "connection refused")?;
        let _open = redis(&lab.scope, first, &[])?;
        down(&hello, 1, "error: ")?;
        ensure!(!hello.agent.log().contains("secret"), "{}", hello.agent.log());
        Ok(())
    });
}

#[test]
fn postgres_lets_its_users_in_and_says_its_role() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [first, second] = &lab.net.backends[..] else { unreachable!("there are two") };
        let primary = Postgres::start(&lab.scope, first, false)?;
        let _standby = Postgres::start(&lab.scope, second, true)?;
        let login = "password: secret, role: primary, query: SELECT 1";
        let hello = start(
            lab,
            &format!(
                "{{postgres: {{user: check}}, port: 5432, {TIMING}}}, \
                 {{postgres: {{user: check, {login}}}, port: 5432, {TIMING}}}, \
                 {{postgres: {{user: old, password: secret}}, port: 5432, {TIMING}}}"
            ),
        )?;
        up(&hello, 1)?;
        down(&hello, 2, "in recovery, not the primary")?;
        finds(&hello, 2, 0, "answers to a login")?;
        finds(&hello, 2, 2, "logged in")?;
        let sql = |statement: &str| {
            let mut psql = Command::new("psql");
            psql.arg("-h").arg(&primary.dir).args(["-U", "postgres", "-c", statement]);
            proc::run(psql)?.ok()
        };
        sql("ALTER ROLE \"check\" PASSWORD 'other'")?;
        down(&hello, 1, "error 28P01: password authentication failed for user \"check\"")?;
        sql("ALTER ROLE \"check\" PASSWORD 'secret'")?;
        up(&hello, 1)?;
        primary.proc.signal(Signal::SIGSTOP)?;
        down(&hello, 1, "no answer after")?;
        primary.proc.signal(Signal::SIGCONT)?;
        up(&hello, 1)?;
        // Nobody may take what the checks took: all of their sessions end, each as soon as its process comes to it.
        eventually(PATIENCE, "two sessions at most", || {
            let sessions = sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lb'")?;
            let are_few =
                sessions.lines().nth(2).is_some_and(|n| n.trim().parse::<u32>().is_ok_and(|n| n <= 2));
            Ok(if are_few { Seen::Yes(()) } else { Seen::NotYet(sessions) })
        })?;
        ensure!(!hello.agent.log().contains("secret"), "{}", hello.agent.log());
        Ok(())
    });
}

#[test]
fn postgres_that_ends_refuses_until_it_is_started_again() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        let mut postgres = Postgres::start(&lab.scope, node, false)?;
        let login = "user: check, password: secret, role: primary";
        let hello = start(lab, &format!("{{postgres: {{{login}}}, port: {}, {TIMING}}}", Postgres::PORT))?;
        up(&hello, 1)?;
        // At once, all of its processes, as in a crash; from SIGKILL of one the others recover by themselves.
        postgres.proc.signal(Signal::SIGQUIT)?;
        postgres.proc.wait(PATIENCE)?;
        down(&hello, 1, "postgres login to port 5432: connection refused")?;
        postgres.again(&lab.scope, node)?;
        up(&hello, 1)
    });
}

#[test]
fn a_mail_server_greets_and_speaks_tls() {
    Lab::test(Topology::one_segment(2), |lab| {
        let web = lab.net.backends.iter().map(|node| Nginx::start(&lab.scope, node));
        let web = web.collect::<Result<Vec<_>>>()?;
        let servers =
            lab.net.backends.iter().zip(&web).map(|(node, web)| mail::greeter(&lab.scope, node, web));
        let mut servers = servers.collect::<Result<Vec<_>>>()?;
        let ca = web[0].ca.display();
        let hello = start(
            lab,
            &format!(
                "{{smtp: {{helo: director.lab}}, port: 25, {TIMING}}}, \
                 {{smtp: {{starttls: true, sni: www.lab, verify: true, ca: {ca}}}, port: 25, {TIMING}}}"
            ),
        )?;
        up(&hello, 1)?;
        // The second one has another certificate.
        down(&hello, 2, "smtp to port 25: TLS: ")?;
        servers[0].signal(Signal::SIGSTOP)?;
        down(&hello, 1, "no answer after")?;
        servers[0].signal(Signal::SIGCONT)?;
        up(&hello, 1)?;
        servers[0].kill9()?;
        down(&hello, 1, "connection refused")
    });
}

#[test]
fn dns_is_asked_for_a_name_and_a_host_for_an_echo() {
    Lab::test(Topology::one_segment(2), |lab| {
        let servers = lab.net.backends.iter().map(|node| dns::start(&lab.scope, node, &[node.ipv4()]));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let first = lab.net.backends[0].ipv4().to_string().replace('.', "\\\\.");
        let hello = start(
            lab,
            &format!(
                "{{dns: {{name: {}, type: A, answer: \"^{first}$\"}}, port: 53, interface: eth0, {TIMING}}}, \
                 {{udp: {{send: x}}, port: 53, {TIMING}}}, {{ping: , {TIMING}}}",
                dns::NAME
            ),
        )?;
        up(&hello, 1)?;
        down(&hello, 2, "response code 0, 1 records, and none matches")?;
        finds(&hello, 2, 2, "echo reply")?;
        lab.net.backends[0].netns.sysctl("ipv4/icmp_echo_ignore_all", "1")?;
        down(&hello, 1, "ping: no answer after")?;
        lab.net.backends[0].netns.sysctl("ipv4/icmp_echo_ignore_all", "0")?;
        up(&hello, 1)?;
        servers[0].signal(Signal::SIGSTOP)?;
        down(&hello, 1, "dns who.lab A to port 53 by eth0: no answer after")?;
        servers[0].signal(Signal::SIGKILL)?;
        down(&hello, 1, "udp to port 53: connection refused")
    });
}

fn psql(postgres: &Postgres, statements: &[&str]) -> Result<String> {
    let mut psql = Command::new("psql");
    psql.arg("-h").arg(&postgres.dir).args(["-U", "postgres", "-d", "check"]);
    // Each by itself: some take no part in a transaction.
    psql.args(statements.iter().flat_map(|statement| ["-c", *statement]));
    proc::run(psql)?.ok()
}

#[test]
fn a_query_of_postgres_must_give_a_row_whatever_is_in_it() {
    Lab::test(Topology::one_segment(1), |lab| {
        let postgres = Postgres::start(&lab.scope, &lab.net.backends[0], false)?;
        let login = "user: check, password: secret, query: SELECT n FROM asked";
        let hello = start(lab, &format!("{{postgres: {{{login}}}, port: 5432, {TIMING}}}"))?;
        down(&hello, 1, "error 42P01: relation \"asked\" does not exist")?;
        psql(&postgres, &["CREATE TABLE asked (n INT)", "GRANT SELECT ON asked TO \"check\""])?;
        down(&hello, 1, "the query gave no row")?;
        psql(&postgres, &["INSERT INTO asked VALUES (NULL)"])?;
        up(&hello, 1)?;
        psql(&postgres, &["DELETE FROM asked"])?;
        down(&hello, 1, "the query gave no row")?;
        psql(&postgres, &["INSERT INTO asked VALUES (0)"])?;
        up(&hello, 1)
    });
}

/// TLS of PostgreSQL, and a password that stands in a file.
#[test]
fn postgres_over_tls_shows_a_certificate_and_a_password_file_is_read_each_time() {
    Lab::test(Topology::one_segment(1), |lab| {
        let postgres = Postgres::start(&lab.scope, &lab.net.backends[0], false)?;
        let password = lab.scope.dir().join("password");
        let login = format!("user: check, password_file: {}, tls: on", password.display());
        let hello = start(lab, &format!("{{postgres: {{{login}}}, port: 5432, {TIMING}}}"))?;
        down(&hello, 1, "the server has no TLS")?;
        let own = postgres.certificate("db.lab")?;
        let other = lab.scope.dir().join("other");
        fs::create_dir(&other)?;
        let other = Certificate::make(&other, "db.lab")?;
        psql(
            &postgres,
            &[
                &format!("ALTER SYSTEM SET ssl_cert_file = '{}'", own.certificate.display()),
                &format!("ALTER SYSTEM SET ssl_key_file = '{}'", own.key.display()),
                "ALTER SYSTEM SET ssl = on",
                "SELECT pg_reload_conf()",
            ],
        )?;
        // The file is looked for with each attempt.
        down(&hello, 1, &format!("password_file {}: ", password.display()))?;
        fs::write(&password, "wrong\n")?;
        down(&hello, 1, "error 28P01: password authentication failed for user \"check\"")?;
        fs::write(&password, "secret\n")?;
        up(&hello, 1)?;
        let reload = |from: &str, to: &str| {
            let config = hello.agent.lb(&["save"])?.ok()?;
            ensure!(config.contains(from), "{from} is not in\n{config}");
            hello.agent.write_config(&config.replace(from, to))?;
            hello.agent.lb(&["reload"])?.ok()
        };
        let (own, other) = (own.certificate.display(), other.certificate.display());
        let verified =
            format!("tls: on\n          sni: db.lab\n          verify: true\n          ca: {other}");
        reload("tls: on", &verified)?;
        down(&hello, 1, "TLS: invalid peer certificate: ")?;
        reload(&format!("ca: {other}"), &format!("ca: {own}"))?;
        up(&hello, 1)?;
        reload("sni: db.lab", "sni: other.lab")?;
        down(&hello, 1, "TLS: invalid peer certificate: ")?;
        ensure!(!hello.agent.log().contains("secret"), "{}", hello.agent.log());
        Ok(())
    });
}

#[test]
fn a_file_says_the_weight_and_nothing_else() {
    Lab::test(Topology::one_segment(2), |lab| {
        let dir = lab.scope.dir().join("weights");
        fs::create_dir(&dir)?;
        let write = |hello: &HelloLab, n: usize, text: &str| fs::write(dir.join(hello.key(n)), text);
        let hello = start(lab, &format!("{{file: {{path: {}}}, {TIMING}}}", dir.display()))?;
        let weighs = |weight: u16| {
            eventually(PATIENCE, &format!("a weight of {weight}"), || {
                let view = hello.agent.backend(SERVICE, &hello.key(1))?;
                let is_so = view.health_weight == weight;
                Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
            })
        };
        down(&hello, 1, "no such file")?;
        write(&hello, 1, "7\n")?;
        write(&hello, 2, "1\n")?;
        up(&hello, 1)?;
        up(&hello, 2)?;
        weighs(7)?;
        write(&hello, 1, "0")?;
        weighs(0)?;
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered == [("slave2".to_owned(), 10)].into(), "{answered:?}");
        write(&hello, 1, "a lot\x07")?;
        down(&hello, 1, "says \"a lot\\u{7}\", which is no weight")?;
        write(&hello, 1, "12")?;
        up(&hello, 1)?;
        weighs(12)?;
        write(&hello, 1, "down")?;
        down(&hello, 1, "the file says down")
    });
}

/// What its check says of it ends no connection, and nobody new comes.
#[test]
fn a_backend_that_is_inhibited_keeps_its_connections() {
    Lab::test(Topology::one_segment(2), |lab| {
        let dir = lab.scope.dir().join("weights");
        fs::create_dir(&dir)?;
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let more =
            format!("inhibit_on_failure: true, checks: [{{file: {{path: {}}}, {TIMING}}}]", dir.display());
        let service = Service { more, ..Service::tcp(SERVICE, VIP4, PORT, backends) };
        let hello = HelloLab::prepare(lab, &Config::on_eth0("lab", vec![service]))?;
        (1..=2).try_for_each(|n| fs::write(dir.join(hello.key(n)), "1"))?;
        hello.agent.start()?;
        up(&hello, 1)?;
        up(&hello, 2)?;
        let mut sessions = [Session::open(hello.client(), HELLO)?, Session::open(hello.client(), HELLO)?];
        fs::write(dir.join(hello.key(1)), "down")?;
        eventually(PATIENCE, "the file's failure", || {
            let view = hello.agent.backend(SERVICE, &hello.key(1))?;
            let fails = view.health_weight == 0 && view.detail.as_ref().is_some_and(|it| it.contains("down"));
            Ok(if fails { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
        })?;
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered == [("slave2".to_owned(), 10)].into(), "{answered:?}");
        sessions.iter_mut().try_for_each(|session| session.echo(b"still here"))?;
        fs::write(dir.join(hello.key(1)), "1")?;
        up(&hello, 1)?;
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered.values().eq(&[5, 5]), "{answered:?}");
        sessions.iter_mut().try_for_each(|session| session.echo(b"and after"))
    });
}
