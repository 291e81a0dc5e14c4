//! Values on the command line: addresses, names, times.

use std::{net::IpAddr, net::SocketAddr, path::Path, time::Duration};

use crate::{
    config,
    model::{Endpoint, Protocol, ServiceName, nearest::nearest, timeouts::NAMES},
};

/// Where clients connect, but for the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) last_port: Option<u16>,
}

impl Place {
    pub(super) fn of(self, protocol: Protocol) -> Endpoint {
        let Self { address, port, last_port } = self;
        Endpoint { address, port, protocol, last_port }
    }
}

/// `VIP:PORT` or `VIP:FIRST-LAST`, IPv6 as `[VIP]:PORT`; port 0 is every port of the address.
pub(super) fn vip_and_port(text: &str) -> Result<Place, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Place { address: socket.ip(), port: socket.port(), last_port: None });
    }
    let range = text.rsplit_once(':').filter(|(_, ports)| ports.contains('-'));
    if let Some((vip, ports)) = range
        && let Ok(socket) = format!("{vip}:0").parse::<SocketAddr>()
    {
        let (port, last_port) = config::ports(ports)?;
        return Ok(Place { address: socket.ip(), port, last_port });
    }
    Err(match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("the port is missing: {text}:PORT (port 0 is every port)"),
        Ok(IpAddr::V6(_)) => format!("the port is missing: [{text}]:PORT (port 0 is every port)"),
        Err(_) => "not VIP:PORT (IPv6 as [VIP]:PORT)".to_owned(),
    })
}

/// `tcp/VIP:PORT`, `udp/[VIP]:FIRST-LAST`, `sctp/VIP:PORT`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    match text.split_once('/') {
        Some(("tcp", place)) => Ok(vip_and_port(place)?.of(Protocol::Tcp)),
        Some(("udp", place)) => Ok(vip_and_port(place)?.of(Protocol::Udp)),
        Some(("sctp", place)) => Ok(vip_and_port(place)?.of(Protocol::Sctp)),
        _ => {
            Err("not tcp/VIP:PORT, udp/VIP:PORT or sctp/VIP:PORT (a range of ports as VIP:FIRST-LAST)"
                .to_owned())
        }
    }
}

/// A backend as typed; without a port it has its service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackendArg {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

/// `ADDRESS` or `ADDRESS:PORT`, IPv6 as `ADDRESS`, `[ADDRESS]` or `[ADDRESS]:PORT`.
pub(super) fn backend(text: &str) -> Result<BackendArg, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(BackendArg { address: socket.ip(), port: Some(socket.port()) });
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(address) => Ok(BackendArg { address, port: None }),
        Err(_) => Err("not ADDRESS or ADDRESS:PORT (IPv6 as [ADDRESS]:PORT); a backend is named by its \
                       address, host names are not looked up"
            .to_owned()),
    }
}

/// A service as typed: its name, or its endpoint with or without protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceArg {
    pub(super) name: ServiceName,
    pub(super) endpoint: Option<(Option<Protocol>, Place)>,
}

/// `mysql`, `tcp/172.18.14.100:3306` or `172.18.14.100:3306`.
pub(super) fn service(text: &str) -> Result<ServiceArg, String> {
    let name = ServiceName::new(text).map_err(|error| error.to_string())?;
    let (protocol, address) = match text.split_once('/') {
        Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
        Some(("udp", rest)) => (Some(Protocol::Udp), rest),
        Some(("sctp", rest)) => (Some(Protocol::Sctp), rest),
        _ => (None, text),
    };
    let endpoint = vip_and_port(address).ok().map(|address| (protocol, address));
    Ok(ServiceArg { name, endpoint })
}

impl ServiceArg {
    /// Whether the endpoint that was typed is `endpoint`.
    pub(super) fn means(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.is_some_and(|(protocol, place)| {
            protocol.is_none_or(|p| p == endpoint.protocol) && place.of(endpoint.protocol) == *endpoint
        })
    }
}

/// Part of paths, so nothing that could leave its directory.
pub(super) fn instance(text: &str) -> Result<String, String> {
    const MAX: usize = 32;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > MAX || !text.chars().all(good) {
        return Err(format!("an instance is 1 to {MAX} letters, digits, - or _"));
    }
    Ok(text.to_owned())
}

/// An idle timeout in seconds, written as in the configuration file.
pub(super) fn timeout(text: &str) -> Result<u32, String> {
    config::timeout(text)
}

/// One of the three of `ipvsadm --set`: an idle timeout, or 0 for "as it is".
pub(super) fn figure(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { timeout(text) }
}

/// One idle timeout of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnTimeout {
    /// As in the configuration file.
    pub(super) name: &'static str,
    /// 0: the global one.
    pub(super) seconds: u32,
}

/// `tcp=30m`, or `tcp=default` for the global one.
pub(super) fn own_timeout(text: &str) -> Result<OwnTimeout, String> {
    let names = NAMES.all();
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("not NAME=DURATION, for example tcp=30m; names are {}", names.join(", ")))?;
    let Some(name) = names.into_iter().find(|known| *known == name) else {
        let near = nearest(name, names).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
        return Err(format!("there is no timeout {name}; {near}valid are {}", names.join(", ")));
    };
    let seconds = if value == "default" { 0 } else { timeout(value)? };
    Ok(OwnTimeout { name, seconds })
}

/// How long to wait.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    timeout(text).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Seconds, fractions allowed.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("an interval is 0.1 to 86400 seconds".to_owned()),
    }
}

/// A client address or prefix, checked here so that a slip is a usage error.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let longest = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err("not an address or ADDRESS/LENGTH, for example 10.0.0.0/8".to_owned()),
    };
    match length.map(str::parse::<u8>) {
        None => Ok(text.to_owned()),
        Some(Ok(length)) if length <= longest => Ok(text.to_owned()),
        Some(_) => Err(format!("the prefix length is 0 to {longest}")),
    }
}

/// `-` is stdout.
pub(super) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_a_port() {
        assert!(vip_and_port("172.18.14.100:3306").is_ok());
        assert!(vip_and_port("[2001:db8::1]:0").is_ok());
        let says = |text| vip_and_port(text).unwrap_err();
        assert!(says("172.18.14.100").contains("172.18.14.100:PORT"));
        assert!(says("2001:db8::1").contains("[2001:db8::1]:PORT"));
        assert!(says("mysql:3306").contains("not VIP:PORT"));
    }

    #[test]
    fn endpoints_may_be_ranges_of_ports() {
        let parsed = |text: &str| endpoint(text).map(|it| it.to_string());
        for text in ["tcp/172.18.14.100:5000-5100", "udp/[2001:db8::1]:1-65535", "udp/172.18.14.100:53"] {
            assert_eq!(parsed(text), Ok(text.to_owned()));
        }
        assert_eq!(parsed("tcp/172.18.14.100:80-80"), Ok("tcp/172.18.14.100:80".to_owned()));
        let says = |text| parsed(text).unwrap_err();
        assert!(says("172.18.14.100:80").contains("tcp/VIP:PORT"));
        assert!(says("tcp/172.18.14.100:0-80").contains("from 1 to 65535"));
        assert!(says("tcp/172.18.14.100:90-80").contains("write 80-90"));
        assert!(says("tcp/mysql:80-90").contains("not VIP:PORT"));
    }

    #[test]
    fn backends_may_leave_the_port_out() {
        let parsed = |text| backend(text).map(|b| (b.address.to_string(), b.port));
        assert_eq!(parsed("10.0.0.1"), Ok(("10.0.0.1".to_owned(), None)));
        assert_eq!(parsed("10.0.0.1:80"), Ok(("10.0.0.1".to_owned(), Some(80))));
        assert_eq!(parsed("fd00::1"), Ok(("fd00::1".to_owned(), None)));
        assert_eq!(parsed("[fd00::1]"), Ok(("fd00::1".to_owned(), None)));
        assert_eq!(parsed("[fd00::1]:80"), Ok(("fd00::1".to_owned(), Some(80))));
        assert!(backend("db1:3306").is_err());
        assert!(backend("10.0.0.1:65536").is_err());
    }

    #[test]
    fn a_service_is_its_name_or_its_endpoint() {
        let tcp = Endpoint::new("172.18.14.100".parse().unwrap(), 3306, Protocol::Tcp);
        let means = |text| service(text).unwrap().means(&tcp);
        assert!(means("172.18.14.100:3306") && means("tcp/172.18.14.100:3306"));
        assert!(!means("udp/172.18.14.100:3306") && !means("172.18.14.100:3307") && !means("mysql"));
        assert!(service("my sql").is_err());
    }

    #[test]
    fn instances_stay_in_their_directory() {
        assert!(instance("lab-2").is_ok());
        for bad in ["", "..", "a/b", "a.b", &"x".repeat(33)] {
            assert!(instance(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_and_intervals_are_checked() {
        assert!(prefix("10.0.0.0/8").is_ok() && prefix("fd00::1").is_ok() && prefix("::/0").is_ok());
        assert!(prefix("10.0.0.0/33").is_err() && prefix("10.0.0/8").is_err() && prefix("fd00::/x").is_err());
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(interval("0").is_err() && interval("-1").is_err() && interval("NaN").is_err());
    }
}
