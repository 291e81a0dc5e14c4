//! What checks of further kinds of servers do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Role, Secret, TlsCheck};

/// A Redis server, or one that speaks its protocol (RESP).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisCheck {
    /// Of an access control list (Redis 6); none: the default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// None: no login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    pub role: Role,
    /// The primary, where `role` wants a replica, stands by.
    pub fallback: bool,
}

/// A PostgreSQL server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresCheck {
    pub user: String,
    /// None: the user's name, as with libpq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// With any of what follows the check logs in; else it stops at the server's first answer, as HAProxy's
    /// `pgsql-check` does.
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
}

/// A datagram, and what comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UdpCheck {
    pub send: Vec<u8>,
    /// A regular expression that the reply must match somewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// No reply is a failure. Without it only an ICMP error is one.
    pub require_reply: bool,
}

/// A question to a DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsCheck {
    pub name: String,
    /// `A`, `AAAA`, `SOA`...
    pub kind: String,
    /// One of these response codes, 0 to 15 (RFC 1035 section 4.1.1).
    pub rcode: Vec<u8>,
    /// A regular expression that the data of one record of the answer must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpCheck {
    /// What we call ourselves.
    pub helo: String,
    /// The connection goes on over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starttls: Option<TlsCheck>,
}

/// A file that says the weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileCheck {
    /// Of the file, or of a directory with one for each backend.
    pub path: PathBuf,
}

impl PostgresCheck {
    /// Whether it goes beyond the server's first answer.
    pub fn logs_in(&self) -> bool {
        let Self { user: _, database: _, password, password_file, tls, query, role, fallback: _ } = self;
        password.is_some()
            || password_file.is_some()
            || tls.is_some()
            || query.is_some()
            || *role != Role::Any
    }
}

impl Default for DnsCheck {
    /// keepalived's.
    fn default() -> Self {
        Self { name: ".".to_owned(), kind: "SOA".to_owned(), rcode: vec![0], answer: None }
    }
}

impl Default for SmtpCheck {
    fn default() -> Self {
        Self { helo: "localhost".to_owned(), starttls: None }
    }
}
