//! Guest code, x86-64, as far as it has to be understood: where it lies, how a block of it ends, and the marks.

use std::ops::Range;

/// Where the kernel puts modules and BPF programs (Documentation/x86/x86_64/mm.rst), below its own text.
const MODULES: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_ff00_0000;
/// Where the kernel's half of the addresses begins (the same document).
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// Opcodes of `call` and `jmp` by a distance of 32 bits, which is all that the kernel's JIT leaves a program by.
const CALL: u8 = 0xe8;
const JUMP: u8 = 0xe9;
/// A `nop` of 8 bytes, whose last four are an address that nothing is read from: no compiler writes these.
const NOP: [u8; 4] = [0x0f, 0x1f, 0x84, 0x00];
/// The other half of it is in tests/src/mark.rs.
const BEGIN: u32 = 0x5354_4550;
const END: u32 = 0x5354_4551;

/// What the program in the VM says by an instruction that does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin,
    End,
}

/// The last instruction of a block, if it goes to one known address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `back` is the instruction behind it.
    Call {
        to: u64,
        back: u64,
    },
    Jump {
        to: u64,
    },
    Other,
}

/// Whether a BPF program (or a module) lies there.
pub fn is_bpf(address: u64) -> bool {
    MODULES.contains(&address)
}

/// Whether it is the kernel's, programs included.
pub fn is_kernel(address: u64) -> bool {
    address >= KERNEL
}

impl Mark {
    /// The mark that an instruction is, if it is one.
    pub fn of(instruction: &[u8]) -> Option<Self> {
        let what = instruction.strip_prefix(&NOP)?;
        match u32::from_le_bytes(what.try_into().ok()?) {
            BEGIN => Some(Self::Begin),
            END => Some(Self::End),
            _ => None,
        }
    }
}

impl Exit {
    /// How a block goes on whose last instruction lies at `address`.
    pub fn of(instruction: &[u8], address: u64) -> Self {
        let Some((opcode, distance)) = instruction.split_first() else { return Self::Other };
        let Ok(distance) = distance.try_into().map(i32::from_le_bytes) else { return Self::Other };
        let back = address.wrapping_add(instruction.len() as u64);
        let to = back.wrapping_add_signed(distance.into());
        match *opcode {
            CALL => Self::Call { to, back },
            JUMP => Self::Jump { to },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_other_instructions() {
        assert_eq!(Mark::of(&[0x0f, 0x1f, 0x84, 0x00, 0x50, 0x45, 0x54, 0x53]), Some(Mark::Begin));
        assert_eq!(Mark::of(&[0x0f, 0x1f, 0x84, 0x00, 0x51, 0x45, 0x54, 0x53]), Some(Mark::End));
        assert_eq!(Mark::of(&[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0]), None);
        assert_eq!(Mark::of(&[0x90]), None);
    }

    #[test]
    fn an_exit_has_its_target() {
        let at = 0xffff_ffff_c000_1000;
        assert_eq!(Exit::of(&[0xe8, 0xfb, 0xff, 0xff, 0xff], at), Exit::Call { to: at, back: at + 5 });
        assert_eq!(Exit::of(&[0xe9, 0x10, 0, 0, 0], at), Exit::Jump { to: at + 0x15 });
        // A short jump, a conditional one, a return.
        for other in [&[0xeb, 0x10][..], &[0x0f, 0x84, 0x10, 0, 0, 0], &[0xc3]] {
            assert_eq!(Exit::of(other, at), Exit::Other);
        }
    }
}
