//! The VM's root file system: busybox, iproute2, modules, and the program with its libraries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cmd::Cmd;
use crate::repo;
use crate::vm::Job;
use crate::vm::cpio::Tree;
use crate::vm::kernel::Kernel;

const INIT: &str = include_str!("../../vm/init.sh");
/// Real commands in place of busybox's smaller ones, if this machine has them.
const COMMANDS: &[&str] = &["ip", "tc", "ethtool", "nsenter", "unshare"];
/// Loaded in every VM: what every lab is made of.
const ALWAYS: &[&str] = &["veth"];

/// The initramfs for one job.
pub fn build(kernel: &Kernel, job: &Job) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    for directory in ["/dev", "/proc", "/root", "/run", "/sys", "/tmp", "/usr/bin", "/usr/sbin", "/var"] {
        tree.directory(directory);
    }
    // The kernel opens it for init, before anything is mounted. 5:1 as in Documentation/admin-guide/devices.txt.
    tree.char_device("/dev/console", 5, 1);
    tree.link("/var/run", "/run");
    tree.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    tree.file("/etc/group", "root:x:0:\n", 0o644);
    tree.file("/init", INIT, 0o755);
    add_busybox(&mut tree)?;
    for name in COMMANDS {
        if let Some(command) = repo::find_command(name) {
            add_program(&mut tree, &command, &Path::new("/sbin").join(name))?;
        }
    }
    add_modules(&mut tree, kernel)?;
    add_job(&mut tree, job)?;
    Ok(tree.archive())
}

fn add_busybox(tree: &mut Tree) -> Result<()> {
    let busybox = repo::find_command("busybox").context("busybox is missing: run `cargo xtask setup vm`")?;
    add_program(tree, &busybox, Path::new("/bin/busybox"))?;
    for applet in Cmd::new(&busybox).arg("--list").output()?.lines() {
        if applet != "busybox" && !COMMANDS.contains(&applet) {
            tree.link(Path::new("/bin").join(applet), "busybox");
        }
    }
    // The kernel loads modules on demand through this path.
    tree.link("/sbin/modprobe", "/bin/busybox");
    // Debian's busybox shell prefers its applets to PATH; dash runs what is there.
    if let Some(dash) = repo::find_command("dash") {
        add_program(tree, &dash, Path::new("/bin/sh"))?;
    }
    Ok(())
}

fn add_modules(tree: &mut Tree, kernel: &Kernel) -> Result<()> {
    let (from, files) = kernel.module_files()?;
    let into = Path::new("/lib/modules").join(&kernel.version);
    files.iter().try_for_each(|file| add_file(tree, &from.join(file), &into.join(file)))
}

fn add_job(tree: &mut Tree, job: &Job) -> Result<()> {
    let name = job.program.file_name().context("the program has no file name")?;
    let program = Path::new("/vm/bin").join(name);
    add_program(tree, &job.program, &program)?;
    for (host, guest) in &job.files {
        ensure!(guest.is_absolute(), "--file: {} is not an absolute path in the VM", guest.display());
        add_file(tree, host, guest)?;
    }
    for name in &job.commands {
        let command =
            repo::find_command(name).with_context(|| format!("there is no command {name} in PATH"))?;
        add_program(tree, &command, &Path::new("/sbin").join(name))?;
    }
    let modules: String = ALWAYS
        .iter()
        .copied()
        .chain(job.modules.iter().map(String::as_str))
        .fold(String::new(), |list, module| list + module + "\n");
    tree.file("/vm/modules", modules, 0o644);
    tree.file("/vm/run", script(&program, job), 0o644);
    Ok(())
}

/// The shell script that starts the program.
fn script(program: &Path, job: &Job) -> String {
    let mut script = String::new();
    for (key, value) in &job.envs {
        script += &format!("export {key}={}\n", quoted(value));
    }
    script += &format!("exec {}", quoted(&program.to_string_lossy()));
    for arg in &job.args {
        script += &format!(" {}", quoted(arg));
    }
    script + "\n"
}

/// A program and the libraries that it is linked with.
fn add_program(tree: &mut Tree, host: &Path, guest: &Path) -> Result<()> {
    add_file(tree, host, guest)?;
    // It fails for what is not dynamically linked: then there are none.
    let libraries = Cmd::new("ldd").arg(host).output().unwrap_or_default();
    for library in libraries_of(&libraries) {
        if !tree.contains(&library) {
            add_file(tree, &library, &library)?;
        }
    }
    Ok(())
}

fn add_file(tree: &mut Tree, host: &Path, guest: &Path) -> Result<()> {
    let context = || format!("cannot take {} into the VM", host.display());
    // A relative path is one of the workspace's.
    let host = repo::root().join(host);
    let mode = fs::metadata(&host).with_context(context)?.permissions().mode() & 0o777;
    tree.file(guest, fs::read(&host).with_context(context)?, mode);
    Ok(())
}

/// The absolute paths in the output of ldd: `libc.so.6 => /lib/libc.so.6 (0x..)`, `/lib64/ld.so (0x..)`.
fn libraries_of(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// One word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7e)\n\t/lib64/ld-linux-x86-64.so.2 (0x7d)\n";
        let found = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_of(ldd), found);
        assert!(libraries_of("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn arguments_survive_the_shell() {
        let mut job = Job::new("/x/prog".into(), &["it's", "$HOME"]);
        job.envs.push(("KEY".to_owned(), "a b".to_owned()));
        assert_eq!(
            script(Path::new("/vm/bin/prog"), &job),
            "export KEY='a b'\nexec '/vm/bin/prog' 'it'\\''s' '$HOME'\n"
        );
    }
}
