//! What is so on this host now.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::Error;
use crate::net::{Netlink, listeners, sysctl, sysctl::Sysctl};

/// The sysctls by `conf/INTERFACE` that matter for Direct Routing over IPv4.
pub(super) const ARP_IGNORE: &str = "arp_ignore";
pub(super) const ARP_ANNOUNCE: &str = "arp_announce";
pub(super) const RP_FILTER: &str = "rp_filter";

/// What planning and judging look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub loopback: Loopback,
    /// Interfaces that can be asked by ARP: up, not the loopback, with an IPv4 address.
    pub interfaces: Vec<Interface>,
    pub addresses: Vec<Placed>,
    /// IPv4 settings by (interface or `all`, key).
    pub ipv4: BTreeMap<(String, &'static str), i64>,
    /// TCP sockets that listen.
    pub listeners: Vec<SocketAddr>,
    /// `net.ipv6.conf.lo.disable_ipv6` is set, or the kernel has no IPv6.
    pub ipv6_off: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loopback {
    pub index: u32,
    pub up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    /// An XDP program is attached: this host may be a director.
    pub has_xdp: bool,
}

/// An address and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub interface: String,
    pub address: IpAddr,
    pub prefix: u8,
    pub tentative: bool,
}

impl Facts {
    /// Reads them in the caller's network namespace.
    pub async fn gather(net: &Netlink) -> Result<Self, Error> {
        let links = net.links().await?;
        let lo = links.iter().find(|link| link.loopback).ok_or(Error::NoLoopback)?;
        let addresses: Vec<Placed> = net
            .addresses()
            .await?
            .into_iter()
            .filter_map(|a| {
                let interface = links.iter().find(|link| link.index == a.ifindex)?.name.clone();
                Some(Placed { interface, address: a.address, prefix: a.prefix, tentative: a.tentative })
            })
            .collect();
        let has_ipv4 = |name: &str| addresses.iter().any(|a| a.interface == name && a.address.is_ipv4());
        let interfaces: Vec<Interface> = links
            .iter()
            .filter(|link| link.up && !link.loopback && has_ipv4(&link.name))
            .map(|link| Interface { name: link.name.clone(), has_xdp: !link.xdp.is_empty() })
            .collect();
        Ok(Self {
            loopback: Loopback { index: lo.index, up: lo.up },
            ipv4: ipv4_settings(&interfaces)?,
            interfaces,
            addresses,
            listeners: listeners::tcp(),
            ipv6_off: ipv6_off()?,
        })
    }

    /// The value of `net.ipv4.conf.INTERFACE.KEY`.
    pub fn ipv4(&self, interface: &str, key: &'static str) -> i64 {
        self.ipv4.get(&(interface.to_owned(), key)).copied().unwrap_or_default()
    }

    /// What the kernel applies on an interface: the larger of its own value and that of `all`
    /// (IN_DEV_MAXCONF, `include/linux/inetdevice.h`).
    pub fn effective(&self, interface: &str, key: &'static str) -> i64 {
        self.ipv4("all", key).max(self.ipv4(interface, key))
    }

    /// Where an address is.
    pub fn places(&self, address: IpAddr) -> impl Iterator<Item = &Placed> {
        self.addresses.iter().filter(move |placed| placed.address == address)
    }
}

fn ipv4_settings(interfaces: &[Interface]) -> Result<BTreeMap<(String, &'static str), i64>, Error> {
    let mut settings = BTreeMap::new();
    for name in ["all", "lo"].into_iter().chain(interfaces.iter().map(|i| i.name.as_str())) {
        for key in [ARP_IGNORE, ARP_ANNOUNCE, RP_FILTER] {
            match Sysctl::ipv4_conf(name, key)?.read_number() {
                Ok(value) => drop(settings.insert((name.to_owned(), key), value)),
                // The interface went away meanwhile.
                Err(error) if error.is_missing() && name != "all" => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(settings)
}

fn ipv6_off() -> Result<bool, sysctl::Error> {
    match Sysctl::ipv6_conf("lo", "disable_ipv6")?.read_number() {
        Ok(value) => Ok(value != 0),
        Err(error) if error.is_missing() => Ok(true),
        Err(error) => Err(error),
    }
}
