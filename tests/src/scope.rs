//! The name and the directory of one lab, and the taking down of everything that bears that name.
//!
//! A lab called `L` owns the namespaces `L-*` and the directory `<base>/L` with its own BPF file system mounted on
//! `<base>/L/bpffs`. Since the name alone finds all of it, a crashed lab can be taken down by anybody: by the
//! supervisor of the demo, by `lab down`, and by the next lab that starts.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{netns, proc::Lifetime};

/// The lab that stays up for a developer (`cargo xtask lab up`, `demo --keep`).
pub const DEVELOPER_LAB: &str = "lb-lab";

/// Owner of a lab's name; dropping it takes everything of that name down, unless it is to be kept.
pub struct Scope {
    name: String,
    dir: PathBuf,
    lifetime: Lifetime,
}

impl Scope {
    /// A new guarded lab with a name nobody else has: `lb<pid>-<n>`. Sweeps the labs of dead processes first.
    pub fn unique() -> Result<Self> {
        sweep_dead();
        let pid = std::process::id();
        for n in 1..=u16::MAX {
            let name = format!("lb{pid}-{n}");
            match fs::create_dir(base_dir()?.join(&name)) {
                Ok(()) => return Self::prepare(name, Lifetime::Guarded),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("cannot make a directory for the lab"),
            }
        }
        bail!("{} labs of process {pid} are left over in {}", u16::MAX, base_dir()?.display())
    }

    /// A lab with the given name.
    pub fn named(name: &str, lifetime: Lifetime) -> Result<Self> {
        sweep_dead();
        let dir = base_dir()?.join(name);
        if let Err(error) = fs::create_dir(&dir) {
            bail!(
                "the lab {name} is up already, or left over ({}: {error}); take it down first",
                dir.display()
            );
        }
        Self::prepare(name.to_owned(), lifetime)
    }

    fn prepare(name: String, lifetime: Lifetime) -> Result<Self> {
        let dir = dir_of(&name)?;
        let scope = Self { name, dir, lifetime };
        fs::create_dir(scope.bpffs())?;
        mount(Some("bpffs"), &scope.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a BPF file system for the lab (a lab needs root)")?;
        Ok(scope)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For logs, sockets, data: gone when the lab is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Mount point of this lab's own BPF file system: its pins meet nobody else's, and go when it is unmounted.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpffs")
    }

    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// The namespace of a node.
    pub fn netns_name(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Guarded
            && let Err(error) = teardown(&self.name)
        {
            eprintln!("could not take the lab {} down: {error:#}", self.name);
        }
    }
}

/// Where a lab of that name keeps its files.
pub fn dir_of(name: &str) -> Result<PathBuf> {
    Ok(base_dir()?.join(name))
}

/// Ends every process in the lab's namespaces and removes namespaces, mounts and files. Nothing there is success.
pub fn teardown(name: &str) -> Result<()> {
    for namespace in netns::names(&format!("{name}-")) {
        netns::delete(&namespace)?;
    }
    let dir = dir_of(name)?;
    for mounted in mounts_below(&dir)? {
        // Unmounted since by somebody else: that is what we want.
        let _ = umount2(&mounted, MntFlags::MNT_DETACH);
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Mount points in a lab's directory: its own bpffs, and what an agent has mounted there. Ours have no spaces
/// (which /proc/self/mounts would write in octal).
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Takes down the labs whose process is gone (killed, or interrupted in a test run).
pub fn sweep_dead() {
    let dirs = base_dir().and_then(|base| Ok(fs::read_dir(base)?));
    let dirs = dirs.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    for name in dirs.chain(netns::names("lb")) {
        if let Some(lab) = lab_of_dead_process(&name)
            && let Err(error) = teardown(lab)
        {
            eprintln!("could not sweep the left-over lab {lab}: {error:#}");
        }
    }
}

/// `lb123-4` of `lb123-4` or `lb123-4-director`, if there is no process 123.
fn lab_of_dead_process(name: &str) -> Option<&str> {
    let (pid, rest) = name.strip_prefix("lb")?.split_once('-')?;
    let pid: u32 = pid.parse().ok()?;
    let number = rest.split('-').next()?;
    number.parse::<u16>().ok()?;
    let lab = &name[..name.len() - rest.len() + number.len()];
    (!Path::new("/proc").join(pid.to_string()).exists()).then_some(lab)
}

/// In memory where there is a tmpfs: fsync of a database costs nothing there.
fn base_dir() -> Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }.join(OsStr::new("lb-labs"));
    fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::lab_of_dead_process;

    #[test]
    fn only_labs_of_dead_processes_are_swept() {
        let own = format!("lb{}-1-director", std::process::id());
        assert_eq!(lab_of_dead_process(&own), None);
        // Beyond PID_MAX_LIMIT (2^22): never a live process.
        assert_eq!(lab_of_dead_process("lb99999999-12-backend1"), Some("lb99999999-12"));
        assert_eq!(lab_of_dead_process("lb99999999-12"), Some("lb99999999-12"));
        for foreign in ["lb-lab-director", "lb99999999", "lb99999999-x", "web99999999-1"] {
            assert_eq!(lab_of_dead_process(foreign), None, "{foreign}");
        }
    }
}
