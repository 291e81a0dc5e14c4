//! Logins of mysql checks: over TLS, and without ever being an error to the server.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    certificate::Certificate,
    lab::Lab,
    mariadb,
    mysql::{Mysql, PASSWORD},
    proc::Proc,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use nix::sys::signal::Signal;

use crate::mysql_lab::{MysqlLab, SERVICE, TIMING};

/// MariaDB with a certificate of its own for `db.lab`, and one without TLS. None counts as another's CA.
fn servers(lab: &Lab) -> Result<(MysqlLab<'_>, Vec<Certificate>)> {
    let (mut servers, mut certificates) = (Vec::new(), Vec::new());
    for (n, node) in lab.net.backends.iter().enumerate() {
        let dir = lab.scope.dir().join(format!("tls-{}", node.role));
        fs::create_dir(&dir)?;
        let tls = Certificate::make(&dir, "db.lab")?;
        let options = [
            format!("--ssl-cert={}", tls.certificate.display()),
            format!("--ssl-key={}", tls.key.display()),
            format!("--server-id={}", n + 1),
        ];
        // The last one has none.
        let options = if n + 1 < lab.net.backends.len() { &options[..] } else { &options[2..] };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        servers.push(mariadb::start_with(&lab.scope, node, &options)?);
        certificates.push(tls);
    }
    let more = format!("checks: [{{mysql: {{{LOGIN}, tls: on}}, {TIMING}}}]");
    Ok((MysqlLab::of(lab, servers, &more)?, certificates))
}

const LOGIN: &str = "user: root, password: \"123\"";

#[test]
fn a_login_over_tls_looks_at_the_certificate_if_it_shall() {
    Lab::test(Topology::one_segment(3), |lab| {
        let (mysql, certificates) = servers(lab)?;
        // Without a look at it.
        mysql.is(1, BackendState::Up)?;
        mysql.is(2, BackendState::Up)?;
        mysql.is(3, BackendState::Down)?;
        mysql.says(3, "does not have this capability")?;
        // Nobody but who speaks TLS gets in now.
        mysql.sql(1, "ALTER USER root@'%' REQUIRE SSL")?;
        let checks = mysql.agent.backend(SERVICE, &mysql.key(1))?.checks;
        ensure!(checks.len() == 2, "to its own address, and through the VIP: {checks:?}");
        let ca = certificates[0].certificate.display().to_string();
        let reload = |from: &str, to: &str| {
            let config = mysql.agent.lb(&["save"])?.ok()?;
            ensure!(config.contains(from), "{from} is not in\n{config}");
            mysql.agent.write_config(&config.replace(from, to))?;
            mysql.agent.lb(&["reload"])?.ok()
        };
        let on = "tls: on";
        let verified = format!("tls: on\n          sni: db.lab\n          verify: true\n          ca: {ca}");
        reload(on, &verified)?;
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "TLS: invalid peer certificate: ")?;
        mysql.is(1, BackendState::Up)?;
        // The right CA, and another name.
        reload("sni: db.lab", "sni: other.lab")?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "TLS: invalid peer certificate: ")?;
        reload("sni: other.lab", "sni: db.lab")?;
        mysql.is(1, BackendState::Up)?;
        let log = mysql.agent.log();
        ensure!(!log.contains("\"123\""), "{log}");
        Ok(())
    });
}

/// To the server's own address and through the VIP.
#[test]
fn a_login_leaves_from_its_source() {
    Lab::test(Topology::one_segment(1), |lab| {
        lab.net.director.netns.ip("addr add 172.18.14.69/24 dev eth0")?;
        let servers =
            vec![mariadb::start_with(&lab.scope, &lab.net.backends[0], &["--max-connect-errors=3"])?];
        let check = "mysql: {user: far, password: geheim, query: SELECT 1}, source: 172.18.14.69";
        let mysql = MysqlLab::of(lab, servers, &format!("checks: [{{{check}, interface: eth0, {TIMING}}}]"))?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "Access denied for user 'far'@'172.18.14.69'")?;
        mysql.sql(1, "CREATE USER far@'172.18.14.69' IDENTIFIED BY 'geheim'")?;
        mysql.is(1, BackendState::Up)?;
        mysql.until(1, "that both log in", |view| {
            view.checks.len() == 2 && view.checks.iter().all(|it| it.result.as_deref() == Some("logged in"))
        })
    });
}

/// Waits for some more.
fn logins(server: &Mysql) -> Result<()> {
    let connections = || -> Result<u64> {
        let status = server.sql("SHOW GLOBAL STATUS LIKE 'Connections'")?;
        Ok(status.split_whitespace().last().unwrap_or_default().parse()?)
    };
    let before = connections()?;
    eventually(PATIENCE, "some logins more", || {
        let more = connections()? - before;
        Ok(if more >= 40 { Seen::Yes(()) } else { Seen::NotYet(format!("{more}")) })
    })
}

/// Some more logins, and none that fails.
fn goes_on(mysql: &MysqlLab<'_>, server: &Mysql) -> Result<()> {
    logins(server)?;
    let events = mysql.agent.lb(&["events", "--last", "1000"])?.ok()?;
    ensure!(!events.contains("check-fails") && !events.contains("backend-down"), "{events}");
    Ok(())
}

#[test]
fn mysql_lets_in_by_its_own_passwords() {
    Lab::test(Topology::one_segment(1), |lab| {
        let server = Mysql::start(&lab.scope, &lab.net.backends[0], &["--max-connect-errors=3"])?;
        server.sql("GRANT REPLICATION CLIENT ON *.* TO checker@'%'")?;
        let asks = "role: primary, query: SELECT 1, lag: [{from: 5s, weight: 0}]";
        let more = format!(
            "checks: [{{mysql: , {TIMING}}}, {{mysql: {{user: open}}, {TIMING}}}, \
             {{mysql: {{user: checker, password: {PASSWORD}, {asks}}}, {TIMING}}}, \
             {{mysql: {{user: other, password: {PASSWORD}, tls: on}}, {TIMING}}}]"
        );
        let mysql = MysqlLab::of(lab, Vec::new(), &more)?;
        // The first login of each is by the whole password: by RSA, and over TLS. The later ones are by its hash.
        mysql.is(1, BackendState::Up)?;
        mysql.until(1, "what the logins find", |view| {
            let found =
                |what: &str| view.checks.iter().filter(|it| it.result.as_deref() == Some(what)).count();
            let greets = view.checks.iter().filter_map(|it| it.result.as_deref());
            greets.filter(|it| it.starts_with("greeting of ")).count() == 4
                && found("writable, replicates nothing") == 2
                && found("logged in") == 2
        })?;
        goes_on(&mysql, &server)?;
        // The server forgets the hashes: once more by the whole password.
        server.forget()?;
        goes_on(&mysql, &server)?;
        server.sql("ALTER USER checker@'%' IDENTIFIED BY 'another'")?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "error 1045: Access denied for user 'checker'")?;
        let log = mysql.agent.log();
        ensure!(!log.contains(PASSWORD), "{log}");
        // A wrong password is an error of the user, not of the host.
        mysql.says(1, "error 1045: Access denied for user 'checker'")?;
        server.sql(&format!("ALTER USER checker@'%' IDENTIFIED BY '{PASSWORD}'"))?;
        mysql.is(1, BackendState::Up)
    });
}

#[test]
fn a_password_goes_over_tls_where_the_server_has_no_key_for_it() {
    Lab::test(Topology::one_segment(1), |lab| {
        let keyless = [
            "--caching-sha2-password-auto-generate-rsa-keys=OFF",
            "--sha256-password-auto-generate-rsa-keys=OFF",
        ];
        let server = Mysql::start_without(
            &lab.scope,
            &lab.net.backends[0],
            &keyless,
            &["private_key.pem", "public_key.pem"],
        )?;
        let more = format!("checks: [{{mysql: {{user: checker, password: {PASSWORD}}}, {TIMING}}}]");
        let mysql = MysqlLab::of(lab, Vec::new(), &more)?;
        mysql.is(1, BackendState::Down)?;
        let reload = |from: &str, to: &str| {
            let config = mysql.agent.lb(&["save"])?.ok()?;
            ensure!(config.contains(from), "{from} is not in\n{config}");
            mysql.agent.write_config(&config.replace(from, to))?;
            mysql.agent.lb(&["reload"])?.ok()
        };
        let (plain, tls) = ("geheim-und-lang\n", "geheim-und-lang\n          tls: on\n");
        reload(plain, tls)?;
        mysql.is(1, BackendState::Up)?;
        // By the hash, which the server has now, it needs neither.
        reload(tls, plain)?;
        logins(&server)?;
        mysql.is(1, BackendState::Up)?;
        server.forget()?;
        mysql.is(1, BackendState::Down)
    });
}

/// On each backend MariaDB that blocks hosts after three errors, and knows the director's name, as only then it
/// counts (`HOST_VALIDATED`).
fn strict(lab: &Lab) -> Result<Vec<Proc>> {
    let servers = lab.net.backends.iter().map(|node| {
        let hosts = format!("{} {}\n{} director\n", node.ipv4(), node.role, lab.net.director.ipv4());
        mariadb::start_knowing(&lab.scope, node, &["--max-connect-errors=3"], &hosts)
    });
    servers.collect()
}

#[test]
fn a_check_is_no_error_to_the_server_and_hanging_up_is() {
    Lab::test(Topology::one_segment(2), |lab| {
        let (director, servers) = (&lab.net.director, strict(lab)?);
        let mysql = MysqlLab::of(lab, servers, &format!("checks: [{{mysql: , {TIMING}}}]"))?;
        mysql.is(1, BackendState::Up)?;
        mysql.is(2, BackendState::Up)?;
        let second = SocketAddr::new(mysql.address(2), 3306);
        for _ in 0..3 {
            // The server is in the handshake when it has greeted.
            director.netns.enter(|| TcpStream::connect(second)?.read_exact(&mut [0; 5]))??;
        }
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "is blocked because of many connection errors")?;
        let before = mysql.connections(1)?;
        eventually(PATIENCE, "some checks more", || {
            let more = mysql.connections(1)? - before;
            Ok(if more >= 20 { Seen::Yes(()) } else { Seen::NotYet(format!("{more}")) })
        })?;
        mysql.is(1, BackendState::Up)
    });
}

/// As above for a login, of a server that hangs in its handshake and then goes on: it counts what it finds then.
#[test]
fn a_server_that_hung_does_not_block_the_director() {
    Lab::test(Topology::one_segment(2), |lab| {
        let (director, servers) = (&lab.net.director, strict(lab)?);
        let timing = "interval: 200ms, timeout: 1s, rise: 1";
        let mysql = MysqlLab::of(lab, servers, &format!("checks: [{{mysql: {{{LOGIN}}}, {timing}}}]"))?;
        mysql.is(1, BackendState::Up)?;
        mysql.is(2, BackendState::Up)?;
        let before = failures(&mysql)?;
        mysql.servers[0].signal(Signal::SIGSTOP)?;
        mysql.is(1, BackendState::Down)?;
        // More than the errors that it bears.
        eventually(PATIENCE, "logins given up", || {
            let given_up = failures(&mysql)? - before;
            Ok(if given_up >= 8 { Seen::Yes(()) } else { Seen::NotYet(given_up.to_string()) })
        })?;
        mysql.servers[0].signal(Signal::SIGCONT)?;
        mysql.is(1, BackendState::Up)?;
        let name = mariadb::hostname(&director.netns, mysql.address(1))?;
        ensure!(name == "slave1", "{name}");
        // The same count does block: it is these servers' way.
        let second = SocketAddr::new(mysql.address(2), 3306);
        // Three in a row: a check that logs in between two of them begins the count anew.
        let hung_up = || -> Result<bool> {
            let mut said = Vec::new();
            director.netns.enter(|| TcpStream::connect(second)?.take(64).read_to_end(&mut said))??;
            Ok(String::from_utf8_lossy(&said).contains("is blocked"))
        };
        let blocked = (0..1000).map(|_| hung_up()).find(|is_blocked| !matches!(is_blocked, Ok(false)));
        ensure!(blocked.context("a thousand who hung up were none too many")??, "it is blocked");
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "is blocked because of many connection errors")
    });
}

/// Attempts that have failed, by both ways.
fn failures(mysql: &MysqlLab<'_>) -> Result<u64> {
    Ok(mysql.agent.stats()?.checks.iter().map(|it| it.failed).sum())
}
