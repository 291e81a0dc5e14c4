//! Where packets come from or go to, as it is written: a network, a port, or both. PURE.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lb_common::trace::Network;
use serde::{Deserialize, Serialize};

/// `10.1.2.0/24`, `172.18.14.100:3306`, `[2001:db8::]/32`, `[2001:db8::1]:53`, `:3306`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    pub network: Option<IpNet>,
    /// Never 0.
    pub port: Option<u16>,
}

impl Place {
    /// As the program compares it.
    pub(super) fn words(&self) -> Network {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()).into(), 0],
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, rest @ ..] = v6.octets();
                [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
            }
        };
        self.network.map_or_else(Network::default, |network| Network {
            address: bytes(network.network()),
            mask: bytes(network.netmask()),
        })
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRONG: &str = "not ADDRESS, ADDRESS/LENGTH, ADDRESS:PORT or :PORT (IPv6 as [ADDRESS]:PORT)";
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("{text} is no port: 1 to 65535")),
            Ok(port) => Ok(port),
        };
        if let Ok(network) = network(text) {
            return Ok(Self { network: Some(network), port: None });
        }
        let (before, after) = text.rsplit_once(':').ok_or_else(|| WRONG.to_owned())?;
        if before.is_empty() {
            return Ok(Self { network: None, port: Some(port(after)?) });
        }
        // An IPv6 address with a port has brackets.
        let is_bare = before.contains(':') && !before.starts_with('[');
        let network = network(before).ok().filter(|_| !is_bare).ok_or_else(|| WRONG.to_owned())?;
        Ok(Self { network: Some(network), port: Some(port(after)?) })
    }
}

/// `ADDRESS` or `ADDRESS/LENGTH`, IPv6 in brackets or not.
fn network(text: &str) -> Result<IpNet, ()> {
    let (address, length) = match text.rsplit_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| ())?)),
        None => (text, None),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address: IpAddr = match bare {
        Some(bare) => IpAddr::V6(bare.parse().map_err(|_| ())?),
        None => address.parse().map_err(|_| ())?,
    };
    match length {
        Some(length) => IpNet::new(address, length).map_err(|_| ()),
        None => Ok(address.into()),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(network) = self.network {
            match network.addr() {
                IpAddr::V6(address) => write!(f, "[{address}]")?,
                address => write!(f, "{address}")?,
            }
            if network.prefix_len() != network.max_prefix_len() {
                write!(f, "/{}", network.prefix_len())?;
            }
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_and_written() {
        let texts = [
            "10.1.2.3",
            "10.1.2.0/24",
            "10.1.2.3:80",
            "10.0.0.0/8:80",
            ":3306",
            "[2001:db8::1]",
            "[2001:db8::]/32",
            "[2001:db8::1]:53",
            "[2001:db8::]/32:53",
        ];
        for text in texts {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(
            "2001:db8::/32".parse::<Place>().map(|place| place.to_string()).as_deref(),
            Ok("[2001:db8::]/32")
        );
        for wrong in
            ["", "host", "10.1.2.3:", "10.1.2.3:0", "10.1.2.3:70000", "10.1.2.3/33", "[10.1.2.3]:1", "::/x:5"]
        {
            wrong.parse::<Place>().expect_err(wrong);
        }
    }

    #[test]
    fn host_bits_do_not_matter() {
        let [exact, sloppy] =
            ["10.1.2.0/24", "10.1.2.9/24"].map(|text| text.parse::<Place>().expect("a place"));
        assert_eq!(exact.words(), sloppy.words());
        assert_eq!(exact.words().address, [u64::from(u32::from_ne_bytes([10, 1, 2, 0])), 0]);
        assert_eq!(exact.words().mask, [u64::from(u32::from_ne_bytes([255, 255, 255, 0])), 0]);
    }
}
