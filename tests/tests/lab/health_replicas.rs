//! mysql checks of a real MySQL server that replicates another one; MariaDB is in `health_mysql`.

use anyhow::{Context, Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    lab::Lab,
    mysql::{Mysql, PASSWORD},
    topo::Topology,
};

use crate::mysql_lab::{MysqlLab, SERVICE, TIMING};

const OPTIONS: [&str; 3] = ["--log-bin=bin", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"];

/// The first backend's server, and one that is about to follow it.
fn servers(lab: &Lab) -> Result<[Mysql; 2]> {
    let [first, second] = &lab.net.backends[..] else { unreachable!("there are two") };
    let start = |node, id| Mysql::start(&lab.scope, node, &[&OPTIONS[..], &[id]].concat());
    let servers = [start(first, "--server-id=1")?, start(second, "--server-id=2")?];
    for server in &servers {
        server.sql("GRANT REPLICATION SLAVE ON *.* TO open@'%'")?;
        server.sql("GRANT REPLICATION CLIENT ON *.* TO checker@'%'")?;
        // Each has its users, and nobody is to get them once more.
        server.sql("RESET BINARY LOGS AND GTIDS")?;
    }
    Ok(servers)
}

/// How the second one follows the first one, by a channel of this name.
fn follow(mysql: &MysqlLab<'_>, channel: &str) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{}', SOURCE_USER='open', SOURCE_AUTO_POSITION=1, \
         SOURCE_CONNECT_RETRY=1 FOR CHANNEL '{channel}'",
        mysql.address(1)
    )
}

#[test]
fn mysql_says_its_lag_its_channels_and_its_role() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [source, replica] = servers(lab)?;
        let tiers = "[{from: 2s, weight: 50}, {from: 1h, weight: 0}]";
        let check = format!("user: checker, password: {PASSWORD}, role: primary, lag: {tiers}");
        let mysql = MysqlLab::of(lab, Vec::new(), &format!("checks: [{{mysql: {{{check}}}, {TIMING}}}]"))?;
        mysql.is(1, BackendState::Up)?;
        replica.sql(&follow(&mysql, ""))?;
        let stops = |channel: &str| {
            mysql.is(2, BackendState::Quiesced)?;
            mysql.says(2, &format!("replication is stopped{channel}"))
        };
        let follows = || {
            let is = mysql.is(2, BackendState::Up).and_then(|()| mysql.says_of(2, "writable, 0 s behind"));
            is.with_context(|| replica.sql("SHOW REPLICA STATUS").unwrap_or_default())
        };
        stops("")?;
        for thread in ["SQL_THREAD", "IO_THREAD"] {
            replica.sql("START REPLICA")?;
            follows()?;
            replica.sql(&format!("STOP REPLICA {thread}"))?;
            stops("")?;
        }
        replica.sql("STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY=3000; START REPLICA")?;
        source.sql("CREATE DATABASE late")?;
        mysql.until(2, "half of the weight", |view| view.health_weight == 5)?;
        mysql.says(2, " s behind in")?;
        replica.sql("STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY=0; START REPLICA")?;
        follows()?;

        // One that has not started, beside one that runs.
        replica.sql(&follow(&mysql, "west"))?;
        stops(" (west)")?;
        replica.sql("RESET REPLICA ALL FOR CHANNEL 'west'")?;
        follows()?;

        replica.sql("SET GLOBAL super_read_only=1")?;
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "read_only, not the primary")?;
        let config = mysql.agent.lb(&["save"])?.ok()?;
        ensure!(config.contains("role: primary"), "{config}");
        mysql.agent.write_config(&config.replace("role: primary", "role: replica"))?;
        mysql.agent.lb(&["reload"])?.ok()?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "writable, no replica")?;
        mysql.is(2, BackendState::Up)?;
        mysql.says_of(2, "read_only, 0 s behind")?;
        ensure!(mysql.agent.backend(SERVICE, &mysql.key(2))?.health_weight == 10);
        Ok(())
    });
}
