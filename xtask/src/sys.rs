//! The two things of libc that std does not offer. The only `unsafe` of xtask.

use std::sync::atomic::{AtomicBool, Ordering};

use libc::{SIGINT, c_int, pid_t};

/// Set by the handler; a signal handler has nothing but globals.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C reach the running child only: it cleans up its lab, xtask waits for it and then
/// fails because the child did. A handler (and not SIG_IGN) because exec resets handlers to the
/// default, but keeps an ignored signal ignored.
pub fn leave_interrupts_to_children() {
    extern "C" fn note(_: c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(c_int);
    // SAFETY: an atomic store is all that the handler does, so it is async-signal-safe.
    unsafe { libc::signal(SIGINT, handler as libc::sighandler_t) };
}

/// Whether Ctrl-C was pressed: then nothing new is begun.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sends a signal; a process that is already gone is no error.
pub fn kill(pid: u32, signal: c_int) {
    let Ok(pid) = pid_t::try_from(pid) else { return };
    // 0 and negative numbers would address whole process groups.
    if pid > 1 {
        // SAFETY: kill(2) touches no memory of ours.
        unsafe { libc::kill(pid, signal) };
    }
}
