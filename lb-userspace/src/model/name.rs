//! Names of services: what an operator types, and what is pinned next to the service's id.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A service's name: 1 to [`ServiceName::MAX`] bytes of letters, digits and `-_.:/[]`.
///
/// Without a `name:` in the configuration a service is called after its endpoint,
/// for example `tcp/172.18.14.100:3306`. A clone is cheap: many things are kept by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

/// Why a string is not a service name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("a service name must not be empty")]
    Empty,
    #[error("service name {0:?} is longer than {max} bytes", max = ServiceName::MAX)]
    TooLong(String),
    #[error("service name {0:?} has the character {1:?}; letters, digits and -_.:/[] are allowed")]
    BadCharacter(String, char),
}

impl ServiceName {
    /// Longest name, in bytes: the pinned record of a service holds it.
    pub const MAX: usize = lb_common::service::NAME_LEN;

    /// Checks and wraps `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX {
            return Err(NameError::TooLong(name));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/[]".contains(c);
        match name.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(NameError::BadCharacter(name, c)),
            None => Ok(Self(name.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl std::str::FromStr for ServiceName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.as_str().to_owned()
    }
}
