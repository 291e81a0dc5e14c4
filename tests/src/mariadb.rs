//! Real MariaDB servers on the backends, and the real `mysql` client.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    agent::build_dir,
    netns::{Netns, with_hostname},
    proc::{self, Finished, Proc},
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, Seen, eventually, until_ok},
};

/// Making the first data directory may take a while on a slow disk.
const INSTALL_LIMIT: Duration = Duration::from_secs(60);

/// The notes log in as root with this password, from anywhere.
pub const INIT: &str = "SET sql_log_bin=0;\n\
                    CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '123';\n\
                    GRANT ALL ON *.* TO 'root'@'%';\n";

/// Small and careless about crashes: a lab's data is not kept.
const SETTINGS: [&str; 13] = [
    "--user=root",
    "--bind-address=*",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=8M",
    "--innodb-log-file-size=4M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-fast-shutdown=2",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--performance-schema=0",
    "--max-connections=50",
    "--table-open-cache=64",
];

/// Starts a server on port 3306 of every address of `node`, whose `@@hostname` is the node's role, and waits until
/// it greets.
pub fn start(scope: &Scope, node: &Node) -> Result<Proc> {
    start_with(scope, node, &["--server-id=1"])
}

/// The same with further options of the server.
pub fn start_with(scope: &Scope, node: &Node, options: &[&str]) -> Result<Proc> {
    start_prepared(scope, node, options, |_| Ok(()))
}

/// The same with something changed before in its directory, which has `data` and `init.sql`.
pub fn start_prepared(
    scope: &Scope,
    node: &Node,
    options: &[&str],
    change: impl FnOnce(&Path) -> Result<()>,
) -> Result<Proc> {
    change(&prepare(scope, node)?)?;
    again(scope, node, options)
}

/// As [`start_with`], one that looks up the names of its clients, in a hosts file of its own (hosts(5)).
pub fn start_knowing(scope: &Scope, node: &Node, options: &[&str], hosts: &str) -> Result<Proc> {
    let file = scope.dir().join(format!("hosts-{}", node.role));
    fs::write(&file, hosts)?;
    let mut command = node.netns.command("unshare")?;
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(&file).arg("mariadbd");
    prepare(scope, node)?;
    run(scope, node, command, &[&["--skip-name-resolve=OFF"], options].concat())
}

/// As [`start_with`], a replica to be, whose relay log has a file system of its own, of 1 MB.
pub fn start_with_small_relay_log(scope: &Scope, node: &Node, options: &[&str]) -> Result<Proc> {
    let relay = prepare(scope, node)?.join("relay");
    fs::create_dir(&relay)?;
    let mut command = node.netns.command("unshare")?;
    let script = "mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(&relay).arg("mariadbd");
    let log = format!("--relay-log={}", relay.join("relay").display());
    run(scope, node, command, &[&[log.as_str()], options].concat())
}

/// Starts one that was started before and has ended, on the same data.
pub fn again(scope: &Scope, node: &Node, options: &[&str]) -> Result<Proc> {
    run(scope, node, node.netns.command("mariadbd")?, options)
}

/// Makes its directory, with `data` and `init.sql`.
fn prepare(scope: &Scope, node: &Node) -> Result<PathBuf> {
    let dir = scope.dir().join(format!("mariadb-{}", node.role));
    fs::create_dir(&dir)?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(template()?).arg(dir.join("data"));
    proc::run(copy)?.ok()?;
    fs::write(dir.join("init.sql"), INIT)?;
    Ok(dir)
}

/// Waits until it greets. `command` is the server, as far as it has no options.
fn run(scope: &Scope, node: &Node, mut command: Command, options: &[&str]) -> Result<Proc> {
    let dir = scope.dir().join(format!("mariadb-{}", node.role));
    with_hostname(&mut command, &node.role);
    command.arg("--no-defaults").args(SETTINGS).arg("--port=3306").args(options);
    for (option, file) in
        [("datadir", "data"), ("socket", "s"), ("pid-file", "pid"), ("init-file", "init.sql")]
    {
        command.arg(format!("--{option}={}", dir.join(file).display()));
    }
    command.stdin(Stdio::null());
    let mut server = Proc::spawn("mariadbd", command, &dir.join("log"), scope.lifetime())?;
    let socket = dir.join("s");
    eventually(PATIENCE, &format!("the greeting of MariaDB on {}", node.role), || {
        server.check_alive()?;
        let greeting = UnixStream::connect(&socket).and_then(|mut s| s.read_exact(&mut [0; 5]));
        Ok(greeting.map_or_else(|error| Seen::NotYet(error.to_string()), Seen::Yes))
    })?;
    Ok(server)
}

/// The notes' client command, without the program's name.
pub fn client_args(vip: IpAddr) -> Vec<String> {
    ["-u", "root", "-p123", "-h", &vip.to_string()].map(str::to_owned).into()
}

/// Runs `mysql -u root -p123 -h VIP -e STATEMENT` inside.
pub fn query(netns: &Netns, vip: IpAddr, options: &[&str], statement: &str) -> Result<Finished> {
    let mut command = netns.command("mysql")?;
    command.args(client_args(vip)).args(options).args(["-e", statement]);
    proc::run(command)
}

/// `select @@hostname` by a new connection to the VIP.
pub fn hostname(netns: &Netns, vip: IpAddr) -> Result<String> {
    Ok(query(netns, vip, &["-N", "-B"], "select @@hostname;")?.ok()?.trim().to_owned())
}

/// A `mysql` client that stays connected.
pub struct MysqlSession {
    client: Proc,
    input: ChildStdin,
    answers: usize,
}

impl MysqlSession {
    /// Starts the client; its log is `name` in the lab's directory.
    pub fn open(scope: &Scope, netns: &Netns, vip: IpAddr, name: &str) -> Result<Self> {
        let mut command = netns.command("mysql")?;
        command
            .args(client_args(vip))
            .args(["-N", "-B", "--unbuffered", "--skip-reconnect"])
            .stdin(Stdio::piped());
        let mut client = Proc::spawn("mysql", command, &scope.dir().join(name), proc::Lifetime::Guarded)?;
        let input = client.stdin().context("the client has no standard input")?;
        Ok(Self { client, input, answers: 0 })
    }

    /// `select @@hostname` on the open connection.
    pub fn hostname(&mut self) -> Result<String> {
        self.input.write_all(b"select @@hostname;\n")?;
        let answers = self.answers;
        let answer = eventually(PATIENCE, "an answer in the open mysql session", || {
            // It goes on living after an error of the connection, and reconnects: any such line fails us.
            self.client.check_alive()?;
            let log = self.client.log();
            if let Some(error) = log.lines().find(|line| line.starts_with("ERROR")) {
                anyhow::bail!("the open mysql session failed: {error}");
            }
            Ok(match log.lines().nth(answers) {
                Some(line) if log.ends_with('\n') => Seen::Yes(line.to_owned()),
                _ => Seen::NotYet(format!("{answers} answers before")),
            })
        })?;
        self.answers += 1;
        Ok(answer)
    }
}

/// A fresh data directory, made once for this build directory and version of MariaDB.
fn template() -> Result<PathBuf> {
    let version = proc::run({
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--version"]);
        command
    })?;
    let version = version.ok()?.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
    let cache = build_dir()?.join("lb-tests");
    fs::create_dir_all(&cache)?;
    let template = cache.join(format!("mariadb-{version}"));
    // Tests run in parallel; the first one makes it, and the rename makes it whole or absent.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if !template.is_dir() {
        install(&cache.join("unfinished"), &template)?;
    }
    Ok(template)
}

fn install(unfinished: &Path, template: &Path) -> Result<()> {
    // Left over by an interrupted run, or not there.
    let _ = fs::remove_dir_all(unfinished);
    let mut command = Command::new("mariadb-install-db");
    command.args([
        "--no-defaults",
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]);
    command.args(["--skip-name-resolve", "--innodb-log-file-size=4M"]);
    command.arg(format!("--datadir={}", unfinished.display()));
    proc::run_with(command, "", INSTALL_LIMIT)?.ok()?;
    Ok(fs::rename(unfinished, template)?)
}

/// Waits until the VIP answers `select @@hostname` at all, for use where readiness has no other sign.
pub fn wait_for(netns: &Netns, vip: IpAddr) -> Result<String> {
    until_ok(PATIENCE, &format!("MariaDB to answer at {vip}"), || hostname(netns, vip))
}
