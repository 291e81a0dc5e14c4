//! The director's links, addresses and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use lb_common::vlan::tag;

use crate::{
    doctor::held::{Held, Mac},
    net::{Address, Error, Link, Netlink, Route, host_prefix, resolve_attach},
};

/// 802.1ad
const SERVICE_TAG: u16 = 0x88a8;

pub struct Network {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// To each backend; None: there is none.
    pub routes: BTreeMap<IpAddr, Option<Route>>,
}

impl Network {
    pub async fn gather(backends: BTreeSet<IpAddr>) -> Result<Self, Error> {
        let netlink = Netlink::connect()?;
        let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
        let backends: Vec<IpAddr> = backends.into_iter().collect();
        let routes = netlink.routes_to(&backends)?;
        Ok(Self { links, addresses, routes: backends.into_iter().zip(routes).collect() })
    }

    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == ifindex)
    }

    /// Up, with a carrier.
    pub fn works(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(|link| link.up && link.running)
    }

    pub fn name(&self, ifindex: u32) -> String {
        self.link(ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }

    pub fn mac(&self, ifindex: u32) -> Option<Mac> {
        Some(self.link(ifindex)?.mac)
    }

    pub fn macs(&self) -> BTreeSet<Mac> {
        self.links.iter().map(|link| link.mac).collect()
    }

    /// Interfaces that have an address.
    pub fn having(&self, address: IpAddr) -> Vec<String> {
        self.addresses.iter().filter(|it| it.address == address).map(|it| self.name(it.ifindex)).collect()
    }

    /// The address that the kernel itself would ask a backend from.
    pub fn source(&self, backend: IpAddr) -> Option<IpAddr> {
        self.routes.get(&backend)?.as_ref()?.prefsrc
    }

    /// An address of the director in another segment, by which clients come in, with its interface.
    pub fn elsewhere(&self, backend: IpAddr, held: &Held) -> Option<(IpAddr, String)> {
        let towards = self.routes.get(&backend)?.as_ref()?.oif;
        let found = self.addresses.iter().find(|it| {
            it.ifindex != towards
                && it.address.is_ipv4() == backend.is_ipv4()
                && it.prefix != host_prefix(it.address)
                && !it.address.is_loopback()
                && !matches!(it.address, IpAddr::V6(v6) if v6.is_unicast_link_local())
                && !it.tentative
                && self.is_ingress(it.ifindex, held)
        })?;
        Some((found.address, self.name(found.ifindex)))
    }

    /// The interface by which the longest packets of clients come in, and its MTU.
    pub fn ingress(&self, held: &Held) -> Option<(String, u32)> {
        let ingress = held.links.iter().filter(|link| link.ingress);
        ingress
            .filter_map(|it| self.link(it.ifindex))
            .map(|link| (link.name.clone(), link.mtu))
            .max_by_key(|it| it.1)
    }

    /// Whether clients' frames come in by it: a VLAN device's by its parent, with its tags.
    pub fn is_ingress(&self, ifindex: u32, held: &Held) -> bool {
        let Ok(at) = resolve_attach(&self.links, &self.name(ifindex)) else { return false };
        let mut tags = at.vlans.iter().map(|vlan| tag(vlan.tpid == SERVICE_TAG, vlan.tag));
        let tags = (tags.next().unwrap_or(0), tags.next().unwrap_or(0));
        held.ingress.contains(&(at.ifindex, tags))
    }

    pub fn link_local(&self, ifindex: u32) -> Option<Ipv6Addr> {
        self.addresses.iter().filter(|it| it.ifindex == ifindex).find_map(|it| match it.address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            _ => None,
        })
    }
}
