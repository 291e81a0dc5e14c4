//! Oracle's MySQL, which Debian has in sid alone: fetched once with apt, with every library that it needs, and
//! unpacked into the cache. Nothing of it is installed.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;
use crate::repo;
use crate::setup::say;

/// The server without its services.
const PACKAGE: &str = "mysql-server-core";
/// Of Debian, with its libraries: the machine's own may be older.
const SUITE: &str = "sid";
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Makes `mysql` in the cache, if it is not there.
pub fn ensure() -> Result<()> {
    let tree = repo::cache_dir().join("mysql");
    if is_whole(&tree) {
        return Ok(());
    }
    say(PACKAGE, "MySQL's own passwords (caching_sha2_password), which MariaDB has not; 60 MB, once");
    if repo::find_command("apt-get").is_none() || !Path::new(KEYRING).exists() {
        bail!(
            "this is no Debian: unpack {PACKAGE} of {SUITE} and what it depends on into {} (`dpkg-deb -x`)",
            tree.display()
        );
    }
    let unfinished = repo::cache_dir().join(format!("mysql.unfinished-{}", std::process::id()));
    let made = fetch(&unfinished);
    let made = made.and_then(|()| match fs::rename(unfinished.join("root"), &tree) {
        // Another xtask may have been faster; its tree is as good.
        Err(_) if is_whole(&tree) => Ok(()),
        other => other.context("cannot put MySQL into the cache"),
    });
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    made
}

fn is_whole(tree: &Path) -> bool {
    tree.join("usr/sbin/mysqld").is_file()
}

/// By an apt that knows of this suite alone, and of no package that is installed.
fn fetch(into: &Path) -> Result<()> {
    let (lists, archives) = (into.join("lists"), into.join("cache/archives"));
    for dir in [&lists, &archives, &into.join("root")] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let write = |name: &str, text: &str| {
        let file = into.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write("sources", &format!("deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n"))?;
    write("status", "")?;
    let config = format!(
        "Dir::Etc::sourcelist \"{dir}/sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::lists \"{dir}/lists\";\nDir::State::status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\n",
        dir = into.display()
    );
    write("apt.conf", &config)?;
    let apt = |args: &[&str]| Cmd::new("apt-get").args(args).env("APT_CONFIG", into.join("apt.conf")).run();
    apt(&["update", "-q"])?;
    apt(&["install", "-q", "--download-only", "--yes", "--no-install-recommends", PACKAGE])?;
    let packages = fs::read_dir(&archives)?.flatten().map(|entry| entry.path());
    for package in packages.filter(|path| path.extension().is_some_and(|it| it == "deb")) {
        Cmd::new("dpkg-deb").arg("-x").arg(&package).arg(into.join("root")).run()?;
    }
    match is_whole(&into.join("root")) {
        true => Ok(()),
        false => bail!("{PACKAGE} of {SUITE} contains no mysqld"),
    }
}
