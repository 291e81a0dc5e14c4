//! Where an instance's pins live.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::SCHEMA_VERSION;

use super::link::take_off;

/// How the pins of links begin.
const LINK: &str = "link_";

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

    /// The pin of a flow table, of which there is one after the other.
    pub fn flows(&self, name: &str, generation: u32) -> PathBuf {
        self.map(&format!("{name}_{generation}"))
    }

    /// The pin of the program's link on an interface. bpffs allows no dots in names.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.dir().join(format!("{LINK}{}", interface.replace('.', "@")))
    }

    /// Takes off the programs of interfaces other than `keep` and removes their links; the names of those interfaces.
    pub fn detach_others(&self, keep: &BTreeSet<String>) -> io::Result<Vec<String>> {
        let kept: Vec<PathBuf> = keep.iter().map(|interface| self.link(interface)).collect();
        let mut gone = Vec::new();
        for entry in fs::read_dir(self.dir())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(interface) = name.strip_prefix(LINK).filter(|_| !kept.contains(&entry.path())) {
                take_off(&entry.path())?;
                gone.push(interface.replace('@', "."));
            }
        }
        Ok(gone)
    }
}
