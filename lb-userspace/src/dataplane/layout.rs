//! Where an instance's pins live.

use std::path::{Path, PathBuf};

use lb_common::SCHEMA_VERSION;

/// Paths below bpffs of one instance.
#[derive(Clone, Debug)]
pub struct Layout {
    bpffs: PathBuf,
    instance: String,
}

impl Layout {
    pub fn new(bpffs: impl Into<PathBuf>, instance: &str) -> Self {
        Self { bpffs: bpffs.into(), instance: instance.to_owned() }
    }

    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Holds what has no version: `meta` and the links.
    pub fn dir(&self) -> PathBuf {
        self.bpffs.join("lb").join(&self.instance)
    }

    pub fn meta(&self) -> PathBuf {
        self.dir().join("meta")
    }

    /// Holds the maps of this schema.
    pub fn maps(&self) -> PathBuf {
        self.dir().join(format!("v{SCHEMA_VERSION}"))
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The pin of the program's link on an interface. bpffs allows no dots in names.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.dir().join(format!("link_{}", interface.replace('.', "@")))
    }
}
