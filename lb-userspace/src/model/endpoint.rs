//! Endpoints of services: what they cover, and whose they are.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{Endpoint, Protocol, ServiceName};

impl Endpoint {
    /// One port, or port 0 for every port of the address.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address, port, protocol, last_port: None }
    }

    /// The name of a service that was given none.
    pub fn default_name(&self) -> ServiceName {
        ServiceName::new(self.to_string()).expect("an endpoint prints as a valid name")
    }

    /// More than one port.
    pub fn is_wide(&self) -> bool {
        self.port == 0 || self.last_port.is_some()
    }

    /// What is wrong with its range of ports, as the end of a sentence; none: nothing.
    pub fn range_fault(&self) -> Option<&'static str> {
        match self.last_port {
            Some(_) if self.port == 0 => Some("a range cannot begin with port 0, which is every port"),
            Some(last) if last < self.port => Some("a range ends before it begins"),
            Some(last) if last == self.port => Some("a range of one port is that port"),
            _ => None,
        }
    }

    /// Whether one port of both, as the look-up of a packet sees it, would have two services: a port's own
    /// endpoint goes before ranges, and ranges go before port 0.
    pub fn collides(&self, other: &Self) -> bool {
        let place = |it: &Self| (it.address, it.protocol);
        let ports = |it: &Self| it.port..=it.last_port.unwrap_or(it.port);
        let (one, two) = (ports(self), ports(other));
        place(self) == place(other)
            && self.last_port.is_some() == other.last_port.is_some()
            && one.start() <= two.end()
            && two.start() <= one.end()
    }
}

/// `tcp/192.0.2.1:80`, `tcp/192.0.2.1:5000-5100`, `udp/[2001:db8::1]:53`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.place())
    }
}

impl Endpoint {
    /// Address and ports, without the protocol.
    pub fn place(&self) -> String {
        let address = SocketAddr::new(self.address, self.port).to_string();
        match self.last_port {
            Some(last) => format!("{address}-{last}"),
            None => address,
        }
    }
}

/// Which endpoints are taken, and by whom: finds a collision without comparing each with each.
#[derive(Debug)]
pub struct Claims<T> {
    ports: HashMap<Endpoint, T>,
    /// By their first port; they do not overlap.
    ranges: BTreeMap<(IpAddr, Protocol, u16), (Endpoint, T)>,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self { ports: HashMap::new(), ranges: BTreeMap::new() }
    }
}

impl<T> Claims<T> {
    /// The endpoint that `wanted` collides with, and whose it is.
    pub fn find(&self, wanted: &Endpoint) -> Option<(Endpoint, &T)> {
        let Some(last) = wanted.last_port else {
            return self.ports.get(wanted).map(|owner| (*wanted, owner));
        };
        let upto = (wanted.address, wanted.protocol, last);
        let (_, (range, owner)) = self.ranges.range(..=upto).next_back()?;
        range.collides(wanted).then_some((*range, owner))
    }

    /// Takes `endpoint`, which collides with none.
    pub fn take(&mut self, endpoint: Endpoint, owner: T) {
        if endpoint.last_port.is_some() {
            let at = (endpoint.address, endpoint.protocol, endpoint.port);
            self.ranges.insert(at, (endpoint, owner));
        } else {
            self.ports.insert(endpoint, owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn endpoint(port: u16, last_port: Option<u16>) -> Endpoint {
        Endpoint { last_port, ..Endpoint::new([192, 0, 2, 1].into(), port, Protocol::Tcp) }
    }

    #[test]
    fn a_port_a_range_and_port_0_stand_beside_each_other() {
        let (port, range, all) = (endpoint(80, None), endpoint(80, Some(90)), endpoint(0, None));
        for (one, two) in [(port, range), (port, all), (range, all)] {
            assert!(!one.collides(&two) && !two.collides(&one), "{one} {two}");
        }
        for same in [port, range, all] {
            assert!(same.collides(&same));
            assert!(!same.collides(&Endpoint { protocol: Protocol::Udp, ..same }));
            assert!(!same.collides(&Endpoint { address: [192, 0, 2, 2].into(), ..same }));
        }
        for (last, collides) in [(79, false), (80, true), (95, true)] {
            assert_eq!(endpoint(70, Some(last)).collides(&range), collides, "70-{last}");
        }
        assert!(endpoint(90, Some(99)).collides(&range) && !endpoint(91, Some(99)).collides(&range));
    }

    #[test]
    fn what_an_endpoint_is_called() {
        assert_eq!(endpoint(80, None).to_string(), "tcp/192.0.2.1:80");
        let longest = Endpoint {
            last_port: Some(65535),
            ..Endpoint::new("2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(), 60000, Protocol::Udp)
        };
        assert_eq!(longest.to_string(), "udp/[2001:db8:1111:2222:3333:4444:5555:6666]:60000-65535");
        assert_eq!(longest.default_name().to_string(), longest.to_string());
    }

    proptest! {
        #[test]
        fn claims_find_what_comparing_each_with_each_finds(
            wanted in vec((0..2u8, 1..40u16, prop::option::of(1..9u16)), 0..30),
        ) {
            let mut claims = Claims::default();
            let mut taken: Vec<Endpoint> = Vec::new();
            for (address, port, length) in wanted {
                let last_port = length.map(|length| port + length);
                let wanted = Endpoint { address: [192, 0, 2, address].into(), ..endpoint(port, last_port) };
                let collides = taken.iter().any(|other| other.collides(&wanted));
                prop_assert_eq!(claims.find(&wanted).is_some(), collides);
                if let Some((found, owner)) = claims.find(&wanted) {
                    prop_assert!(found.collides(&wanted) && taken[*owner] == found);
                } else {
                    claims.take(wanted, taken.len());
                    taken.push(wanted);
                }
            }
        }
    }
}
