//! bpf(2), for what aya has no words for.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// The member of `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET (`include/uapi/linux/bpf.h`); the kernel takes a short
/// one.
#[repr(C)]
pub struct Obj {
    pub pathname: u64,
    pub bpf_fd: u32,
    pub file_flags: u32,
}

/// What a command returns.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// `attr` must be the start of the member of `union bpf_attr` that `command` reads, with valid pointers.
pub unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attr`; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// The descriptor that a command returns.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// As of [`bpf`], and `command` must return a new descriptor.
pub unsafe fn opened<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: it is new, so that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
