//! Everything that is wrong with a configuration file, each with its place.

use std::fmt;

/// A place in the file; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    pub line: usize,
    pub column: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the offending key or value begins.
    pub pos: Pos,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// Why a file is refused: every problem that was found, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub file: String,
    /// Never empty.
    pub problems: Vec<Problem>,
}

/// One line a problem: `FILE:LINE:COLUMN: what is wrong; what would be right`.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { pos, wrong, right }) in self.problems.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{}:{}: {wrong}; {right}", self.file, pos.line, pos.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems while the reading goes on.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, pos: Pos, wrong: impl Into<String>, right: impl Into<String>) {
        self.0.push(Problem { pos, wrong: wrong.into(), right: right.into() });
    }

    /// The value, if nothing was wrong.
    pub(super) fn finish<T>(mut self, file: &str, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|p| p.pos);
        Err(ConfigErrors { file: file.to_owned(), problems: self.0 })
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
