//! Desired states by hand.

use std::net::IpAddr;

use lb_common::vlan::Tags;

use crate::{
    model::{
        Backend, BackendKey, Endpoint, FlowSizes, Protocol, Scheduler, Service, ServiceName, ServiceOptions,
    },
    plan::{Desired, HostRoute, LinkSpec},
};

/// A service on 192.0.2.1 (or the address's IPv6 like) with these backends, all resolved.
pub fn service(name: &str, port: u16, backends: &[&str]) -> Service {
    let backend = |address: &&str| Backend {
        key: BackendKey { address: address.parse().expect("an address"), port },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        maintenance: None,
        health: Default::default(),
    };
    let backends: Vec<Backend> = backends.iter().map(backend).collect();
    let vip = if backends.iter().any(|b| b.key.address.is_ipv6()) { "2001:db8::1" } else { "192.0.2.1" };
    Service {
        name: ServiceName::new(name).expect("a name"),
        endpoint: Endpoint::new(vip.parse().expect("an address"), port, Protocol::Tcp),
        group: Default::default(),
        scheduler: Scheduler::Rr,
        backends,
        options: ServiceOptions::default(),
        sources: Default::default(),
        health: Default::default(),
    }
}

/// Its backends are neighbours on eth0; a MAC ends in the address's last byte.
pub fn desired(services: &[Service]) -> Desired {
    let addresses = services.iter().flat_map(|service| &service.backends).map(|b| b.key.address);
    Desired {
        services: services.to_vec(),
        hz: 250,
        flows: FlowSizes::default(),
        links: vec![link("eth0", 1)],
        hosts: addresses.map(|address| (address, neighbour(address))).collect(),
        ..Desired::default()
    }
}

pub fn neighbour(address: IpAddr) -> HostRoute {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    let v6 = u8::from(address.is_ipv6());
    HostRoute::Neighbour {
        mac: [2, 0, 0, 0, v6, last],
        answers: true,
        link: "eth0".to_owned(),
        tags: Tags::NONE,
        mtu: 1500,
    }
}

pub fn link(name: &str, ifindex: u32) -> LinkSpec {
    LinkSpec {
        name: name.to_owned(),
        ifindex,
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        ipv4: None,
        ipv6: None,
        merges: false,
        untagged: true,
        tags: Vec::new(),
        macs: Vec::new(),
    }
}
