//! Values under `/proc/sys/net`, in the network namespace of the calling thread.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The name of a value.
///
/// It prints as sysctl(8) takes it: dots between the parts, and a slash for a dot within a part, so that
/// `arp_ignore` of `eth0.100` is `net.ipv4.conf.eth0/100.arp_ignore`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sysctl {
    /// Below `net`; no part is empty, `.` or `..`, or has a slash.
    parts: Vec<String>,
}

/// Why a value could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the name of a sysctl below net, such as net.ipv4.conf.all.arp_ignore")]
    BadName(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {}: {source}{}", path.display(), super::error::hint(source))]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("{} holds {value:?}, not a number", path.display())]
    NotANumber { path: PathBuf, value: String },
}

impl Sysctl {
    /// `parts` below `/proc/sys/net`, such as `["ipv4", "ip_forward"]`.
    pub fn net(parts: &[&str]) -> Result<Self, Error> {
        let bad = |part: &&str| part.is_empty() || *part == "." || *part == ".." || part.contains('/');
        if parts.is_empty() || parts.iter().any(bad) {
            return Err(Error::BadName(parts.join(".")));
        }
        Ok(Self { parts: parts.iter().map(|&part| part.to_owned()).collect() })
    }

    /// `net.ipv4.conf.INTERFACE.KEY`; the interface may be `all` or `default`.
    pub fn ipv4_conf(interface: &str, key: &str) -> Result<Self, Error> {
        Self::net(&["ipv4", "conf", interface, key])
    }

    /// `net.ipv6.conf.INTERFACE.KEY`.
    pub fn ipv6_conf(interface: &str, key: &str) -> Result<Self, Error> {
        Self::net(&["ipv6", "conf", interface, key])
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.parts.iter().fold(PathBuf::from("/proc/sys/net"), |path, part| path.join(part))
    }

    /// The value, without the newline.
    pub fn read(&self) -> Result<String, Error> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// The value of one that holds a single number.
    pub fn read_number(&self) -> Result<i64, Error> {
        let value = self.read()?;
        value.parse().map_err(|_| Error::NotANumber { path: self.path(), value })
    }

    /// Writes a value.
    pub fn write(&self, value: impl fmt::Display) -> Result<(), Error> {
        let path = self.path();
        let value = value.to_string();
        write(&path, &value).map_err(|source| Error::Write { path, value, source })
    }
}

/// One write(2): procfs takes a value whole or not at all, and a file that is missing must not be made.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

impl Error {
    /// The kernel has no such value: the feature (IPv6, say) or the interface is missing.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            Self::BadName(_) | Self::NotANumber { .. } => false,
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("net")?;
        self.parts.iter().try_for_each(|part| write!(f, ".{}", part.replace('.', "/")))
    }
}

impl FromStr for Sysctl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let below = text.strip_prefix("net.").ok_or_else(|| Error::BadName(text.to_owned()))?;
        let parts: Vec<String> = below.split('.').map(|part| part.replace('/', ".")).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Self::net(&parts)
    }
}

impl TryFrom<String> for Sysctl {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Sysctl> for String {
    fn from(name: Sysctl) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_with_dots() {
        let name = Sysctl::ipv4_conf("eth0.100", "arp_ignore").expect("a name");
        assert_eq!(name.path(), Path::new("/proc/sys/net/ipv4/conf/eth0.100/arp_ignore"));
        assert_eq!(name.to_string(), "net.ipv4.conf.eth0/100.arp_ignore");
        assert_eq!(name.to_string().parse::<Sysctl>().expect("parses"), name);
    }

    #[test]
    fn nothing_outside_of_net() {
        for text in ["kernel.panic", "net", "net.", "net.ipv4..arp", "net.//.x", "net./.x", "net.ipv4.a//b"] {
            let parsed = text.parse::<Sysctl>();
            assert!(
                parsed.is_err()
                    || parsed.as_ref().is_ok_and(|name| name.path().starts_with("/proc/sys/net/ipv4")),
                "{text}: {parsed:?}"
            );
        }
        assert!(Sysctl::ipv4_conf("..", "arp_ignore").is_err());
        assert!(Sysctl::ipv4_conf("a/b", "arp_ignore").is_err());
    }

    #[test]
    fn errors_name_the_path() {
        let error = Sysctl::ipv4_conf("nosuch.7", "arp_ignore").expect("a name").read().expect_err("missing");
        assert!(error.is_missing());
        assert!(error.to_string().contains("/proc/sys/net/ipv4/conf/nosuch.7/arp_ignore"), "{error}");
    }
}
