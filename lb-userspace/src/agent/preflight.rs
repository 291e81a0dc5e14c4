//! What must be true of the machine before anything is touched.

use anyhow::{Result, bail, ensure};

/// The oldest kernel that we promise: `bpf_loop` came with 5.17, XDP fragments with 5.18.
const OLDEST: (u32, u32) = (6, 1);

/// Checks architecture, privileges and kernel.
pub fn check() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "lb runs on x86_64 only for now: the flow table relies on its order of loads and stores \
         (ARCHITECTURE.md, \"The flow table\")"
    );
    if !rustix::process::geteuid().is_root() {
        bail!(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "lb run needs root: it loads an XDP program and changes interfaces; use `sudo lb run ...` or the systemd unit",
        ));
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(found) if found < OLDEST => bail!(
            "this kernel is {release}; lb needs {}.{} or newer (XDP fragments and bpf_loop)",
            OLDEST.0,
            OLDEST.1
        ),
        _ => Ok(()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("6.1.0-56-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("odd"), None);
    }
}
