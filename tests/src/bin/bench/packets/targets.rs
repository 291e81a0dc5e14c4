//! What the figures have to be: ratios within one run, as ns drift with the machine.

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Figure,
    rows::{FLOOD, HOT4, HOT6, IN_FLOOD, MANY4, MOST4, NEW, NEW_WLC, PASS, Program},
};

/// A target, and what the run showed. The best rounds decide.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    what: String,
    measured: f64,
    at_most: f64,
    holds: bool,
}

/// `of` may cost at most `at_most` times what `than` costs.
struct Target {
    of: (&'static str, Program),
    than: (&'static str, Program),
    at_most: f64,
}

const OURS: Program = Program::Ours;
const TARGETS: [Target; 9] = [
    Target { of: (HOT4, OURS), than: (HOT4, Program::Lru), at_most: 0.75 },
    Target { of: (HOT4, OURS), than: (HOT4, Program::Stub), at_most: 1.4 },
    Target { of: (MANY4, OURS), than: (MANY4, Program::Lru), at_most: 0.60 },
    Target { of: (MOST4, OURS), than: (MOST4, Program::Lru), at_most: 0.58 },
    Target { of: (NEW, OURS), than: (NEW, Program::FullLru), at_most: 0.50 },
    Target { of: (NEW_WLC, OURS), than: (NEW, OURS), at_most: 1.4 },
    Target { of: (FLOOD, OURS), than: (NEW, OURS), at_most: 0.75 },
    Target { of: (IN_FLOOD, OURS), than: (HOT4, OURS), at_most: 1.2 },
    Target { of: (HOT6, OURS), than: (HOT4, OURS), at_most: 1.35 },
];
/// ns that a packet which is none of ours may cost above an empty program.
const PASS_NS: f64 = 30.0;

/// Errors: a row is missing.
pub fn judge(figures: &[Figure]) -> Result<Vec<Judged>> {
    let cost = |(name, program): (&str, Program)| -> Result<f64> {
        let figure = figures.iter().find(|figure| figure.name == name && figure.program == program);
        // Less than 1 is the noise of the subtraction.
        Ok(figure.with_context(|| format!("no figure of {name}"))?.above.minimum.max(1) as f64)
    };
    let pass = cost((PASS, OURS))?;
    let what = format!("{PASS}: ns above an empty program");
    let mut judged = vec![Judged { what, measured: pass, at_most: PASS_NS, holds: pass <= PASS_NS }];
    for Target { of, than, at_most } in TARGETS {
        let measured = cost(of)? / cost(than)?;
        let what = format!("{}{} : {}{}", of.0, of.1.suffix(), than.0, than.1.suffix());
        judged.push(Judged { what, measured, at_most, holds: measured <= at_most });
    }
    Ok(judged)
}

pub fn print(judged: &[Judged]) {
    println!("{:<72}{:>9}{:>9}", "target (minimum : minimum)", "measured", "at most");
    for Judged { what, measured, at_most, holds } in judged {
        println!("{what:<72}{measured:>9.2}{at_most:>9.2}  {}", if *holds { "holds" } else { "MISSED" });
    }
}
