//! What the verifier is made to forget.

use core::arch::asm;

/// `value`, of which the verifier knows nothing any more. `unknown`: a number that was read from a packet.
///
/// Behind a branch the verifier knows what was compared, and walks all that follows once for each outcome. Linux 6.2
/// and later forget what did not matter; 6.1 does not, and walked the program twice as far (839,000 instructions of a
/// million, and too far with two flow tables). Two exclusive-ors with the same number change nothing for the packet,
/// and the verifier does not see that they belong together.
#[inline(always)]
pub fn forgotten(value: u32, unknown: u32) -> u32 {
    let mut word = value as u64;
    // SAFETY: two instructions on registers. By hand, for the compiler would see that they come to nothing.
    unsafe {
        asm!(
            "{word} ^= {unknown}",
            "{word} ^= {unknown}",
            word = inout(reg) word,
            unknown = in(reg) unknown as u64,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    word as u32
}
