//! Logins of mysql checks: over TLS, and without ever being an error to the server.

use std::fs;

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{certificate::Certificate, lab::Lab, mariadb, topo::Topology};

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
