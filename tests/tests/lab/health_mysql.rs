//! mysql checks of real MariaDB servers: role, replication, and servers that hang.

use anyhow::ensure;
use lb::api::types::{BackendState, BackendView};
use lb_tests::{
    lab::Lab,
    mariadb,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::mysql_lab::{MysqlLab, SERVICE, TIMING};

#[test]
fn the_handshake_alone_finds_a_server_that_hangs() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut mysql = MysqlLab::start(lab, "")?;
        mysql.is(1, BackendState::Up)?;
        mysql.is(2, BackendState::Up)?;
        let checks = mysql.agent.backend(SERVICE, &mysql.key(1))?.checks;
        ensure!(checks[0].result.as_ref().is_some_and(|it| it.contains("MariaDB")), "{checks:?}");
        // A TCP check would pass: the kernel goes on accepting.
        mysql.servers[0].signal(Signal::SIGSTOP)?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "mysql: greeting: no answer after")?;
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave2");
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave2");
        mysql.servers[0].signal(Signal::SIGCONT)?;
        mysql.is(1, BackendState::Up)?;
        mysql.servers[1].kill9()?;
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "mysql: connection refused after")
    });
}

#[test]
fn a_login_finds_the_role_and_leaves_no_trace() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mysql = MysqlLab::start(lab, "user: root, password: \"123\", role: primary, query: SELECT 1")?;
        mysql.is(1, BackendState::Up)?;
        mysql.is(2, BackendState::Up)?;
        mysql.sql(2, "SET GLOBAL read_only=1")?;
        mysql.is(2, BackendState::Down)?;
        mysql.says(2, "read_only, not the primary")?;
        mysql.sql(2, "SET GLOBAL read_only=0")?;
        mysql.is(2, BackendState::Up)?;
        let aborted = || mysql.sql(1, "SHOW GLOBAL STATUS LIKE 'Aborted_c%'");
        let (before, connections) = (aborted()?, mysql.connections(1)?);
        eventually(PATIENCE, "some logins more", || {
            let more = mysql.connections(1)? - connections;
            Ok(if more >= 10 { Seen::Yes(()) } else { Seen::NotYet(format!("{more}")) })
        })?;
        let after = aborted()?;
        ensure!(before == after, "all checks ended in order: {before} {after}");
        mysql.sql(1, "SET PASSWORD FOR root@'%' = PASSWORD('other')")?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "error 1045: Access denied for user 'root'")?;
        let logged = mysql.agent.log();
        ensure!(!logged.contains("123\""), "{logged}");
        Ok(())
    });
}

#[test]
fn lag_lowers_the_weight_and_never_empties_the_pool() {
    Lab::test(Topology::one_segment(2), |lab| {
        let tiers = "[{from: 2s, weight: 50}, {from: 1h, weight: 0}]";
        let mut mysql = MysqlLab::start(lab, &format!("user: root, password: \"123\", lag: {tiers}"))?;
        mysql.is(1, BackendState::Up)?;
        mysql.follow(2)?;
        let full = |view: &BackendView| view.state == BackendState::Up && view.health_weight == 10;
        mysql.until(2, "a replica that follows", |view| {
            full(view) && view.checks[0].result.as_deref().is_some_and(|it| it.ends_with("0 s behind"))
        })?;

        // It has work, and puts it off: the lag grows with the time.
        mysql.sql(2, "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=3000; START SLAVE")?;
        mysql.sql(1, "CREATE DATABASE late")?;
        mysql.until(2, "half of the weight", |view| view.health_weight == 5)?;
        mysql.is(2, BackendState::Up)?;
        mysql.says(2, " s behind in")?;

        mysql.sql(2, "STOP SLAVE SQL_THREAD")?;
        mysql.until(2, "none of the weight", |view| view.health_weight == 0)?;
        mysql.is(2, BackendState::Quiesced)?;
        mysql.says(2, "replication is stopped")?;
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave1");
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave1");

        // The next agent knows it from its start on.
        mysql.agent.kill9()?;
        mysql.agent.start()?;
        ensure!(mysql.agent.backend(SERVICE, &mysql.key(2))?.health_weight == 0);

        mysql.servers[0].kill9()?;
        mysql.is(1, BackendState::Down)?;
        mysql.until(2, "all of the weight", full)?;
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave2");
        Ok(())
    });
}

/// MariaDB's connections, of which its plain words show none but the session's own.
#[test]
fn a_replica_is_as_far_behind_as_its_worst_source() {
    Lab::test(Topology::one_segment(3), |lab| {
        let check = "user: root, password: \"123\", lag: [{from: 1h, weight: 0}]";
        let mysql = MysqlLab::start(lab, check)?;
        let sources = ["east", "west"];
        for (n, name) in (1..).zip(sources) {
            let follow = format!(
                "CHANGE MASTER '{name}' TO MASTER_HOST='{}', MASTER_USER='root', MASTER_PASSWORD='123', \
                 MASTER_USE_GTID=no; START SLAVE '{name}'",
                mysql.address(n)
            );
            mysql.sql(3, &follow)?;
        }
        mysql.is(3, BackendState::Up)?;
        mysql.says_of(3, " 0 s behind (")?;
        for name in sources {
            mysql.sql(3, &format!("STOP SLAVE '{name}'"))?;
            mysql.is(3, BackendState::Quiesced)?;
            mysql.says(3, &format!("replication is stopped ({name})"))?;
            mysql.sql(3, &format!("START SLAVE '{name}'"))?;
            mysql.is(3, BackendState::Up)?;
        }
        mysql.says_of(3, " 0 s behind (")?;
        mysql.says_of(1, "replicates nothing")
    });
}

/// The relay log's file system is full: the replica's IO thread waits for room, and whoever asks about it waits for the
/// thread.
#[test]
fn a_replica_that_does_not_say_how_far_it_is_lags_and_is_not_dead() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [first, second] = &lab.net.backends[..] else { unreachable!("there are two") };
        let primary = mariadb::start_with(&lab.scope, first, &["--server-id=1", "--log-bin=bin"])?;
        let replica = mariadb::start_with_small_relay_log(&lab.scope, second, &["--server-id=2"])?;
        let check = "user: root, password: \"123\", lag: [{from: 1h, weight: 0}]";
        let more = format!("checks: [{{mysql: {{{check}}}, {TIMING}}}]");
        let mut mysql = MysqlLab::of(lab, vec![primary, replica], &more)?;
        mysql.is(1, BackendState::Up)?;
        mysql.follow(2)?;
        mysql.is(2, BackendState::Up)?;
        mysql.says_of(2, "0 s behind")?;
        mysql.sql(1, "CREATE DATABASE big; CREATE TABLE big.t (x LONGBLOB)")?;
        mysql.sql(1, "SET binlog_format=ROW; INSERT INTO big.t VALUES (REPEAT('x', 4000000))")?;
        mysql.is(2, BackendState::Quiesced)?;
        // On its own address and through the VIP.
        mysql.says_of(2, "logged in, replication: no answer")?;
        ensure!(mysql.agent.backend(SERVICE, &mysql.key(2))?.checks.len() == 2);
        // Who asked is still there, one each way, however often the checks come by.
        let (before, mut asked) = (mysql.connections(2)?, 0);
        eventually(PATIENCE, "some logins more of the checks", || {
            asked += 1;
            let more = mysql.connections(2)? - before - asked;
            Ok(if more >= 12 { Seen::Yes(()) } else { Seen::NotYet(format!("{more}")) })
        })?;
        let waiting = mysql.waiting(2)?;
        ensure!((1..=2).contains(&waiting), "{waiting} sessions wait for an answer");
        let client = &lab.net.client().netns;
        ensure!(mariadb::hostname(client, VIP4)? == "slave1" && mariadb::hostname(client, VIP4)? == "slave1");
        // It is the last one now: lag alone takes nobody out then.
        mysql.servers[0].kill9()?;
        mysql.is(1, BackendState::Down)?;
        mysql.until(2, "all of the weight", |view| {
            view.state == BackendState::Up && view.health_weight == 10
        })?;
        ensure!(mariadb::hostname(client, VIP4)? == "slave2");
        let events = mysql.agent.lb(&["events", "--last", "1000"])?.ok()?;
        let down = events.lines().filter(|line| line.contains("backend-down"));
        ensure!(down.clone().all(|line| line.contains(&mysql.key(1))), "{events}");
        // The next one is asked, though the last one never answered.
        mysql.servers[1].kill9()?;
        mysql.is(2, BackendState::Down)?;
        mysql.again(lab, 2)?;
        mysql.is(2, BackendState::Up)?;
        mysql.says_of(2, "replication is stopped")
    });
}

/// What a query says is not looked at; that it says something is.
#[test]
fn a_query_must_give_a_row_whatever_is_in_it() {
    Lab::test(Topology::one_segment(1), |lab| {
        let check = "user: root, password: \"123\", query: SELECT n FROM asked.t";
        let mysql = MysqlLab::start(lab, check)?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "error 1146: Table 'asked.t' doesn't exist")?;
        mysql.sql(1, "CREATE DATABASE asked; CREATE TABLE asked.t (n INT)")?;
        mysql.says(1, "the query gave no row")?;
        mysql.sql(1, "INSERT INTO asked.t VALUES (NULL)")?;
        mysql.is(1, BackendState::Up)?;
        mysql.sql(1, "DELETE FROM asked.t")?;
        mysql.is(1, BackendState::Down)?;
        mysql.sql(1, "INSERT INTO asked.t VALUES (0)")?;
        mysql.is(1, BackendState::Up)
    });
}
