//! Where the kernel would send a packet (RTM_GETROUTE).

use std::net::IpAddr;

use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    },
};

use super::{Error, Netlink, address::host_prefix};

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the egress interface.
    pub oif: u32,
    /// The router in between; Direct Routing cannot cross one.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub prefsrc: Option<IpAddr>,
    /// The address is this host's own (RTN_LOCAL).
    pub local: bool,
}

impl Netlink {
    /// The kernel's routes to some addresses, in their order, as it takes them now: its rules, and routes for a
    /// single host, are in them. `None` where there is none.
    pub fn routes_to(&self, addresses: &[IpAddr]) -> Result<Vec<Option<Route>>, Error> {
        let action = |at: usize| format!("look up the route to {}", addresses[at]);
        let request = |(at, address): (usize, &IpAddr)| {
            RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(*address, host_prefix(*address))
                .map(|builder| (RouteNetlinkMessage::GetRoute(builder.build()), 0))
                .map_err(|error| Error::Garbled { action: action(at), detail: error.to_string() })
        };
        let requests: Vec<_> = addresses.iter().enumerate().map(request).collect::<Result<_, _>>()?;
        let answers = self.batch.ask(&requests, action)?;
        let route = |answer| match answer {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => Ok(Route::from_message(&message)),
            Ok(_) => Ok(None),
            Err(error) if is_unreachable(&error) => Ok(None),
            Err(error) => Err(error),
        };
        answers.into_iter().map(route).collect()
    }
}

/// The errnos of "no route" and of unreachable, prohibit and blackhole routes
/// (`net/ipv4/fib_semantics.c`, `fib_props`).
fn is_unreachable(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
}

impl Route {
    fn from_message(message: &RouteMessage) -> Option<Self> {
        let mut route = Self { oif: 0, gateway: None, prefsrc: None, local: false };
        route.local = message.header.kind == RouteType::Local;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.oif = *index,
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                // An IPv4 route by way of an IPv6 router (RFC 5549).
                RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => route.prefsrc = ip(address),
                _ => {}
            }
        }
        (matches!(message.header.kind, RouteType::Local | RouteType::Unicast) && route.oif != 0)
            .then_some(route)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
