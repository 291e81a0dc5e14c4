//! A file that qemu reads or writes, while it lives.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::repo;

/// Its path. Whoever wants it to be there writes it; it is removed when this is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A name of this process's own, in `target/vm`.
    pub fn new(what: &str) -> Result<Self> {
        let dir = repo::target_dir().join("vm");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir.join(format!("{what}-{}", std::process::id()))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not there if nobody came to write it.
        if self.0.exists()
            && let Err(error) = fs::remove_file(&self.0)
        {
            eprintln!("xtask: cannot remove {}: {error}", self.0.display());
        }
    }
}
