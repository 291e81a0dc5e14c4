//! The network as the planner needs it: how each backend is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::FutureExt;
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
        Address, Attachment, Error, Event, Events, Link, Neighbour, NeighbourState, Netlink, NewAddress,
        Route as KernelRoute, resolve_attach,
    },
    plan::{HostRoute, LinkSpec, Snapshot, address_from, name_of},
};

/// How long a start waits for its backends' MACs.
#[derive(Clone, Copy, Debug)]
pub struct FirstAnswers {
    /// Once every service has a backend that can be used.
    pub enough: Duration,
    /// In any case.
    pub limit: Duration,
}

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
        let addresses: Vec<IpAddr> = backends(model).into_iter().collect();
        let routes = self.netlink.routes_to(&addresses)?;
        let prefsrc =
            |(address, route): (&IpAddr, &Option<KernelRoute>)| Some((*address, (*route)?.prefsrc?));
        self.preferred = addresses.iter().zip(&routes).filter_map(prefsrc).collect();
        // Backends are many, interfaces few.
        let mut by_link = BTreeMap::new();
        let reach = addresses.iter().zip(routes).map(|(address, route)| {
            let on_link = |index| by_link.entry(index).or_insert_with(|| self.on_link(index)).clone();
            (*address, reach(*address, route, on_link))
        });
        self.reach = reach.collect();
        let devices: Vec<(&Attachment, u32)> =
            by_link.values().filter_map(|it| it.as_ref().ok()).map(|at| (at, self.device(at))).collect();
        let device = |at: &Attachment| devices.iter().find(|(it, _)| *it == at).map(|(_, index)| *index);
        let on_link = self.reach.iter().filter_map(|(address, reach)| match reach {
            Reach::OnLink(at) => Some((*address, device(at)?)),
            _ => None,
        });
        let targets: BTreeMap<IpAddr, u32> = on_link.collect();
        self.neighbours.watch(monotonic(), &targets);
        self.hear_all().await
    }

    async fn hear_all(&mut self) -> Result<()> {
        for neighbour in self.netlink.neighbours().await? {
            self.take_in(&neighbour, Neighbours::read);
        }
        Ok(())
    }

    /// Whether every service that has backends has one that connections can be sent to.
    fn serves(&self, model: &Model) -> bool {
        let is_usable = |address: IpAddr| match self.reach.get(&address) {
            Some(Reach::Local) => true,
            Some(Reach::OnLink(_)) => self.neighbours.known(address).is_some_and(|known| known.answers),
            _ => false,
        };
        let mut with_backends = model.services.iter().filter(|service| !service.backends.is_empty());
        with_backends.all(|service| service.backends.iter().any(|backend| is_usable(backend.key.address)))
    }

    /// Index of the interface that was named, which is where the kernel keeps the neighbours.
    fn device(&self, attachment: &Attachment) -> u32 {
        self.links
            .iter()
            .find(|link| resolve_attach(&self.links, &link.name).as_ref() == Ok(attachment))
            .map_or(attachment.ifindex, |link| link.index)
    }

    /// Where packets go that leave by an interface; or why they cannot.
    fn on_link(&self, index: u32) -> Result<Attachment, String> {
        let link = self.links.iter().find(|link| link.index == index);
        let link = link.ok_or_else(|| "the route to it leads to an unknown interface".to_owned())?;
        resolve_attach(&self.links, &link.name).map_err(|error| error.to_string())
    }

    /// Takes a neighbour event in; whether it changes a route.
    pub fn heard(&mut self, neighbour: &Neighbour) -> bool {
        self.take_in(neighbour, Neighbours::heard)
    }

    fn take_in(
        &mut self,
        neighbour: &Neighbour,
        how: fn(&mut Neighbours, Duration, IpAddr, u32, News) -> bool,
    ) -> bool {
        let news = news(neighbour);
        let changed = how(&mut self.neighbours, monotonic(), neighbour.address, neighbour.ifindex, news);
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
    pub fn ask(&mut self, now: Duration) {
        let due = self.neighbours.due(now);
        let refused: Vec<Error> = match self.netlink.probe(&due) {
            Ok(outcomes) => outcomes.into_iter().filter_map(Result::err).collect(),
            Err(error) => vec![error],
        };
        let Some(first) = refused.first() else { return };
        // `___neigh_create` (net/core/neighbour.c).
        let is_full = first.errno() == Some(libc::ENOBUFS);
        let hint = if is_full {
            "; the kernel's table of neighbours is full: raise the sysctls net.ipv4.neigh.default.gc_thresh3, or \
             net.ipv6..., above the number of hosts in the director's segments"
        } else {
            ""
        };
        tracing::warn!(backends = refused.len(), "asking for MACs failed: {first}{hint}");
    }

    /// Waits for the answers of those who are not known yet, and have been asked: until each has answered or failed,
    /// or every service has a backend that can be used and `enough` is over, or `limit` is. Who is missing then is
    /// shown as unresolved and asked again.
    pub async fn await_answers(
        &mut self,
        model: &Model,
        events: &mut Events,
        FirstAnswers { enough, limit }: FirstAnswers,
    ) -> Result<()> {
        let asked = monotonic();
        let looks = (1..).map(|look| enough * look).take_while(|after| *after <= limit);
        for after in looks {
            self.hear_until(asked + after, events).await?;
            if !self.neighbours.is_pending() || self.serves(model) {
                break;
            }
        }
        // The other events of this while are lost: look anew.
        self.read(model).await
    }

    /// Takes in news of neighbours as long as first ones are missing.
    async fn hear_until(&mut self, until: Duration, events: &mut Events) -> Result<()> {
        while self.neighbours.is_pending() {
            let left = until.saturating_sub(monotonic());
            let Ok(first) = tokio::time::timeout(left, events.next()).await else { break };
            let mut next = Some(first);
            // Answers come by the thousand: all that are there are taken in before the next look.
            while let Some(event) = next {
                match event? {
                    Event::Neighbour(neighbour) => drop(self.heard(&neighbour)),
                    Event::Resync => self.hear_all().await?,
                    _ => {}
                }
                next = events.next().now_or_never();
            }
        }
        Ok(())
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.neighbours.deadline()
    }

    /// Takes in addresses that we have added ourselves: their events are no news.
    pub fn added(&mut self, new: &[NewAddress]) {
        let known = new.iter().map(|new| Address {
            ifindex: new.ifindex,
            address: new.address,
            prefix: new.prefix,
            tentative: false,
        });
        self.addresses.extend(known);
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
        let attachments: Vec<&Attachment> = interfaces.attachments().filter(|at| at.name == name).collect();
        // One that was renamed has the program still, which knows it by the index of the record of its old name.
        let renamed = |link: &&Link| attachments.iter().any(|at| at.ifindex == link.index);
        let named = self.links.iter().find(|link| link.name == *name);
        let link = named.or_else(|| self.links.iter().find(renamed))?;
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

fn reach(
    address: IpAddr,
    route: Option<KernelRoute>,
    on_link: impl FnOnce(u32) -> Result<Attachment, String>,
) -> Reach {
    match route {
        None => Reach::Nowhere(format!("no route to {address}")),
        Some(KernelRoute { local: true, .. }) => Reach::Local,
        Some(KernelRoute { gateway: Some(gateway), .. }) => Reach::Gateway(gateway),
        Some(KernelRoute { oif, .. }) => on_link(oif).map_or_else(Reach::Nowhere, Reach::OnLink),
    }
}

fn news(neighbour: &Neighbour) -> News {
    match (neighbour.state, neighbour.mac) {
        (NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => {
            News::Answers(mac)
        }
        (NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe, Some(mac)) => {
            News::Unverified(mac)
        }
        (NeighbourState::Failed, _) => News::Failed,
        _ => News::Asking,
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
