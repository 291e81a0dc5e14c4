//! What the program in the VM says: where code lies, which line it comes from, and what ran in which window.

use std::collections::BTreeMap;
use std::ops::Range;

/// What its lines begin with.
const WORD: &str = "STEPS ";
/// Where our sources lie, whatever stands before it in a path.
const OURS: [&str; 2] = ["lb-ebpf/src/", "lb-common/src/"];

/// All that it said.
#[derive(Debug, Default)]
pub struct Said {
    /// Where the functions of what makes packets lie.
    makers: Vec<Range<u64>>,
    /// Where those of the programs under test lie.
    functions: Vec<Range<u64>>,
    /// Where the code of a line begins.
    places: BTreeMap<u64, Place>,
    /// In the order in which they were.
    pub windows: Vec<Way>,
}

/// A line of the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: u32,
}

/// What an instruction was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// This line of ours.
    Ours(&'a Place),
    /// A line of core's or of aya's, which the compiler has put into our code: it follows on this line of ours. (A line
    /// of the library's own, if none of ours stands before it in the function.)
    Library(&'a Place),
    /// The compiler has noted no line.
    Nowhere,
}

/// What ran in a window.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    pub name: String,
    pub packets: u64,
    /// Instructions of a packet by the VM's clock, with all that makes packets and runs the program.
    pub clock: u64,
}

impl Said {
    /// Takes a line of the VM's output; whether it was meant for us.
    pub fn take(&mut self, line: &str) -> bool {
        line.strip_prefix(WORD).and_then(|rest| self.understand(rest)).is_some()
    }

    fn understand(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let hex = |word| u64::from_str_radix(word, 16).ok();
        match kind {
            "maker" | "code" => {
                let (start, end) = rest.split_once(' ')?;
                let functions = if kind == "code" { &mut self.functions } else { &mut self.makers };
                functions.push(hex(start)?..hex(end)?);
            }
            "line" => {
                let mut words = rest.splitn(3, ' ');
                let (address, line) = (hex(words.next()?)?, words.next()?.parse().ok()?);
                self.places.insert(address, Place { file: source(words.next()?), line });
            }
            "window" => {
                let mut words = rest.splitn(3, ' ');
                let (packets, clock) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                self.windows.push(Way { name: words.next()?.to_owned(), packets, clock });
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether the instruction at this address is one of what makes packets.
    pub fn is_makers(&self, address: u64) -> bool {
        self.makers.iter().any(|function| function.contains(&address))
    }

    /// Where the instruction at this address comes from, if it is one of the programs under test.
    pub fn origin(&self, address: u64) -> Option<Origin<'_>> {
        let function = self.functions.iter().find(|function| function.contains(&address))?;
        let mut before = self.places.range(function.start..=address).rev().map(|(_, place)| place);
        let Some(own) = before.next() else { return Some(Origin::Nowhere) };
        Some(match is_ours(&own.file) {
            true => Origin::Ours(own),
            false => Origin::Library(before.find(|place| is_ours(&place.file)).unwrap_or(own)),
        })
    }
}

fn is_ours(file: &str) -> bool {
    OURS.iter().any(|ours| file.starts_with(ours))
}

/// A file by its path from the root of the repository; one that is not ours by the library that it is of.
fn source(path: &str) -> String {
    let ours = OURS.iter().find_map(|ours| path.find(ours)).map(|at| &path[at..]);
    let library = || {
        let crates = path.split_once("/library/").map(|(_, rest)| rest);
        crates
            .or_else(|| path.split_once("/registry/src/").and_then(|(_, rest)| Some(rest.split_once('/')?.1)))
    };
    ours.or_else(library).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_of_the_line_before_it_in_its_function() {
        let mut said = Said::default();
        let lines = ["line 100 7 /x/lb-ebpf/src/main.rs", "line 120 9 /library/core/a.rs"];
        for line in ["maker 300 310", "code 100 140", "code 200 210"].iter().chain(&lines) {
            assert!(said.take(&format!("{WORD}{line}")), "{line}");
        }
        let main = Place { file: "lb-ebpf/src/main.rs".to_owned(), line: 7 };
        assert_eq!(said.origin(0x100), Some(Origin::Ours(&main)));
        assert_eq!(said.origin(0x11f), Some(Origin::Ours(&main)));
        assert_eq!(said.origin(0x13f), Some(Origin::Library(&main)));
        // Behind a function, and in one without lines.
        assert_eq!((said.origin(0x140), said.origin(0x200)), (None, Some(Origin::Nowhere)));
        assert!(said.is_makers(0x300) && !said.is_makers(0x200) && said.origin(0x300).is_none());
    }

    #[test]
    fn windows_have_names_with_blanks() {
        let mut said = Said::default();
        assert!(said.take("STEPS window 4096 745 IPv4, new flow"));
        assert_eq!(said.windows, [Way { name: "IPv4, new flow".to_owned(), packets: 4096, clock: 745 }]);
        for other in ["running 1 test", "STEPS", "STEPS way 1", "STEPS window x 1 y"] {
            assert!(!said.take(other), "{other}");
        }
    }

    #[test]
    fn sources_are_named_as_people_name_them() {
        assert_eq!(source("/work/main/lb-common/src/flow.rs"), "lb-common/src/flow.rs");
        assert_eq!(source("/r/lib/rustlib/src/rust/library/core/src/num/mod.rs"), "core/src/num/mod.rs");
        assert_eq!(source("/c/registry/src/index-1/aya-ebpf-0.2.1/src/lib.rs"), "aya-ebpf-0.2.1/src/lib.rs");
        assert_eq!(source("elsewhere.rs"), "elsewhere.rs");
    }
}
