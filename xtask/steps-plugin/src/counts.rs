//! The counts of a window, which is what runs between two marks, and the file that they go to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of one instruction of a program. It lives as long as qemu: code that is translated adds to it.
#[derive(Default)]
pub struct Counter {
    /// How often it ran.
    pub ran: AtomicU64,
    /// Instructions of the kernel that ran because it called them.
    pub called: AtomicU64,
}

/// All of them by their addresses, and where each window is written down when it ends.
pub struct Counts {
    counters: BTreeMap<u64, &'static Counter>,
    out: File,
}

impl Counts {
    pub fn new(out: &Path) -> io::Result<Self> {
        Ok(Self { counters: BTreeMap::new(), out: File::create(out)? })
    }

    /// The counter of the instruction at this address: the same one, as often as it is translated.
    pub fn at(&mut self, address: u64) -> &'static Counter {
        self.counters.entry(address).or_insert_with(|| Box::leak(Box::default()))
    }

    /// A window begins: what ran before is forgotten.
    pub fn begin(&self) {
        for counter in self.counters.values() {
            counter.ran.store(0, Relaxed);
            counter.called.store(0, Relaxed);
        }
    }

    /// A window ends: a line for itself, and one for each instruction that ran, `ADDRESS RAN CALLED`.
    pub fn end(&mut self) -> io::Result<()> {
        self.out.write_all(written(&self.counters).as_bytes())
    }
}

fn written(counters: &BTreeMap<u64, &Counter>) -> String {
    let mut text = String::from("window\n");
    for (address, counter) in counters {
        let (ran, called) = (counter.ran.load(Relaxed), counter.called.load(Relaxed));
        if ran > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{address:x} {ran} {called}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_is_written() {
        let [ran, idle] = [Counter { ran: 7.into(), called: 9.into() }, Counter::default()];
        let counters = BTreeMap::from([(0xffff_ffff_c000_0010, &ran), (0xffff_ffff_c000_0014, &idle)]);
        assert_eq!(written(&counters), "window\nffffffffc0000010 7 9\n");
    }
}
