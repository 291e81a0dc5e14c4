//! The network as the planner needs it: how each backend is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_common::{
    host::{self, Path, Route},
    vlan::{self, Tags},
};

use super::interfaces::Interfaces;
use crate::{
    clock::monotonic,
    model::{Model, rules::same_family},
    neigh::{Known, Neighbours, News},
    net::{
        Address, Attachment, Error, Event, Events, Link, Neighbour, NeighbourState, Netlink,
        Route as KernelRoute, resolve_attach,
    },
    plan::{HostRoute, LinkSpec, Snapshot, address_from, name_of},
};

/// Links, addresses, routes to the backends, and their MACs.
pub struct Network {
    pub netlink: Netlink,
    pub links: Vec<Link>,
    addresses: Vec<Address>,
    reach: BTreeMap<IpAddr, Reach>,
    /// The source address that the kernel would take to a backend.
    preferred: BTreeMap<IpAddr, IpAddr>,
    neighbours: Neighbours,
}

/// The way to a backend, MAC apart.
#[derive(Clone, Debug)]
pub enum Reach {
    Local,
    OnLink(Attachment),
    /// Direct Routing cannot cross a router.
    Gateway(IpAddr),
    Nowhere(String),
}

impl Network {
    pub async fn connect() -> Result<Self> {
        let netlink = Netlink::connect()?;
        let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
        let (reach, preferred, neighbours) = Default::default();
        Ok(Self { netlink, links, addresses, reach, preferred, neighbours })
    }

    /// Reads links, addresses, routes and neighbours anew, for the backends of `model`.
    pub async fn read(&mut self, model: &Model) -> Result<()> {
        self.links = self.netlink.links().await?;
        self.addresses = self.netlink.addresses().await?;
        let (mut reach, mut preferred) = (BTreeMap::new(), BTreeMap::new());
        for address in backends(model) {
            let route = self.netlink.route_to(address).await?;
            preferred.extend(route.and_then(|route| Some((address, route.prefsrc?))));
            reach.insert(address, self.reach(address, route));
        }
        (self.reach, self.preferred) = (reach, preferred);
        let targets: BTreeMap<IpAddr, u32> = self
            .reach
            .iter()
            .filter_map(|(address, reach)| match reach {
                Reach::OnLink(at) => Some((*address, self.device(at))),
                _ => None,
            })
            .collect();
        self.neighbours.watch(monotonic(), &targets);
        for neighbour in self.netlink.neighbours().await? {
            self.heard(&neighbour);
        }
        Ok(())
    }

    /// Index of the interface that was named, which is where the kernel keeps the neighbours.
    fn device(&self, attachment: &Attachment) -> u32 {
        self.links
            .iter()
            .find(|link| resolve_attach(&self.links, &link.name).as_ref() == Ok(attachment))
            .map_or(attachment.ifindex, |link| link.index)
    }

    fn reach(&self, address: IpAddr, route: Option<KernelRoute>) -> Reach {
        let Some(route) = route else {
            return Reach::Nowhere(format!("no route to {address}"));
        };
        if route.local {
            return Reach::Local;
        }
        if let Some(gateway) = route.gateway {
            return Reach::Gateway(gateway);
        }
        let Some(link) = self.links.iter().find(|link| link.index == route.oif) else {
            return Reach::Nowhere(format!("the route to {address} leads to an unknown interface"));
        };
        match resolve_attach(&self.links, &link.name) {
            Ok(attachment) => Reach::OnLink(attachment),
            Err(error) => Reach::Nowhere(error.to_string()),
        }
    }

    /// Takes a neighbour event in; whether it changes a route.
    pub fn heard(&mut self, neighbour: &Neighbour) -> bool {
        let news = match (neighbour.state, neighbour.mac) {
            (NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => {
                News::Answers(mac)
            }
            (NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe, Some(mac)) => {
                News::Unverified(mac)
            }
            (NeighbourState::Failed, _) => News::Failed,
            _ => News::Asking,
        };
        let changed = self.neighbours.heard(monotonic(), neighbour.address, neighbour.ifindex, news);
        if changed {
            tracing::debug!(backend = %neighbour.address, ?news, "backend's MAC");
        }
        changed
    }

    /// Takes over which MACs an earlier agent had found. A backend that is silent just now keeps its
    /// established flows so.
    pub fn remember(&mut self, kernel: &Snapshot) {
        for host in kernel.hosts.values() {
            let (route, is_ipv6) = (Route(host.route), host.flags & host::flag::IPV6 != 0);
            let address = address_from(host.address, is_ipv6);
            let link = kernel.links.get(&route.link()).map(|link| name_of(&link.name));
            // Behind another interface, or tag, there is another host.
            if let Some(Reach::OnLink(at)) = self.reach.get(&address)
                && link.as_ref() == Some(&at.name)
                && Path(host.path).tags() == tags(at)
            {
                self.neighbours.remember(address, route.mac());
            }
        }
    }

    /// An entry was collected: ask again.
    pub fn forgotten(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.neighbours.heard(monotonic(), address, ifindex, News::Asking)
    }

    /// Asks what is due.
    pub async fn ask(&mut self, now: Duration) {
        for (ifindex, address) in self.neighbours.due(now) {
            if let Err(error) = self.netlink.probe(ifindex, address).await {
                tracing::warn!(backend = %address, "asking for its MAC failed: {error}");
            }
        }
    }

    /// Asks who is not known yet, and waits until each has answered or failed, or `limit` is over: a
    /// director that starts before it knows its backends would drop the first connections.
    pub async fn await_answers(&mut self, model: &Model, events: &mut Events, limit: Duration) -> Result<()> {
        self.ask(monotonic()).await;
        let answers = async {
            while self.neighbours.is_pending() {
                match events.next().await? {
                    Event::Neighbour(neighbour) => {
                        self.heard(&neighbour);
                    }
                    Event::Resync => break,
                    _ => {}
                }
            }
            Ok::<_, Error>(())
        };
        // Out of time: the missing ones are shown as unresolved and asked again.
        if let Ok(answered) = tokio::time::timeout(limit, answers).await {
            answered?;
        }
        // The other events of this while are lost: look anew.
        self.read(model).await
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.neighbours.deadline()
    }

    /// Whether an address is known just so.
    pub fn has_address(&self, address: &Address) -> bool {
        self.addresses.contains(address)
    }

    /// Host routes by backend address.
    pub fn hosts(&self, model: &Model) -> BTreeMap<IpAddr, HostRoute> {
        backends(model).into_iter().map(|address| (address, self.host(address))).collect()
    }

    fn host(&self, address: IpAddr) -> HostRoute {
        match (self.reach.get(&address), self.neighbours.known(address)) {
            (Some(Reach::Local), _) => HostRoute::Local,
            (Some(Reach::OnLink(at)), Some(known)) => HostRoute::Neighbour {
                mac: known.mac,
                answers: known.answers,
                link: at.name.clone(),
                tags: tags(at),
                mtu: u16::try_from(at.mtu).unwrap_or(u16::MAX),
            },
            _ => HostRoute::Unresolved,
        }
    }

    /// The MACs that are known, by backend address.
    pub fn known(&self, model: &Model) -> BTreeMap<IpAddr, Known> {
        let known = backends(model).into_iter().map(|address| (address, self.neighbours.known(address)));
        known.filter_map(|(address, known)| Some((address, known?))).collect()
    }

    /// Why a backend is not reachable, for people; none if it is.
    pub fn trouble(&self, address: IpAddr) -> Option<String> {
        match self.reach.get(&address)? {
            Reach::Local => None,
            Reach::Gateway(gateway) => Some(format!(
                "behind gateway {gateway}: Direct Routing needs the backend in a segment of the director's"
            )),
            Reach::Nowhere(why) => Some(why.clone()),
            Reach::OnLink(at) => match self.neighbours.known(address) {
                Some(known) if known.answers => None,
                Some(_) => Some(format!("does not answer on {} any more", at.name)),
                None => Some(format!("no answer to ARP/ND on {} yet", at.name)),
            },
        }
    }

    /// The first backend that `model` has and `old` has not that Direct Routing cannot reach at all.
    pub fn behind_gateway(&self, model: &Model, old: &Model) -> Option<(IpAddr, IpAddr)> {
        let old = backends(old);
        let new = backends(model).into_iter().filter(|address| !old.contains(address));
        new.into_iter().find_map(|address| match self.reach.get(&address) {
            Some(Reach::Gateway(gateway)) => Some((address, *gateway)),
            _ => None,
        })
    }

    /// Refuses a `vips.add_to` that is not there.
    pub fn check_placement(&self, model: &Model) -> Result<()> {
        if let Some(interface) = &model.vips.add_to {
            resolve_attach(&self.links, interface).context("vips.add_to")?;
        }
        Ok(())
    }

    /// Devices that packets leave by.
    pub fn egress(&self) -> BTreeSet<String> {
        self.reach
            .values()
            .filter_map(|reach| match reach {
                Reach::OnLink(at) => Some(at.name.clone()),
                _ => None,
            })
            .collect()
    }

    /// The planner's links: the attached interfaces, and those that packets leave by, flows of deleted
    /// services among them; `probes` leads to the checks through the VIP.
    pub fn link_specs(
        &self,
        interfaces: &Interfaces,
        model: &Model,
        now: &Snapshot,
        probes: Option<&str>,
    ) -> Vec<LinkSpec> {
        let mut names: BTreeSet<String> = self.egress();
        let used: BTreeSet<u16> = now.hosts.values().map(|host| Route(host.route).link()).collect();
        let kept = now.links.iter().filter(|(index, _)| used.contains(*index));
        names.extend(kept.map(|(_, link)| name_of(&link.name)));
        names.extend(interfaces.attachments().map(|at| at.name.clone()));
        names.extend(probes.map(str::to_owned));
        names.iter().filter_map(|name| self.link_spec(name, interfaces, model)).collect()
    }

    /// Where checks through the VIP come from, by backend: an address of the director's that is no VIP, on an
    /// interface where the program sees the answer and can send it on. From another one a backend answers as it would a client's.
    pub fn sources(&self, interfaces: &Interfaces, model: &Model) -> BTreeMap<IpAddr, IpAddr> {
        let vips = vips(model);
        // On the very interface that was named: what comes for an address of its parent has another tag.
        let own = |name: &str, family: IpAddr| {
            let index = self.links.iter().find(|link| link.name == name)?.index;
            let usable = |it: &&Address| {
                let is_local = matches!(it.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                it.ifindex == index && !it.tentative && !is_local && !vips.contains(&it.address)
            };
            let mut usable = self.addresses.iter().filter(usable).map(|it| it.address);
            usable.find(|address| same_family(*address, family))
        };
        let source = |backend: IpAddr, at: &Attachment| {
            let mut seen =
                interfaces.answering().filter(|(_, it)| it.name == at.name && it.vlans == at.vlans);
            if let Some((name, _)) = seen.next() {
                let preferred = self.preferred.get(&backend).filter(|source| !vips.contains(source));
                return preferred.copied().or_else(|| own(name, backend));
            }
            interfaces.answering().find_map(|(name, _)| own(name, backend))
        };
        let reached = self.reach.iter().filter_map(|(backend, reach)| match reach {
            Reach::OnLink(at) => Some((*backend, source(*backend, at)?)),
            _ => None,
        });
        reached.collect()
    }

    fn link_spec(&self, name: &str, interfaces: &Interfaces, model: &Model) -> Option<LinkSpec> {
        let link = self.links.iter().find(|link| link.name == *name)?;
        let attachments: Vec<&Attachment> = interfaces.attachments().filter(|at| at.name == name).collect();
        let sources: Vec<u32> =
            std::iter::once(link.index).chain(interfaces.named_on(name, &self.links)).collect();
        let vips = vips(model);
        let usable = |address: &&Address| {
            sources.contains(&address.ifindex) && !vips.contains(&address.address) && !address.tentative
        };
        let mut ipv4 = None;
        let mut ipv6 = None;
        for address in self.addresses.iter().filter(usable) {
            match address.address {
                IpAddr::V4(v4) => ipv4 = ipv4.or(Some(v4)),
                IpAddr::V6(v6) if !v6.is_unicast_link_local() => ipv6 = ipv6.or(Some(v6)),
                IpAddr::V6(_) => {}
            }
        }
        Some(LinkSpec {
            name: name.to_owned(),
            ifindex: link.index,
            mac: link.mac,
            ipv4,
            ipv6,
            merges: interfaces.may_merge(name),
            untagged: attachments.iter().any(|at| at.vlans.is_empty()),
            tags: attachments.iter().filter(|at| !at.vlans.is_empty()).map(|at| tags(at)).collect(),
            macs: attachments.iter().map(|at| at.mac).filter(|mac| *mac != link.mac).collect(),
        })
    }
}

fn tags(attachment: &Attachment) -> Tags {
    /// ETH_P_8021AD (`include/uapi/linux/if_ether.h`).
    const SERVICE_TPID: u16 = 0x88a8;
    let mut tags = attachment.vlans.iter().map(|vlan| vlan::tag(vlan.tpid == SERVICE_TPID, vlan.tag));
    Tags::new(tags.next().unwrap_or(0), tags.next().unwrap_or(0))
}

pub(super) fn vips(model: &Model) -> BTreeSet<IpAddr> {
    model.services.iter().flat_map(|s| s.endpoints()).map(|endpoint| endpoint.address).collect()
}

fn backends(model: &Model) -> BTreeSet<IpAddr> {
    model.services.iter().flat_map(|service| &service.backends).map(|backend| backend.key.address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Vlan;

    #[test]
    fn the_protocol_of_a_tag_is_kept() {
        let attachment = |vlans: &[(u16, u16)]| Attachment {
            ifindex: 2,
            name: "eth0".to_owned(),
            vlans: vlans.iter().map(|(tpid, tag)| Vlan { tpid: *tpid, tag: *tag }).collect(),
            mtu: 1500,
            device_mtu: 1500,
            mac: [0; 6],
            up: true,
        };
        assert_eq!(tags(&attachment(&[])), Tags::NONE);
        assert_eq!(tags(&attachment(&[(0x8100, 100)])), Tags::new(100, 0));
        assert_eq!(tags(&attachment(&[(0x88a8, 10), (0x8100, 20)])), Tags::new(10 | vlan::SERVICE, 20));
    }
}
