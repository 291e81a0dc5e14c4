//! The lab of the notes: client, director and the MySQL servers slave1 and slave2 behind 172.18.14.100:3306.

use std::sync::Arc;

use anyhow::Result;

use crate::{
    agent::Agent,
    config::{Config, Service},
    lab::Lab,
    mariadb,
    proc::Proc,
    scope::Scope,
    topo::{Topology, VIP4},
};

/// The service of the notes.
pub const SERVICE: &str = "mysql-read";

/// In the order of their taking down.
pub struct NotesLab {
    pub agent: Arc<Agent>,
    pub servers: Vec<Proc>,
    pub lab: Lab,
}

impl NotesLab {
    /// Builds all of it; `step` is told the name of each step as it begins.
    pub fn up(scope: Scope, mut step: impl FnMut(&str)) -> Result<Self> {
        step("network: client, director, slave1, slave2 on one switch");
        let lab = Lab::build(Topology::one_segment(2), scope)?;
        step("MariaDB on slave1 and slave2");
        let servers =
            lab.net.backends.iter().map(|b| mariadb::start(&lab.scope, b)).collect::<Result<_>>()?;
        step("slave1, slave2: lb realserver start 172.18.14.100");
        lab.start_realservers(&[VIP4])?;
        step("director: lb run");
        let agent = lab.start_agent(&config(&lab))?;
        Ok(Self { agent, servers, lab })
    }
}

/// rr, weight 1, persistence 0.
pub fn config(lab: &Lab) -> Config {
    let backends = lab.net.backends.iter().map(|b| b.ipv4());
    Config::on_eth0("lbdemo", vec![Service::tcp(SERVICE, VIP4, 3306, backends)])
}
