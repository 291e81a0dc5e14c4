//! Certificates of servers: each is its own CA, for one name.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::proc;

/// A certificate and its key, as PEM files.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// `cert.pem` and `key.pem` in `dir`.
    pub fn make(dir: &Path, name: &str) -> Result<Self> {
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let mut openssl = Command::new("openssl");
        // Signatures of such a key are all of one length, and so is a handshake.
        openssl.args("req -x509 -newkey ed25519 -nodes -days 2".split(' '));
        // Without the system's configuration, which would make it a CA's.
        openssl.args(["-config", "/dev/null", "-subj", &format!("/CN={name}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        proc::run(openssl)?.ok()?;
        Ok(Self { certificate, key })
    }
}
