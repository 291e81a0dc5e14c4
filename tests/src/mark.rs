//! Tells qemu's plugin (xtask/steps-plugin) when to count: by instructions that do nothing, and that no compiler writes.

use std::arch::asm;

/// Runs what the plugin is to count.
pub fn counted<T>(run: impl FnOnce() -> T) -> T {
    // The other half of these is in xtask/steps-plugin/src/code.rs: `nop`s of 8 bytes, their last four an address.
    // SAFETY: a `nop` neither reads nor writes anything, its address included.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00", ".long 0x53544550", options(nostack, preserves_flags)) };
    let result = run();
    // SAFETY: as above.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00", ".long 0x53544551", options(nostack, preserves_flags)) };
    result
}
