//! Counting tests from what libtest prints.

use std::fmt;
use std::ops::AddAssign;

/// How many checks passed and failed; prints as the line that CI reads: `12 passed, 0 failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
}

impl Tally {
    /// One check that passed.
    pub const PASSED: Self = Self { passed: 1, failed: 0 };
    /// One check that failed.
    pub const FAILED: Self = Self { passed: 0, failed: 1 };
    /// Nothing was checked.
    pub const NONE: Self = Self { passed: 0, failed: 0 };

    /// The numbers of a libtest result line
    /// (`test result: ok. 3 passed; 0 failed; 0 ignored; ...`), with or without colours.
    pub fn of_line(line: &str) -> Option<Self> {
        let line = without_colours(line);
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| {
            let part = counts.split("; ").find_map(|part| part.trim().strip_suffix(name))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// ECMA-48 control sequences (ESC [ ... final byte in @..~) removed.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
        } else if chars.next() == Some('[') {
            chars.find(|c| ('@'..='~').contains(c));
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_result_lines() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(Tally::of_line(ok), Some(Tally { passed: 12, failed: 0 }));
        let failed =
            "test result: \x1b[31mFAILED\x1b[0m. 2 passed; 7 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Tally::of_line(failed), Some(Tally { passed: 2, failed: 7 }));
    }

    #[test]
    fn ignores_other_lines() {
        for line in ["", "test vip::parses ... ok", "running 3 tests", "12 passed, 0 failed", "test result: "]
        {
            assert_eq!(Tally::of_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn prints_the_line_that_ci_reads() {
        let mut all = Tally { passed: 12, failed: 0 };
        all += Tally::FAILED;
        assert_eq!(all.to_string(), "12 passed, 1 failed");
    }
}
