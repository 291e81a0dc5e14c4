//! A shorter script that still shows a difference.

use anyhow::Result;

use crate::{
    run::{Difference, Directors},
    script::Script,
};

/// Scripts to try.
const ATTEMPTS: usize = 150;

/// Leaves out what it can: halves of the steps, then quarters, down to single ones (delta debugging).
pub fn shrink(
    directors: &mut Directors,
    script: &Script,
    difference: Difference,
) -> Result<(Script, Difference)> {
    let mut shortest = script.clone();
    shortest.steps.truncate(difference.step + 1);
    let mut difference = difference;
    let mut attempts = 0;
    let mut part = shortest.steps.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < shortest.steps.len() && attempts < ATTEMPTS {
            let mut candidate = shortest.clone();
            let end = (at + part).min(candidate.steps.len());
            candidate.steps.drain(at..end);
            attempts += 1;
            match directors.run(&candidate)?.difference {
                Some(found) => {
                    candidate.steps.truncate(found.step + 1);
                    (shortest, difference, shorter) = (candidate, found, true);
                }
                None => at = end,
            }
        }
        if part > 1 || !shorter {
            part /= 2;
        }
    }
    Ok((shortest, difference))
}
