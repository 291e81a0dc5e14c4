//! Persistence: the connections of one client go to one backend.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};

/// `ipvsadm -p SECONDS -M NETMASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Seconds without a new connection, 1 to 31 days.
    pub timeout: u32,
    /// Clients that share so many leading bits of their address go together; none: each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<u8>,
    /// What it is that a client comes back to.
    #[serde(default, skip_serializing_if = "Scope::is_service")]
    pub scope: Scope,
}

/// Whether persistence spans a service's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// It does, as that of an IPVS fwmark service.
    #[default]
    Service,
    /// Each by itself, as virtual services of one `virtual_server_group` are in keepalived.
    Endpoint,
}

impl Scope {
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Endpoint => "endpoint",
        }
    }

    fn is_service(&self) -> bool {
        *self == Self::Service
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What `-p` without a number means: the value compiled into ipvsadm and keepalived, in seconds.
pub const DEFAULT_TIMEOUT: u32 = 360;

impl Persistence {
    /// In an edit: none any more.
    pub const OFF: Self = Self { timeout: 0, granularity: None, scope: Scope::Service };

    pub fn is_on(&self) -> bool {
        self.timeout != 0
    }

    /// Bits of a client's address that count.
    pub fn prefix(&self, vip: IpAddr) -> u8 {
        self.granularity.unwrap_or(longest_prefix(vip))
    }
}

/// Bits of an address of that family.
pub fn longest_prefix(family: IpAddr) -> u8 {
    if family.is_ipv4() { 32 } else { 128 }
}

/// A granularity as ipvsadm and keepalived write it: a length or, for IPv4, a netmask. The error says what
/// would be right.
pub fn granularity(text: &str) -> Result<u8, String> {
    let wrong = || format!("`{text}` is neither a prefix length nor a netmask such as 255.255.255.0");
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        let length = mask.to_bits().leading_ones();
        // Its ones must stand together.
        return if mask.to_bits().count_ones() == length { Ok(length as u8) } else { Err(wrong()) };
    }
    text.trim_start_matches('/').parse().ok().filter(|length| *length <= 128).ok_or_else(wrong)
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_on() {
            return f.write_str("none");
        }
        write!(f, "{} s", self.timeout)?;
        if let Some(length) = self.granularity {
            write!(f, " by /{length}")?;
        }
        if self.scope == Scope::Endpoint {
            f.write_str(", each endpoint by itself")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granularity_is_a_length_or_a_netmask() {
        for (text, length) in [("24", 24), ("/64", 64), ("255.255.255.0", 24), ("0.0.0.0", 0), ("128", 128)] {
            assert_eq!(granularity(text), Ok(length), "{text}");
        }
        for text in ["255.0.255.0", "129", "-1", "", "ffff::"] {
            assert!(granularity(text).is_err(), "{text}");
        }
    }
}
