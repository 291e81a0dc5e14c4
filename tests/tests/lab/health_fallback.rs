//! Replicas that fall back to their primary, under clients that query all the time.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lb::{api::types::BackendState, events::Kind};
use lb_tests::{
    lab::Lab,
    sql_load::SqlLoad,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{mysql_lab::MysqlLab, setup::happened};

const CHECK: &str =
    "user: root, password: \"123\", role: replica, fallback: primary, lag: [{from: 1h, weight: 0}]";

/// The first is the primary of the two others.
fn replicating(lab: &Lab) -> Result<MysqlLab<'_>> {
    let mysql = MysqlLab::start(lab, CHECK)?;
    for n in [2, 3] {
        mysql.follow(n)?;
        mysql.sql(n, "SET GLOBAL read_only=1")?;
        mysql.is(n, BackendState::Up)?;
        mysql.says_of(n, "read_only, 0 s behind")?;
    }
    mysql.is(1, BackendState::Standby)?;
    mysql.says(1, "writable, stands by for the replicas")?;
    Ok(mysql)
}

/// Waits until these servers have all of the queries: of the last ones no other has any.
fn served_by(load: &SqlLoad, names: &[&str]) -> Result<()> {
    let mut mark = load.seen().answered;
    eventually(PATIENCE, &format!("{names:?} alone to serve"), || {
        let now = load.seen().answered;
        let new: BTreeMap<_, _> = (now.iter())
            .map(|(name, count)| (name.clone(), count - mark.get(name).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        if new.values().sum::<u64>() < 100 {
            return Ok(Seen::NotYet(format!("{new:?}")));
        }
        mark = now;
        let is_so = new.len() == names.len() && names.iter().all(|name| new.contains_key(*name));
        Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{new:?}")) })
    })
}

#[test]
fn the_primary_serves_while_all_replicas_lag() {
    Lab::test(Topology::one_segment(3), |lab| {
        let mysql = replicating(lab)?;
        let load = SqlLoad::start(lab.net.client(), VIP4, 4)?;
        served_by(&load, &["slave2", "slave3"])?;
        let list = mysql.agent.lb(&["backend", "list"])?.ok()?;
        ensure!(list.contains(" standby ") && list.contains("stands by for the replicas"), "{list}");

        mysql.sql(2, "STOP SLAVE SQL_THREAD")?;
        mysql.is(2, BackendState::Quiesced)?;
        served_by(&load, &["slave3"])?;
        mysql.is(1, BackendState::Standby)?;
        mysql.sql(3, "STOP SLAVE SQL_THREAD")?;
        mysql.is(1, BackendState::Up)?;
        served_by(&load, &["slave1"])?;
        happened(&mysql.agent, Kind::PrimaryServes)?;
        let status = mysql.agent.lb(&["status"])?;
        ensure!(status.stdout.contains("its primary serves"), "{status:?}");

        // The next agent knows it from its start on.
        mysql.agent.kill9()?;
        mysql.agent.start()?;
        mysql.is(1, BackendState::Up)?;
        served_by(&load, &["slave1"])?;

        mysql.sql(2, "START SLAVE")?;
        mysql.is(1, BackendState::Standby)?;
        served_by(&load, &["slave2"])?;
        happened(&mysql.agent, Kind::PrimaryRests)?;
        mysql.sql(3, "START SLAVE")?;
        served_by(&load, &["slave2", "slave3"])?;
        // No server has gone, and connections stayed with theirs.
        let seen = load.finish()?;
        ensure!(seen.broken.is_empty() && seen.failed.is_empty(), "{seen:?}");
        Ok(())
    });
}

#[test]
fn the_primary_serves_while_the_replicas_are_gone_and_parts_may_change() {
    Lab::test(Topology::one_segment(3), |lab| {
        let mut mysql = replicating(lab)?;
        mysql.servers[1].kill9()?;
        mysql.servers[2].kill9()?;
        mysql.is(2, BackendState::Down)?;
        mysql.is(3, BackendState::Down)?;
        mysql.is(1, BackendState::Up)?;
        let load = SqlLoad::start(lab.net.client(), VIP4, 2)?;
        served_by(&load, &["slave1"])?;
        mysql.again(lab, 2)?;
        mysql.sql(2, "SET GLOBAL read_only=1")?;
        served_by(&load, &["slave2"])?;
        mysql.again(lab, 3)?;
        // What a failover does: the third is the primary from now on, and the first follows.
        mysql.is(3, BackendState::Standby)?;
        mysql.sql(1, "SET GLOBAL read_only=1")?;
        served_by(&load, &["slave1", "slave2"])?;
        mysql.is(3, BackendState::Standby)?;
        let seen = load.finish()?;
        ensure!(seen.broken.is_empty() && seen.failed.is_empty(), "{seen:?}");
        Ok(())
    });
}
