//! How many instructions the kernel's verifier walked for each build of the program, as
//! `tests/tests/packets/verifier.rs` leaves it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::repo;

/// Cargo's directory for what tests leave, and theirs in it.
fn dir() -> PathBuf {
    repo::target_dir().join("tmp").join("verified-instructions")
}

/// What an earlier run left is not this one's.
pub fn forget() {
    // It is not there at first.
    let _ = fs::remove_dir_all(dir());
}

/// One line about all builds; none if no test counted.
pub fn line() -> Option<String> {
    line_of(&dir())
}

fn line_of(dir: &Path) -> Option<String> {
    let files = fs::read_dir(dir).ok()?.flatten();
    let mut counts: Vec<(u32, String)> = files
        .filter_map(|file| {
            let count = fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
            Some((count, file.file_name().into_string().ok()?))
        })
        .collect();
    counts.sort();
    let each: Vec<String> = counts.iter().map(|(count, build)| format!("{build} {count}")).collect();
    (!each.is_empty()).then(|| format!("instructions verified: {}", each.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_every_build() {
        let dir = std::env::temp_dir().join(format!("lb-verified-{}", std::process::id()));
        assert_eq!(line_of(&dir), None);
        fs::create_dir_all(&dir).expect("a directory");
        for (build, count) in [("tracing", "277000"), ("ordinary", "236000")] {
            fs::write(dir.join(build), count).expect("written");
        }
        let line = line_of(&dir);
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(line.as_deref(), Some("instructions verified: ordinary 236000, tracing 277000"));
    }
}
