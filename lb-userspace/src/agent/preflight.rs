//! What must be true of the machine before anything is touched.

use std::io;

use anyhow::{Result, bail, ensure};

use crate::dataplane::kernel;

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
        ensure!(
            !kernel::is_too_old(release),
            "this kernel is {release}; lb needs {}: boot a newer one",
            kernel::NEEDED
        );
        Ok(())
    }
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
    fn a_kernel_that_is_too_old_is_refused_and_named() {
        let release = "5.10.0-28-amd64";
        refused(Machine { release, ..GOOD }, Exit::Failure, &[release, "lb needs 6.1 or newer"]);
        GOOD.check().expect("a good one");
    }

    #[test]
    fn root_and_architecture() {
        refused(Machine { root: false, ..GOOD }, Exit::NoPermission, &["needs root", "sudo lb run"]);
        refused(Machine { x86_64: false, ..GOOD }, Exit::Failure, &["x86_64"]);
    }
}
