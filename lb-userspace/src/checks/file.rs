//! A file that says the weight.

use super::{failure, local};
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::FileCheck,
};

/// More is no number.
const LONGEST: usize = 64;

pub async fn check(probe: &Probe, file: &FileCheck) -> Result<Pass, Failure> {
    let mut path = file.path.clone();
    if tokio::fs::metadata(&path).await.is_ok_and(|it| it.is_dir()) {
        path.push(probe.backend.to_string());
    }
    let content = local::read(&path).await;
    let content =
        content.map_err(|error| Failure { why: format!("{}: {}", path.display(), failure(&error).why) })?;
    let text = String::from_utf8_lossy(&content[..content.len().min(LONGEST)]);
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
