//! A file that says the weight.

use std::{fs::File, io::Read};

use super::failure;
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::FileCheck,
};

/// More is no number.
const LONGEST: u64 = 64;

/// Local files are read at once: to hand each to a thread would take longer.
pub fn check(probe: &Probe, file: &FileCheck) -> Result<Pass, Failure> {
    let mut path = file.path.clone();
    if path.is_dir() {
        path.push(probe.backend.to_string());
    }
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    read.map_err(|error| Failure { why: format!("{}: {}", path.display(), failure(&error).why) })?;
    let text = text.trim();
    match text.parse::<u16>() {
        Ok(weight) => Ok(Pass { found: format!("weight {weight}"), weight: Weight::Exactly(weight) }),
        Err(_) if text.eq_ignore_ascii_case("down") => Err(Failure { why: "the file says down".to_owned() }),
        Err(_) => {
            let text = text.escape_default();
            Err(Failure { why: format!("{} says \"{text}\", which is no weight", path.display()) })
        }
    }
}
