//! Where things are, and who we are.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The workspace's root. From the crate's own place, so that every verb works in every directory.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds (`CARGO_TARGET_DIR`, else `target`).
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Files worth keeping between clones: `$XDG_CACHE_HOME/lb`, else `~/.cache/lb`, else the target directory.
pub fn cache_dir() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    cache.map_or_else(target_dir, |dir| dir.join("lb"))
}

/// Whether our effective user is root: the owner of /proc/self.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Refuses to go on without root, saying why `what` needs it.
pub fn require_root(what: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "{what} needs root: it makes network namespaces and loads XDP programs. \
         Run it as `sudo -E env \"PATH=$PATH\" cargo xtask ...`"
    )
}

/// The path of a command, looked up in PATH and in the sbin directories, which a user's PATH often lacks.
pub fn find_command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

/// The content of a text file, with its name in the error.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}
