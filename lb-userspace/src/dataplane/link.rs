//! The end of a pinned link, with bpf(2), as aya has no words for it.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::bpf::{Obj, bpf, opened};

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Takes the program of a pinned link off its interface, and removes the pin. When it returns, the interface is free:
/// to remove the pin alone leaves the program to a worker of the kernel (`bpf_link_put`), and who attaches another one
/// before that is refused.
///
/// # Errors
/// The pin cannot be removed.
pub fn take_off(pin: &Path) -> io::Result<()> {
    if let Err(error) = open(pin).and_then(|link| detach(&link)) {
        // Its end is the kernel's then.
        tracing::warn!(pin = %pin.display(), "detaching the program of a link: {error}");
    }
    fs::remove_file(pin)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = Obj { pathname: path.as_ptr().expose_provenance() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path ends in a 0 byte and lives until the call returns.
    unsafe { opened(BPF_OBJ_GET, &attr) }
}

/// An interface that is gone has no program: no error.
fn detach(link: &OwnedFd) -> io::Result<()> {
    // SAFETY: `link_detach.link_fd` is the first word, and all that is read.
    unsafe { bpf(BPF_LINK_DETACH, &link.as_raw_fd()) }.map(drop)
}
