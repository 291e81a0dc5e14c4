//! MariaDB servers that are the nodes of a Galera cluster.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::{
    mariadb,
    proc::Proc,
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, Seen, eventually},
};

/// Of the cluster's state; any will do.
const UUID: &str = "6b5d7a4e-0000-11f0-9c3d-0242ac110002";
/// Where Debian's package has the provider.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// A node that is silent is given up sooner than by default, 5 to 15 s, and the gcache is small.
const OPTIONS: &str =
    "gcache.size=1M;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S;evs.install_timeout=PT3S";
/// Where the nodes talk to each other.
pub const PORT: u16 = 4567;

/// Starts the nodes of a cluster, one after the other, and waits until each is synced. All begin with the same data,
/// and the later ones with the position that the first one has: so none needs a state transfer, whose programs
/// Debian has in the package of the whole server.
pub fn start(scope: &Scope, nodes: &[Node]) -> Result<Vec<Proc>> {
    start_with(scope, nodes, &[])
}

/// The same with further options of each server.
pub fn start_with(scope: &Scope, nodes: &[Node], more: &[&str]) -> Result<Vec<Proc>> {
    ensure!(Path::new(PROVIDER).exists(), "{PROVIDER} is missing: `cargo xtask setup` installs galera-4");
    let mut servers = Vec::new();
    let mut position = "0".to_owned();
    for node in nodes {
        let first = &nodes[0];
        let is_first = servers.is_empty();
        let others = if is_first { String::new() } else { first.ipv4().to_string() };
        let options = [
            "--wsrep-on=ON".to_owned(),
            format!("--wsrep-provider={PROVIDER}"),
            format!("--wsrep-cluster-address=gcomm://{others}"),
            format!("--wsrep-node-address={}", node.ipv4()),
            format!("--wsrep-node-name={}", node.role),
            "--wsrep-sst-method=skip".to_owned(),
            format!("--wsrep-provider-options={OPTIONS}"),
            "--binlog-format=ROW".to_owned(),
            "--innodb-autoinc-lock-mode=2".to_owned(),
        ];
        let options = [&options.each_ref().map(String::as_str), more].concat();
        servers.push(mariadb::start_prepared(scope, node, &options, |dir| {
            let state = format!(
                "# GALERA saved state\nversion: 2.1\nuuid: {UUID}\nseqno: {position}\nsafe_to_bootstrap: {}\n",
                u8::from(is_first)
            );
            fs::write(dir.join("data/grastate.dat"), state)?;
            // Each node makes its users itself.
            Ok(fs::write(dir.join("init.sql"), format!("SET wsrep_on=OFF;\n{}", mariadb::INIT))?)
        })?);
        eventually(PATIENCE, &format!("{} to be synced", node.role), || {
            let synced = status(node, "wsrep_local_state_comment")?;
            Ok(if synced == "Synced" { Seen::Yes(()) } else { Seen::NotYet(synced) })
        })?;
        position = status(first, "wsrep_last_committed")?;
    }
    Ok(servers)
}

/// What the node says of itself.
pub fn status(node: &Node, name: &str) -> Result<String> {
    let asked = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let row = mariadb::query(&node.netns, node.ipv4(), &["-N", "-B"], &asked)?.ok()?;
    Ok(row.split_once('\t').map(|(_, value)| value.trim().to_owned()).unwrap_or_default())
}
