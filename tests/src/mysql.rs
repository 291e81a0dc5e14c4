//! A real MySQL server, where MariaDB is not enough: `cargo xtask setup` unpacks it into the cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    netns::with_hostname,
    proc::{self, Finished, Proc},
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, until_ok},
};

/// The password of everybody who has one.
pub const PASSWORD: &str = "geheim-und-lang";

/// Making a data directory takes a while.
const INSTALL_LIMIT: Duration = Duration::from_secs(120);

/// Small; a lab's data is not kept.
const SETTINGS: [&str; 9] = [
    "--user=root",
    "--innodb-buffer-pool-size=8M",
    "--innodb-redo-log-capacity=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--mysqlx=OFF",
    "--secure-file-priv=",
];

/// On port 3306 of every address of its node, with its own certificate.
pub struct Mysql {
    pub proc: Proc,
    socket: PathBuf,
}

impl Mysql {
    /// With the users `checker` and `other`, of [`PASSWORD`], and `open`, of none.
    pub fn start(scope: &Scope, node: &Node, options: &[&str]) -> Result<Self> {
        Self::start_without(scope, node, options, &[])
    }

    /// The same without some of the files that a fresh data directory has.
    pub fn start_without(scope: &Scope, node: &Node, options: &[&str], files: &[&str]) -> Result<Self> {
        let dir = scope.dir().join(format!("mysql-{}", node.role));
        fs::create_dir(&dir)?;
        let data = dir.join("data");
        let mut install = mysqld(Command::new(loader()?))?;
        install.arg("--initialize-insecure").arg(datadir(&data));
        proc::run_with(install, "", INSTALL_LIMIT)?.ok()?;
        files.iter().try_for_each(|file| fs::remove_file(data.join(file)))?;
        let socket = dir.join("s");
        let mut command = mysqld(node.netns.command(loader()?)?)?;
        with_hostname(&mut command, &node.role);
        command.arg(datadir(&data)).arg(format!("--socket={}", socket.display())).args(options);
        command
            .args(["--port=3306", "--bind-address=*"])
            .arg(format!("--pid-file={}", dir.join("pid").display()));
        let mut server =
            Self { proc: Proc::spawn("mysqld", command, &dir.join("log"), scope.lifetime())?, socket };
        until_ok(PATIENCE, &format!("MySQL on {} to answer", node.role), || {
            server.proc.check_alive()?;
            server.sql("SELECT 1")
        })?;
        for user in ["checker", "other"] {
            server.sql(&format!("CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'"))?;
        }
        server.sql("CREATE USER open@'%'")?;
        Ok(server)
    }

    /// As its administrator, on its socket.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.ask(statement)?.ok()
    }

    /// Makes it forget the hashes of passwords that it has seen: the passwords are set anew.
    pub fn forget(&self) -> Result<()> {
        for user in ["checker", "other"] {
            self.sql(&format!("ALTER USER {user}@'%' IDENTIFIED BY '{PASSWORD}'"))?;
        }
        Ok(())
    }

    fn ask(&self, statement: &str) -> Result<Finished> {
        let mut client = Command::new("mysql");
        client.args(["-u", "root", "-N", "-B", "-S"]).arg(&self.socket).args(["-e", statement]);
        proc::run(client)
    }
}

fn datadir(data: &Path) -> String {
    format!("--datadir={}", data.display())
}

fn tree() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let cache = cache.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let tree = cache.context("there is neither HOME nor XDG_CACHE_HOME")?.join("lb/mysql");
    ensure!(tree.is_dir(), "{} is missing: `cargo xtask setup` makes it", tree.display());
    Ok(tree)
}

/// Its own: the libraries are another release's.
fn loader() -> Result<PathBuf> {
    Ok(tree()?.join("usr/lib64/ld-linux-x86-64.so.2"))
}

/// The server by `loader`, as far as it is always the same.
fn mysqld(mut loader: Command) -> Result<Command> {
    let usr = tree()?.join("usr");
    let at = |what: &str| usr.join(what).display().to_string();
    loader.arg("--library-path").arg(format!("{}:{}", at("lib/x86_64-linux-gnu"), at("lib/mysql/private")));
    loader.args([at("sbin/mysqld"), "--no-defaults".to_owned(), format!("--basedir={}", usr.display())]);
    loader.arg(format!("--lc-messages-dir={}", at("share/mysql")));
    loader.arg(format!("--character-sets-dir={}", at("share/mysql/charsets")));
    loader.arg(format!("--plugin-dir={}", at("lib/mysql/plugin"))).args(SETTINGS);
    Ok(loader)
}
