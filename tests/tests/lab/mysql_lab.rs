//! Real MariaDB servers behind a service, and what its checks say of them.

use std::{net::IpAddr, sync::Arc};

use anyhow::Result;
use lb::api::types::{BackendState, BackendView};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    lab::Lab,
    mariadb,
    proc::Proc,
    topo::VIP4,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::backend_is;

/// A busy machine must not fail what is healthy.
pub const TIMING: &str = "interval: 200ms, timeout: 3s, rise: 1";

/// Name of the service.
pub const SERVICE: &str = "mysql-read";

/// MariaDB on every backend, an agent, and its service.
pub struct MysqlLab<'lab> {
    pub servers: Vec<Proc>,
    pub agent: Arc<Agent>,
    lab: &'lab Lab,
}

impl<'lab> MysqlLab<'lab> {
    /// Servers that can replicate, and a service with this check.
    pub fn start(lab: &'lab Lab, check: &str) -> Result<Self> {
        let servers = (1..).zip(&lab.net.backends).map(|(n, node)| {
            let options = [format!("--server-id={n}"), "--log-bin=bin".to_owned()];
            mariadb::start_with(&lab.scope, node, &options.each_ref().map(String::as_str))
        });
        Self::of(lab, servers.collect::<Result<_>>()?, &format!("checks: [{{mysql: {{{check}}}, {TIMING}}}]"))
    }

    /// A service of these servers, by weights of 10, with these further keys.
    pub fn of(lab: &'lab Lab, servers: Vec<Proc>, more: &str) -> Result<Self> {
        Self::of_each(lab, servers, more, &[])
    }

    /// The same with further keys of each backend.
    pub fn of_each(lab: &'lab Lab, servers: Vec<Proc>, more: &str, more_of: &[&'static str]) -> Result<Self> {
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends.iter().map(|backend| (backend.ipv4(), 10)).collect();
        let more = more.to_owned();
        let more_of = more_of.to_vec();
        let service =
            Service { more, more_of, backends, scheduler: "wrr", ..Service::tcp(SERVICE, VIP4, 3306, []) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        Ok(Self { servers, agent, lab })
    }

    pub fn address(&self, n: usize) -> IpAddr {
        self.lab.net.backends[n - 1].ipv4()
    }

    pub fn key(&self, n: usize) -> String {
        format!("{}:3306", self.address(n))
    }

    pub fn is(&self, n: usize, state: BackendState) -> Result<()> {
        backend_is(&self.agent, SERVICE, &self.key(n), state)
    }

    /// Waits until a backend is so.
    pub fn until(&self, n: usize, what: &str, is: impl Fn(&BackendView) -> bool) -> Result<()> {
        eventually(PATIENCE, what, || {
            let view = self.agent.backend(SERVICE, &self.key(n))?;
            Ok(if is(&view) { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
        })
    }

    pub fn says(&self, n: usize, words: &str) -> Result<()> {
        self.until(n, words, |view| view.detail.as_ref().is_some_and(|detail| detail.contains(words)))
    }

    /// Waits until the login of one finds this.
    pub fn says_of(&self, n: usize, found: &str) -> Result<()> {
        self.until(n, found, |view| {
            view.checks.iter().all(|check| check.result.as_deref().is_some_and(|it| it.contains(found)))
        })
    }

    /// Starts a server that was killed again, on its data.
    pub fn again(&mut self, lab: &Lab, n: usize) -> Result<()> {
        let options = [&*format!("--server-id={n}"), "--log-bin=bin"];
        self.servers[n - 1] = mariadb::again(&lab.scope, &lab.net.backends[n - 1], &options)?;
        Ok(())
    }

    /// How many connections the server has seen.
    pub fn connections(&self, n: usize) -> Result<u64> {
        let status = self.sql(n, "SHOW GLOBAL STATUS LIKE 'Connections'")?;
        Ok(status.split_whitespace().last().unwrap_or_default().parse()?)
    }

    /// How many of its sessions have asked about replication, and wait for the answer.
    pub fn waiting(&self, n: usize) -> Result<u64> {
        let those = "FROM information_schema.processlist WHERE info LIKE 'SHOW % STATUS'";
        Ok(self.sql(n, &format!("SELECT COUNT(*) {those}"))?.trim().parse()?)
    }

    /// On one server itself, as its administrator.
    pub fn sql(&self, n: usize, statement: &str) -> Result<String> {
        mariadb::query(&self.lab.net.backends[n - 1].netns, self.address(n), &["-N", "-B"], statement)?.ok()
    }

    /// Makes one a replica of the first.
    pub fn follow(&self, n: usize) -> Result<()> {
        let primary = self.address(1);
        let follow = format!(
            "CHANGE MASTER TO MASTER_HOST='{primary}', MASTER_USER='root', MASTER_PASSWORD='123', \
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE"
        );
        self.sql(n, &follow).map(drop)
    }
}
