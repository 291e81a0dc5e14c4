//! The configuration file: YAML text <-> [`Config`].
//!
//! PURE. [`parse`] validates the whole file and reports everything that is wrong with it, each with line
//! and column. The way of a file: `tree` (YAML with places) -> `fields` (checked against the tables in
//! `schema`) -> `director`, `service` and `check` (meaning). docs/config.md is [`reference()`].

mod check;
mod director;
mod error;
mod fields;
mod memory;
mod notify;
mod reference;
mod render;
mod schema;
mod service;
mod sources;
mod tree;
mod values;

use std::path::PathBuf;

use crate::model::{ExpireNodest, Model, Reject, Scope, notify::Notify};

pub use error::{ConfigErrors, Pos, Problem};
pub use memory::{EntrySizes, MemoryItem, memory};
pub use reference::reference;
pub use render::render;

/// What a configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names pins, socket and state directory: 1 to 32 letters, digits, `-` and `_`.
    pub instance: String,
    pub control: Control,
    pub notify: Notify,
    pub model: Model,
}

/// The socket that the command line talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `None`: [`Config::socket`] says which.
    pub socket: Option<PathBuf>,
    /// The group, by name or number, that may use it; `None`: root only.
    pub group: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: "default".to_owned(),
            control: Control::default(),
            notify: Notify::default(),
            model: Model::default(),
        }
    }
}

impl Config {
    /// Where the control socket is: as configured, else `/run/lb/INSTANCE.sock`.
    pub fn socket(&self) -> PathBuf {
        self.control
            .socket
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("/run/lb/{}.sock", self.instance)))
    }
}

/// Reads `text`; `file_name` is for the messages.
///
/// # Errors
/// Every problem of the file. If it is not YAML at all, only the first place where it is not.
pub fn parse(file_name: &str, text: &str) -> Result<Config, ConfigErrors> {
    let mut problems = error::Problems::default();
    let config = match tree::load(text) {
        Ok(root) => director::file(&root, &mut problems),
        Err(problem) => {
            problems = problem.into();
            Config::default()
        }
    };
    problems.finish(file_name, config)
}

/// An idle timeout in seconds as the file takes it: `900`, `15m`; what is wrong otherwise.
pub fn timeout(text: &str) -> Result<u32, String> {
    values::timeout(text).map_err(|fault| format!("{}; {}", fault.wrong, fault.right))
}

/// What becomes of a removed backend's connections, as the file takes it; what is wrong otherwise.
pub fn expire_nodest(text: &str) -> Result<ExpireNodest, String> {
    service::expire_nodest(text).map_err(|fault| format!("{}; {}", fault.wrong, fault.right))
}

/// What clients are told that cannot be served, as the file takes it; what is wrong otherwise.
pub fn reject(text: &str) -> Result<Reject, String> {
    service::reject(text).map_err(|fault| format!("{}; {}", fault.wrong, fault.right))
}

/// What persistence holds across, as the file takes it; what is wrong otherwise.
pub fn persistence_scope(text: &str) -> Result<Scope, String> {
    service::persistence_scope(text).map_err(|fault| format!("{}; {}", fault.wrong, fault.right))
}

/// A port or a range of ports, as the file takes it; what is wrong otherwise.
pub fn ports(text: &str) -> Result<(u16, Option<u16>), String> {
    service::ports(text).map_err(|fault| format!("{}; {}", fault.wrong, fault.right))
}

#[cfg(test)]
mod tests;
