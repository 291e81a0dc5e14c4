//! The way of a packet from a BPF program into the kernel and back.
//!
//! A *step* is an executed instruction of the guest. Those of a program are its own. What it calls in the kernel, a helper
//! or the return thunk, is taken down to the instruction that called it. An interrupt is nobody's if it comes while the
//! program itself runs: a block then follows that the program did not go to. While a helper runs it cannot be told from
//! the helper.

use crate::code::{Exit, is_bpf};

/// A block of guest code, which runs from its first instruction to its last one.
pub struct Block<C> {
    pub start: u64,
    /// Instructions.
    pub length: u64,
    pub exit: Exit,
    /// Of the last instruction: what it calls is counted there.
    pub last: C,
}

/// Where the CPU is between a program and the kernel.
#[derive(Debug)]
pub struct Walk<C> {
    /// Where the program's block that runs is about to go to in the kernel.
    leaving: Option<Leaving<C>>,
    /// Helpers that have not returned: more than one if a helper calls a function of the program, as `bpf_loop` does.
    called: Vec<Called<C>>,
}

#[derive(Debug)]
struct Leaving<C> {
    to: u64,
    by: C,
    /// Where a call returns to.
    back: Option<u64>,
}

#[derive(Debug)]
struct Called<C> {
    by: C,
    back: u64,
}

impl<C: Clone> Walk<C> {
    /// In no program.
    pub const START: Self = Self { leaving: None, called: Vec::new() };

    /// A block begins: of the kernel's instructions in it, whose they are.
    pub fn enter(&mut self, block: &Block<C>) -> Option<(C, u64)> {
        if is_bpf(block.start) {
            self.called.pop_if(|called| called.back == block.start);
            let leaving = |to, back| (!is_bpf(to)).then(|| Leaving { to, by: block.last.clone(), back });
            self.leaving = match block.exit {
                Exit::Call { to, back } => leaving(to, Some(back)),
                Exit::Jump { to } => leaving(to, None),
                Exit::Other => None,
            };
            return None;
        }
        let by = match self.leaving.take().filter(|leaving| leaving.to == block.start) {
            Some(Leaving { by, back, .. }) => {
                self.called.extend(back.map(|back| Called { by: by.clone(), back }));
                by
            }
            None => self.called.last()?.by.clone(),
        };
        Some((by, block.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: u64 = 0xffff_ffff_c000_1000;
    const SUBPROGRAM: u64 = 0xffff_ffff_c000_2000;
    const HELPER: u64 = 0xffff_ffff_8100_0000;
    const THUNK: u64 = 0xffff_ffff_8200_0000;
    const INTERRUPT: u64 = 0xffff_ffff_8300_0000;

    fn block(start: u64, exit: Exit, last: &'static str) -> Block<&'static str> {
        Block { start, length: 5, exit, last }
    }

    /// What is taken down of these blocks, one after the other.
    fn walked(blocks: &[Block<&'static str>]) -> Vec<Option<&'static str>> {
        let mut walk = Walk::START;
        blocks.iter().map(|block| walk.enter(block).map(|(by, _)| by)).collect()
    }

    fn call(to: u64) -> Exit {
        Exit::Call { to, back: PROGRAM + 5 }
    }

    #[test]
    fn a_helper_is_its_callers_until_it_returns() {
        let way = [
            block(PROGRAM, call(HELPER), "call"),
            block(HELPER, Exit::Other, ""),
            block(HELPER + 64, Exit::Other, ""),
            block(PROGRAM + 5, Exit::Other, ""),
            block(HELPER, Exit::Other, ""),
        ];
        assert_eq!(walked(&way), [None, Some("call"), Some("call"), None, None]);
    }

    #[test]
    fn a_program_ends_behind_the_return_thunk() {
        let way = [
            block(PROGRAM, call(SUBPROGRAM), "call"),
            block(SUBPROGRAM, Exit::Jump { to: THUNK }, "return"),
            block(THUNK, Exit::Other, ""),
            block(PROGRAM + 5, Exit::Jump { to: THUNK }, "end"),
            block(THUNK, Exit::Other, ""),
            block(HELPER, Exit::Other, ""),
        ];
        assert_eq!(walked(&way), [None, None, Some("return"), None, Some("end"), None]);
    }

    #[test]
    fn a_helper_that_calls_back_goes_on() {
        let way = [
            block(PROGRAM, call(HELPER), "call"),
            block(HELPER, Exit::Other, ""),
            block(SUBPROGRAM, Exit::Jump { to: THUNK }, "return"),
            block(THUNK, Exit::Other, ""),
            block(HELPER + 64, Exit::Other, ""),
            block(PROGRAM + 5, Exit::Other, ""),
            block(HELPER, Exit::Other, ""),
        ];
        assert_eq!(walked(&way), [None, Some("call"), None, Some("return"), Some("call"), None, None]);
    }

    #[test]
    fn an_interrupt_of_the_program_is_nobodys() {
        let way = [
            block(PROGRAM, Exit::Other, ""),
            block(INTERRUPT, Exit::Other, ""),
            block(PROGRAM + 9, call(HELPER), "call"),
            block(INTERRUPT, Exit::Other, ""),
            block(HELPER, Exit::Other, ""),
        ];
        assert_eq!(walked(&way), [None; 5]);
    }
}
