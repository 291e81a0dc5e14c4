//! Real servers of data other than MariaDB: PostgreSQL and Redis.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::User;

use crate::{
    certificate::Certificate,
    proc::{self, Proc},
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, until_ok},
};

/// Making a data directory takes a while.
const INSTALL_LIMIT: Duration = Duration::from_secs(120);

/// A server on its port, on every address of the node, and the directory of its data.
pub struct Postgres {
    pub proc: Proc,
    pub dir: PathBuf,
}

impl Postgres {
    pub const PORT: u16 = 5432;

    /// With the role `check` of password `secret` (SCRAM) and the role `old` of the same (MD5), and a database of
    /// each. `standby`: it recovers for ever, as a replica does.
    pub fn start(scope: &Scope, node: &Node, standby: bool) -> Result<Self> {
        Self::start_with(scope, node, standby, None)
    }

    /// The same with TLS, too.
    pub fn start_with(scope: &Scope, node: &Node, standby: bool, tls: Option<&Certificate>) -> Result<Self> {
        let user = User::from_name("postgres")?.context("Debian's package makes the user postgres")?;
        let dir = scope.dir().join(format!("postgres-{}", node.role));
        fs::create_dir(&dir)?;
        chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let data = dir.join("data");
        let mut initdb = as_postgres(Command::new("setpriv"));
        initdb.args(["initdb", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"]);
        proc::run_with(on(initdb, &data), "", INSTALL_LIMIT)?.ok()?;
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all old all md5\nhost all all all scram-sha-256\n",
        )?;
        // The passwords are hashed as the session says (password_encryption), SCRAM by default.
        single(&data, "CREATE ROLE \"check\" LOGIN PASSWORD 'secret'")?;
        single(&data, "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'secret'")?;
        for name in ["check", "old"] {
            single(&data, &format!("CREATE DATABASE \"{name}\""))?;
        }
        if standby {
            fs::write(data.join("standby.signal"), "")?;
        }
        Ok(Self { proc: serve(scope, node, &dir, tls)?, dir })
    }

    /// Starts one that has ended once more, on its data and without TLS.
    pub fn again(&mut self, scope: &Scope, node: &Node) -> Result<()> {
        self.proc = serve(scope, node, &self.dir, None)?;
        Ok(())
    }

    /// A certificate that the server may read, in its directory.
    pub fn certificate(&self, name: &str) -> Result<Certificate> {
        let certificate = Certificate::make(&self.dir, name)?;
        let user = User::from_name("postgres")?.context("Debian's package makes the user postgres")?;
        for file in [&certificate.certificate, &certificate.key] {
            chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(certificate)
    }
}

/// Starts the server on its directory, and waits until it takes logins.
fn serve(scope: &Scope, node: &Node, dir: &Path, tls: Option<&Certificate>) -> Result<Proc> {
    let mut command = as_postgres(node.netns.command("setpriv")?);
    command.arg("postgres").args(["-c", "fsync=off", "-c", "shared_buffers=1MB", "-c", "listen_addresses=*"]);
    // Some tests have two hundred checks under way.
    command.args(["-c", "max_connections=300"]);
    if let Some(Certificate { certificate, key }) = tls {
        // It reads none that others could.
        let user = User::from_name("postgres")?.context("Debian's package makes the user postgres")?;
        chown(key, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        command.args(["-c", "ssl=on", "-c"]).arg(format!("ssl_cert_file={}", certificate.display()));
        command.arg("-c").arg(format!("ssl_key_file={}", key.display()));
    }
    command.arg("-c").arg(format!("unix_socket_directories={}", dir.display()));
    let mut proc =
        Proc::spawn("postgres", on(command, &dir.join("data")), &dir.join("log"), scope.lifetime())?;
    until_ok(PATIENCE, &format!("postgres on {} to listen", node.role), || {
        proc.check_alive()?;
        // It listens before it takes logins.
        let mut psql = Command::new("psql");
        psql.arg("-h").arg(dir).args(["-U", "postgres", "-c", "SELECT 1"]);
        proc::run(psql)?.ok()
    })?;
    Ok(proc)
}

fn as_postgres(mut setpriv: Command) -> Command {
    setpriv.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    setpriv
}

fn on(mut command: Command, data: &Path) -> Command {
    command.arg("-D").arg(data).current_dir("/").env("LC_ALL", "C");
    command
}

/// One line of SQL without a server that listens.
fn single(data: &Path, line: &str) -> Result<()> {
    let mut command = as_postgres(Command::new("setpriv"));
    command.args(["postgres", "--single", "-F"]);
    let mut command = on(command, data);
    command.arg("postgres");
    proc::run_with(command, &format!("{line}\n"), PATIENCE)?.ok().map(drop)
}

/// A Redis server on its port, on every address of the node; `options` as on its command line.
pub fn redis(scope: &Scope, node: &Node, options: &[&str]) -> Result<Proc> {
    let log = scope.dir().join(format!("redis-{}.log", node.role));
    let mut command = node.netns.command("redis-server")?;
    command.args([
        "--port",
        &REDIS_PORT.to_string(),
        "--save",
        "",
        "--protected-mode",
        "no",
        "--bind",
        "*",
        "-::*",
    ]);
    command.args(options).current_dir(scope.dir());
    let mut proc = Proc::spawn("redis-server", command, &log, scope.lifetime())?;
    until_ok(PATIENCE, &format!("redis on {} to listen", node.role), || {
        proc.check_alive()?;
        listens(node, REDIS_PORT)
    })?;
    Ok(proc)
}

pub const REDIS_PORT: u16 = 6379;

/// Waits for no answer: whether a connection can be opened.
pub fn listens(node: &Node, port: u16) -> Result<()> {
    let at = std::net::SocketAddr::new(node.ipv4(), port);
    node.netns.enter(|| std::net::TcpStream::connect(at))??;
    Ok(())
}
