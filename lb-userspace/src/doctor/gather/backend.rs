//! The ways to the backends, and who has the VIPs, by asking them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use super::network::Network;
use crate::{
    api::types::{BackendView, CheckState, ServiceView},
    doctor::{
        held::{Held, Mac, Next, TagPair, Way},
        judge::{
            backend::{Across, Facts, Health, Pair},
            mtu, reach,
            reply::Reply,
            vip,
        },
        probe::{self, Ask, Lane, Question, WhoHas, Wire},
    },
    health::THROUGH_VIP,
    net::sysctl::Sysctl,
};

/// Bytes of a short ping, as ping(8) sends it.
const SHORT: u32 = 84;

/// A TCP port that nothing need listen on: where a service has every port, any answer will do.
const ANY_PORT: u16 = 9;

const BROADCAST: Mac = [0xff; 6];

#[derive(Default)]
pub struct Asked {
    pub ways: Vec<Facts>,
    pub mtus: Vec<mtu::Facts>,
    pub reach: Vec<reach::Facts>,
    pub vips: Vec<vip::Facts>,
    /// What could not be asked.
    pub unknown: Vec<String>,
}

/// What is held and what surrounds it.
struct Asker<'a> {
    held: &'a Held,
    network: &'a Network,
    services: &'a [ServiceView],
}

/// A way that can be tried, and from where.
struct Trial<'a> {
    way: &'a Way,
    lane: Lane,
    source: IpAddr,
    across: Option<(IpAddr, String)>,
    /// Bytes of a long ping; for one way of each backend.
    long: Option<u32>,
}

/// What a trial asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Vip,
    Own,
    OtherVip,
    OtherOwn,
    DatagramVip,
    DatagramOwn,
    Across,
    Long,
}

/// Replies by trial.
type Replies = BTreeMap<(usize, Slot), Reply>;

/// Where who has an address is asked: device, tags, address.
type Target = (u32, TagPair, IpAddr);

/// Asks everybody, everything at once. Blocks for some seconds where somebody does not answer.
pub fn gather(held: &Held, network: &Network, services: &[ServiceView]) -> io::Result<Asked> {
    let asker = Asker { held, network, services };
    let mut wire = Wire::open()?;
    let (trials, unknown) = asker.trials();
    let questions: Vec<((usize, Slot), Question)> =
        trials.iter().enumerate().flat_map(|(n, trial)| trial.questions(n)).collect();
    let asked: Vec<Question> = questions.iter().map(|(_, question)| *question).collect();
    let replies: Replies =
        questions.iter().map(|(slot, _)| *slot).zip(probe::ask(&mut wire, &asked)?).collect();
    let owners = asker.owners(&mut wire, &trials, &replies)?;
    let ways = trials.iter().enumerate().map(|(n, trial)| asker.way(n, trial, &replies, &owners)).collect();
    Ok(Asked {
        ways,
        mtus: asker.mtus(&trials, &replies),
        reach: asker.reach(&owners),
        vips: asker.vips(&owners),
        unknown: unknown.into_iter().collect(),
    })
}

impl Trial<'_> {
    fn questions(&self, n: usize) -> Vec<((usize, Slot), Question)> {
        let Self { way, lane, source, across, long } = self;
        let (vip, own) = (way.vip.ip(), way.backend.ip());
        let (first, other): (Probe, Probe) = if way.has_listener() { (syn, echo) } else { (echo, syn) };
        let port = Some(way.vip.port()).filter(|port| *port != 0).unwrap_or(ANY_PORT);
        let mut asked = vec![
            (Slot::Vip, *source, first(vip, port)),
            (Slot::Own, *source, first(own, port)),
            (Slot::OtherVip, *source, other(vip, port)),
            (Slot::OtherOwn, *source, other(own, port)),
        ];
        if way.takes_datagrams() {
            let ask = |to| Ask::Datagram(SocketAddr::new(to, port));
            asked.extend([(Slot::DatagramVip, *source, ask(vip)), (Slot::DatagramOwn, *source, ask(own))]);
        }
        asked.extend(across.as_ref().map(|(from, _)| (Slot::Across, *from, first(vip, port))));
        asked.extend(long.map(|length| (Slot::Long, *source, Ask::Echo(own, length as usize))));
        let question = |(slot, from, ask)| ((n, slot), Question { lane: *lane, from, ask });
        asked.into_iter().map(question).collect()
    }
}

impl Asker<'_> {
    /// And what cannot be tried.
    fn trials(&self) -> (Vec<Trial<'_>>, BTreeSet<String>) {
        let (mut trials, mut unknown) = (Vec::new(), BTreeSet::new());
        let mut seen = BTreeSet::new();
        let ingress_mtu = self.network.ingress(self.held).map(|(_, mtu)| mtu);
        for way in &self.held.ways {
            let Next::Host { ifindex, mac, tags, mtu } = way.next else { continue };
            let backend = way.backend.ip();
            // A device that is down, and a route that is missing, are findings of their own.
            let from = self.network.mac(ifindex).filter(|_| self.network.works(ifindex));
            let (Some(from), Some(Some(_))) = (from, self.network.routes.get(&backend)) else { continue };
            let source = self.network.source(backend).filter(|source| !self.held.vips.contains(source));
            let Some(source) = source else {
                unknown.insert(format!(
                    "backend {backend}: the director has no address besides its VIPs to ask it from"
                ));
                continue;
            };
            trials.push(Trial {
                way,
                lane: Lane { ifindex, from, to: mac, tags },
                source,
                across: self.network.elsewhere(backend, self.held),
                long: ingress_mtu.filter(|_| seen.insert(backend)).map(|ingress| ingress.min(mtu.into())),
            });
        }
        (trials, unknown)
    }

    fn way(
        &self,
        n: usize,
        trial: &Trial<'_>,
        replies: &Replies,
        owners: &BTreeMap<Target, BTreeSet<Mac>>,
    ) -> Facts {
        let reply = |slot| replies.get(&(n, slot)).copied().unwrap_or(Reply::Unsent);
        let across = trial.across.as_ref().map(|(source, device)| Across {
            source: *source,
            device: device.clone(),
            vip: reply(Slot::Across),
        });
        Facts {
            way: trial.way.clone(),
            source: trial.source,
            first: Pair { vip: reply(Slot::Vip), own: reply(Slot::Own) },
            second: Pair { vip: reply(Slot::OtherVip), own: reply(Slot::OtherOwn) },
            datagram: trial
                .way
                .takes_datagrams()
                .then(|| Pair { vip: reply(Slot::DatagramVip), own: reply(Slot::DatagramOwn) }),
            across,
            owners: owners.get(&target_of(trial)).cloned().unwrap_or_default(),
            health: self.health(trial.way),
        }
    }

    fn mtus(&self, trials: &[Trial<'_>], replies: &Replies) -> Vec<mtu::Facts> {
        let Some((ingress, ingress_mtu)) = self.network.ingress(self.held) else { return Vec::new() };
        let mut facts = Vec::new();
        for (n, trial) in trials.iter().enumerate() {
            let (Some(length), Next::Host { ifindex, mtu, .. }) = (trial.long, trial.way.next) else {
                continue;
            };
            let backend = trial.way.backend.ip();
            let short = if trial.way.has_listener() { Slot::OtherOwn } else { Slot::Own };
            let reply = |slot| replies.get(&(n, slot)).copied().unwrap_or(Reply::Unsent);
            facts.push(mtu::Facts {
                backend,
                device: self.network.name(ifindex),
                mtu: mtu.into(),
                ingress: ingress.clone(),
                ingress_mtu,
                short: reply(short),
                long: reply(Slot::Long),
                length,
                mss: announced(trials, replies, backend),
            });
        }
        facts
    }

    /// Asks who has: the VIPs in every segment, backends without a MAC, and those that answered nothing.
    fn owners(
        &self,
        wire: &mut Wire,
        trials: &[Trial<'_>],
        replies: &Replies,
    ) -> io::Result<BTreeMap<Target, BTreeSet<Mac>>> {
        let slots = [Slot::Vip, Slot::Own, Slot::OtherVip, Slot::OtherOwn];
        let is_mute = |n: usize| {
            !slots.iter().any(|slot| replies.get(&(n, *slot)).is_some_and(|reply| reply.is_answer()))
        };
        let mute = trials.iter().enumerate().filter(|(n, _)| is_mute(*n)).map(|(_, trial)| target_of(trial));
        let unresolved = self.held.ways.iter().filter(|way| way.next == Next::Unresolved);
        let unresolved = unresolved.filter_map(|way| self.by_route(way.backend.ip()));
        let vips =
            self.held.vips.iter().flat_map(|vip| {
                self.held.segments.iter().map(move |(ifindex, tags)| (*ifindex, *tags, *vip))
            });
        let targets: BTreeSet<Target> = mute.chain(unresolved).chain(vips).collect();
        let questions: Vec<(Target, WhoHas)> = targets
            .into_iter()
            .filter_map(|(ifindex, tags, target)| {
                let from = self.network.mac(ifindex)?;
                let lane = Lane { ifindex, from, to: BROADCAST, tags };
                Some((
                    (ifindex, tags, target),
                    WhoHas { lane, from: self.network.link_local(ifindex), target },
                ))
            })
            .collect();
        let asked: Vec<WhoHas> = questions.iter().map(|(_, question)| *question).collect();
        let found = probe::who_has(wire, &asked)?;
        Ok(questions.into_iter().map(|(target, _)| target).zip(found).collect())
    }

    /// Where a backend would be asked for, that is in a segment of the director's.
    fn by_route(&self, backend: IpAddr) -> Option<Target> {
        let route = self.network.routes.get(&backend)?.filter(|route| route.gateway.is_none())?;
        Some((route.oif, (0, 0), backend))
    }

    fn reach(&self, owners: &BTreeMap<Target, BTreeSet<Mac>>) -> Vec<reach::Facts> {
        let backends: BTreeMap<IpAddr, Next> =
            self.held.ways.iter().map(|way| (way.backend.ip(), way.next)).collect();
        // What a device that is down has caused is no news.
        let broken = self.held.links.iter().any(|link| !self.network.works(link.ifindex));
        let is_news = |backend: &IpAddr, next: &Next| match (next, self.network.routes.get(backend)) {
            (Next::Host { ifindex, .. }, _) if !self.network.works(*ifindex) => false,
            (_, Some(Some(route))) => self.network.works(route.oif),
            _ => !broken,
        };
        let news = backends.into_iter().filter(|(backend, next)| is_news(backend, next));
        let facts = news.map(|(backend, next)| {
            let route = self.network.routes.get(&backend).copied().flatten();
            reach::Facts {
                backend,
                next,
                route: route.map(|route| reach::Route {
                    device: self.network.name(route.oif),
                    gateway: route.gateway,
                }),
                owners: self
                    .by_route(backend)
                    .and_then(|target| owners.get(&target))
                    .cloned()
                    .unwrap_or_default(),
            }
        });
        facts.collect()
    }

    fn vips(&self, owners: &BTreeMap<Target, BTreeSet<Mac>>) -> Vec<vip::Facts> {
        let facts = self.held.vips.iter().map(|vip| {
            let mut answered: BTreeMap<String, BTreeSet<Mac>> = BTreeMap::new();
            for ((ifindex, _, _), macs) in owners.iter().filter(|((.., target), _)| target == vip) {
                answered.entry(self.network.name(*ifindex)).or_default().extend(macs);
            }
            vip::Facts {
                vip: *vip,
                here: self.network.having(*vip),
                routes: self.routes(*vip),
                answered,
                own: self.network.macs(),
                backends: self.held.macs(),
            }
        });
        facts.collect()
    }

    /// The setting by which the kernel routes what comes in for an address like this one: IPv4's is each interface's
    /// own, IPv6's all have in common (`ip_route_input_slow`, `ip6_forward`).
    fn routes(&self, vip: IpAddr) -> Option<String> {
        let on = |setting: Result<Sysctl, _>| {
            setting.ok()?.read_number().is_ok_and(|value| value != 0).then_some(())
        };
        if vip.is_ipv6() {
            on(Sysctl::ipv6_conf("all", "forwarding"))?;
            return Some("net.ipv6.conf.all.forwarding".to_owned());
        }
        let ingress = self.network.links.iter().filter(|link| self.network.is_ingress(link.index, self.held));
        let mut ingress = ingress.filter(|link| on(Sysctl::ipv4_conf(&link.name, "forwarding")).is_some());
        ingress.next().map(|link| format!("net.ipv4.conf.{}.forwarding", link.name))
    }

    /// None: nothing checks it, or there is no result yet.
    fn health(&self, way: &Way) -> Option<Health> {
        let service = self.services.iter().find(|service| service.name.as_str() == way.service)?;
        let BackendView { checks, .. } =
            service.backends.iter().find(|it| SocketAddr::new(it.key.address, it.key.port) == way.backend)?;
        if checks.is_empty() || checks.iter().any(|check| check.state == CheckState::Unproven) {
            return None;
        }
        let failing = checks.iter().filter(|check| check.state == CheckState::Down);
        let mut words: Vec<String> = failing
            .map(|check| format!("{}: {}", check.check, check.result.as_deref().unwrap_or("failed")))
            .collect();
        let passes = words.is_empty();
        if passes {
            words = checks.iter().map(|check| check.check.clone()).collect();
        }
        let through_vip = checks.iter().any(|check| check.check.contains(THROUGH_VIP));
        Some(Health { passes, words: words.join("; "), through_vip })
    }
}

fn syn(to: IpAddr, port: u16) -> Ask {
    Ask::Syn(SocketAddr::new(to, port))
}

fn echo(to: IpAddr, _: u16) -> Ask {
    Ask::Echo(to, SHORT as usize)
}

type Probe = fn(IpAddr, u16) -> Ask;

/// The backend's own address, where its frames go.
fn target_of(trial: &Trial<'_>) -> Target {
    (trial.lane.ifindex, trial.lane.tags, trial.way.backend.ip())
}

/// The MSS of any SYN-ACK of a backend's VIPs.
fn announced(trials: &[Trial<'_>], replies: &Replies, backend: IpAddr) -> Option<u16> {
    let of_backend = trials.iter().enumerate().filter(|(_, trial)| trial.way.backend.ip() == backend);
    of_backend.filter_map(|(n, _)| replies.get(&(n, Slot::Vip))).find_map(|reply| match reply {
        Reply::Open { mss, .. } => *mss,
        _ => None,
    })
}
