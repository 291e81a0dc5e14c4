//! What the kernel should hold: the model, and what the network says about its backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use lb_common::vlan::Tags;

use crate::model::{Backend, BackendKey, FlowSizes, Service, ServiceName, Timeouts};

/// Input of [`super::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub services: Vec<Service>,
    pub timeouts: Timeouts,
    /// CONFIG_HZ of the running kernel: timeouts are turned into ticks with it.
    pub hz: u32,
    /// Rated capacities of the tables, which `guard: auto` goes by.
    pub flows: FlowSizes,
    pub links: Vec<LinkSpec>,
    /// By backend address; one that is missing counts as unresolved.
    pub hosts: BTreeMap<IpAddr, HostRoute>,
    pub weights: Weights,
    /// None: no check goes through the VIP.
    pub probes: Option<ProbeSpec>,
}

/// Where the answers to health checks through the VIP go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// The device that leads to the checks; one of the links.
    pub link: String,
    /// Of its other end.
    pub mac: [u8; 6],
    /// What the checks come from: addresses of the director's own that are no VIP, and their ports.
    pub sources: BTreeSet<IpAddr>,
    pub ports: RangeInclusive<u16>,
}

/// What stands in the place of the configured weights, by what is known of the backends' health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights(pub BTreeMap<ServiceName, BTreeMap<BackendKey, ByHealth>>);

/// What health makes of a backend's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByHealth {
    /// No new connections, those of persistent clients too, and no place in a hashing scheduler's table.
    Out,
    /// This one; 0 as if an operator had given it.
    Weight(u16),
}

impl Weights {
    /// None: as configured.
    pub fn of(&self, service: &ServiceName, backend: BackendKey) -> Option<ByHealth> {
        self.0.get(service)?.get(&backend).copied()
    }

    /// The weight that the scheduler sees, if the backend can be reached.
    pub fn effective(&self, service: &ServiceName, backend: &Backend) -> u16 {
        match self.of(service, backend.key) {
            Some(ByHealth::Out) => 0,
            Some(ByHealth::Weight(weight)) if !backend.is_kept_back() => weight,
            _ => backend.effective_weight(),
        }
    }

    /// Its health alone keeps new connections away.
    pub fn is_out(&self, service: &ServiceName, backend: BackendKey) -> bool {
        self.of(service, backend) == Some(ByHealth::Out)
    }
}

/// One of the director's interfaces that packets come in or leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// The device that has the program: a VLAN device's parent.
    pub name: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Sources for ICMP errors.
    pub ipv4: Option<std::net::Ipv4Addr>,
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// Frames without a tag are ours.
    pub untagged: bool,
    /// Tags of frames that are ours.
    pub tags: Vec<Tags>,
    /// Frames may come in that are several merged into one: those that are too long for the way out are left to
    /// the kernel.
    pub merges: bool,
    /// Further MACs that are ours (a VLAN device's own, a virtual router's).
    pub macs: Vec<[u8; 6]>,
}

/// How a real server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRoute {
    /// Its address is the director's own.
    Local,
    /// One hop away.
    /// One that `answers` no more keeps its established flows and gets no new ones.
    Neighbour { mac: [u8; 6], answers: bool, link: String, tags: Tags, mtu: u16 },
    /// Not known (yet), or not one hop away.
    Unresolved,
}
