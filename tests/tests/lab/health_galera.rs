//! mysql checks of a real Galera cluster of two nodes.

use anyhow::{Result, ensure};
use lb::api::types::BackendState;
use lb_tests::{
    galera,
    lab::Lab,
    mariadb,
    topo::{Topology, VIP4},
};

use crate::mysql_lab::MysqlLab;

const SYNCED: &str = "checks: [{mysql: {user: root, password: \"123\", galera: synced}, interval: 200ms, timeout: 3s, \
                      rise: 1}]";
const DONOR: &str = "checks: [{mysql: {user: root, password: \"123\", galera: donor}, interval: 200ms, timeout: 3s, \
                     rise: 1}]";

/// The first node must be synced, the second may be a donor.
fn cluster(lab: &Lab) -> Result<MysqlLab<'_>> {
    let servers = galera::start(&lab.scope, &lab.net.backends)?;
    let mysql = MysqlLab::of_each(lab, servers, "", &[SYNCED, DONOR])?;
    for n in [1, 2] {
        mysql.is(n, BackendState::Up)?;
        mysql.says_of(n, "wsrep Synced")?;
    }
    Ok(mysql)
}

#[test]
fn a_node_that_is_desynced_serves_if_it_may() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mysql = cluster(lab)?;
        mysql.sql(2, "SET GLOBAL wsrep_desync=ON")?;
        mysql.says_of(2, "wsrep Donor/Desynced")?;
        mysql.is(2, BackendState::Up)?;
        mysql.sql(2, "SET GLOBAL wsrep_desync=OFF")?;
        mysql.says_of(2, "wsrep Synced")?;
        mysql.sql(1, "SET GLOBAL wsrep_desync=ON")?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "wsrep is Donor/Desynced (state 2), ready ON, the cluster Primary after")?;
        for _ in 0..2 {
            ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave2");
        }
        mysql.sql(1, "SET GLOBAL wsrep_desync=OFF")?;
        mysql.is(1, BackendState::Up)
    });
}

#[test]
fn nodes_without_a_quorum_serve_no_more() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mysql = cluster(lab)?;
        let [first, second] = &lab.net.backends[..] else { unreachable!("there are two") };
        // The second one hears nothing of the first any more; clients and checks reach both.
        let cut = format!(
            "add table inet cut; add chain inet cut in {{ type filter hook input priority 0; }}; \
             add rule inet cut in tcp dport {port} drop; add rule inet cut in tcp sport {port} drop",
            port = galera::PORT
        );
        second.netns.run("nft", &[&cut])?.ok()?;
        for n in [1, 2] {
            mysql.is(n, BackendState::Down)?;
            mysql.says(n, "ready OFF, the cluster non-Primary after")?;
        }
        // An operator decides which half goes on.
        mysql.sql(1, "SET GLOBAL wsrep_provider_options='pc.bootstrap=true'")?;
        mysql.is(1, BackendState::Up)?;
        ensure!(galera::status(first, "wsrep_cluster_size")? == "1");
        mysql.is(2, BackendState::Down)?;
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave1");
        ensure!(mariadb::hostname(&lab.net.client().netns, VIP4)? == "slave1");
        Ok(())
    });
}

#[test]
fn a_server_that_is_no_node_fails() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mysql = MysqlLab::start(lab, "user: root, password: \"123\", galera: donor")?;
        mysql.is(1, BackendState::Down)?;
        mysql.says(1, "no node of a Galera cluster after")
    });
}
