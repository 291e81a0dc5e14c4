//! What checks do, beyond a TCP connection.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// A request, and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    /// Of the Host header; none: the backend's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `Name: value`
    #[serde(default)]
    pub headers: Vec<String>,
    /// One of these.
    pub status: Vec<StatusRange>,
    /// A regular expression that the body must match somewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What all of the body must hash to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// `Name: regular expression`; the answer has each of these headers with a value that matches somewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect_headers: Vec<String>,
    /// By HTTP/2: agreed on by ALPN over TLS, else by prior knowledge.
    #[serde(default)]
    pub http2: bool,
    /// Over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsCheck>,
}

/// Of a body; the text is lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// As keepalived's `genhash` prints it.
    Md5(String),
    Sha256(String),
}

/// How TLS is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsCheck {
    /// Server name, in the handshake and of the certificate; none: `host`, if that is a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The certificate must be good for the name.
    pub verify: bool,
    /// PEM file of the CAs to trust; none: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// HTTP status codes from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    pub from: u16,
    pub to: u16,
}

/// A MySQL or MariaDB server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MysqlCheck {
    /// None: the server's greeting is enough, and whom it does not know it may refuse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With any of what follows the check logs in; with `user` alone it stops before the password, as
    /// HAProxy's does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The login is over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub role: Role,
    /// The primary, where `role` wants a replica, stands by.
    pub fallback: bool,
    pub galera: Galera,
    /// Lag in seconds from which the weight is so many percent, in rising order; 0 takes the replica out.
    pub lag: Vec<LagTier>,
}

/// What a node of a Galera cluster must say (`wsrep_ready`, `wsrep_local_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Galera {
    /// Not asked.
    #[default]
    Off,
    /// State 4.
    Synced,
    /// State 4, or 2: it serves another node with its data.
    Donor,
}

/// Which part of a replicating pair or group a server has to play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Any,
    /// It takes writes: MySQL's `read_only` is off, PostgreSQL is not in recovery, Redis says `master`.
    Primary,
    /// It follows another one and takes none.
    Replica,
}

/// What a server is to a service that wants a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Serves,
    /// Only while no other one serves.
    StandsBy,
    Wrong,
}

impl Role {
    /// `fallback`: the primary is not wrong among replicas.
    pub fn fit(self, is_primary: bool, fallback: bool) -> Fit {
        match (self, is_primary) {
            (Self::Any, _) | (Self::Primary, true) | (Self::Replica, false) => Fit::Serves,
            (Self::Replica, true) if fallback => Fit::StandsBy,
            (Self::Replica, true) | (Self::Primary, false) => Fit::Wrong,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LagTier {
    /// Seconds.
    pub from: u32,
    /// Percent of the configured weight, 0 to 100.
    pub weight: u8,
}

/// A program whose end tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecCheck {
    /// An absolute path, and its arguments; no shell.
    pub command: Vec<String>,
    /// Whom it runs as.
    pub user: String,
    /// Exit codes 2 to 255 are the weight plus 2, as with keepalived's `misc_dynamic`.
    #[serde(default)]
    pub dynamic: bool,
}

/// What nobody shall see in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl Default for HttpCheck {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            status: vec![StatusRange { from: 200, to: 299 }],
            body: None,
            digest: None,
            expect_headers: Vec::new(),
            http2: false,
            tls: None,
        }
    }
}

impl MysqlCheck {
    /// Whether it goes beyond the handshake.
    pub fn logs_in(&self) -> bool {
        let Self { user: _, password, password_file, tls, query, role, fallback: _, galera, lag } = self;
        password.is_some()
            || password_file.is_some()
            || query.is_some()
            || tls.is_some()
            || *role != Role::Any
            || *galera != Galera::Off
            || !lag.is_empty()
    }

    /// The percentage of the weight at this lag; none: replication is stopped.
    pub fn percent(&self, lag: Option<u64>) -> u8 {
        let tier = |lag: u64| self.lag.iter().rev().find(|tier| u64::from(tier.from) <= lag);
        match lag {
            Some(lag) => tier(lag).map_or(100, |tier| tier.weight),
            None => self.lag.last().map_or(100, |tier| tier.weight),
        }
    }
}

impl Digest {
    pub fn hex(&self) -> &str {
        match self {
            Self::Md5(hex) | Self::Sha256(hex) => hex,
        }
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.to_ascii_lowercase();
        match (hex.len(), hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            (32, true) => Ok(Self::Md5(hex)),
            (64, true) => Ok(Self::Sha256(hex)),
            _ => Err(format!("`{text}` is no digest")),
        }
    }
}

impl StatusRange {
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl FromStr for StatusRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let code = |text: &str| text.parse().ok().filter(|code| (100..=599).contains(code));
        match (code(from), code(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(format!("`{text}` is neither an HTTP status nor a range of them")),
        }
    }
}

impl TryFrom<String> for StatusRange {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { from, to } if from == to => write!(f, "{from}"),
            Self { from, to } => write!(f, "{from}-{to}"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
