//! What must be true of the machine before anything is touched.

use std::io;

use anyhow::{Result, bail, ensure};

/// The oldest kernel that we promise: `bpf_loop` came with 5.17, XDP fragments with 5.18.
const OLDEST: (u32, u32) = (6, 1);

/// What of the machine decides.
struct Machine<'a> {
    x86_64: bool,
    root: bool,
    /// As `uname -r` says.
    release: &'a str,
}

/// Checks architecture, privileges and kernel.
///
/// # Errors
/// The first that is missing. Without root it is an [`io::Error`] of permission, which has an exit code
/// of its own.
pub fn check() -> Result<()> {
    Machine {
        x86_64: cfg!(target_arch = "x86_64"),
        root: rustix::process::geteuid().is_root(),
        release: &rustix::system::uname().release().to_string_lossy(),
    }
    .check()
}

impl Machine<'_> {
    fn check(&self) -> Result<()> {
        let Self { x86_64, root, release } = *self;
        ensure!(
            x86_64,
            "lb runs on x86_64 only for now: the flow table relies on its order of loads and stores \
             (ARCHITECTURE.md, \"The flow table\")"
        );
        if !root {
            bail!(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "lb run needs root: it loads an XDP program and changes interfaces; use `sudo lb run ...` or the \
                 systemd unit",
            ));
        }
        match version(release) {
            Some(found) if found < OLDEST => bail!(
                "this kernel is {release}; lb needs {}.{} or newer (XDP fragments and bpf_loop): boot a newer one",
                OLDEST.0,
                OLDEST.1
            ),
            // One that cannot be told apart is not refused: the verifier has the last word.
            _ => Ok(()),
        }
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{CliError, Exit};

    const GOOD: Machine<'_> = Machine { x86_64: true, root: true, release: "6.1.0-56-amd64" };

    #[track_caller]
    fn refused(machine: Machine<'_>, exit: Exit, words: &[&str]) {
        let error = CliError::from(machine.check().expect_err("refused"));
        assert_eq!(error.exit(), exit);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)) && !text.contains('\n'), "{text}");
    }

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("6.1.0-56-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn a_kernel_that_is_too_old_is_refused_and_named() {
        for release in ["5.10.0-28-amd64", "5.19.17", "6.0.19", "4.18.0-553.el8_10.x86_64"] {
            refused(Machine { release, ..GOOD }, Exit::Failure, &[release, "lb needs 6.1 or newer"]);
        }
        for release in ["6.1.0-56-amd64", "6.2.1", "6.18.44", "7.0.0-rc1", "odd"] {
            Machine { release, ..GOOD }.check().expect(release);
        }
    }

    #[test]
    fn root_and_architecture() {
        refused(Machine { root: false, ..GOOD }, Exit::NoPermission, &["needs root", "sudo lb run"]);
        refused(Machine { x86_64: false, ..GOOD }, Exit::Failure, &["x86_64"]);
    }
}
