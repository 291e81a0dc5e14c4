//! The ways to the backends, and who has the VIPs, by asking them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
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
    model::Protocol,
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
    wire: Wire,
}

/// A way that can be tried, and from where.
struct Trial<'a> {
    way: &'a Way,
    lane: Lane,
    source: IpAddr,
    across: Option<(IpAddr, String)>,
}

/// Asks everybody. Blocks for some seconds where somebody does not answer.
pub fn gather(held: &Held, network: &Network, services: &[ServiceView]) -> io::Result<Asked> {
    let mut asked = Asked::default();
    let mut asker = Asker { held, network, services, wire: Wire::open()? };
    let trials: Vec<Trial<'_>> =
        held.ways.iter().filter_map(|way| asker.trial(way, &mut asked.unknown)).collect();
    asked.ways = asker.ways(&trials)?;
    asked.mtus = asker.mtus(&trials, &asked.ways)?;
    asked.reach = asker.reach()?;
    asked.vips = asker.vips()?;
    Ok(asked)
}

impl Asker<'_> {
    fn trial<'a>(&self, way: &'a Way, unknown: &mut Vec<String>) -> Option<Trial<'a>> {
        let Next::Host { ifindex, mac, tags, .. } = way.next else { return None };
        let backend = way.backend.ip();
        // A device that is down, and a route that is missing, are findings of their own.
        let from = self.network.mac(ifindex).filter(|_| self.network.works(ifindex))?;
        self.network.routes.get(&backend)?.as_ref()?;
        let Some(source) = self.network.source(backend).filter(|source| !self.held.vips.contains(source))
        else {
            let sentence =
                format!("backend {backend}: the director has no address besides its VIPs to ask it from");
            if !unknown.contains(&sentence) {
                unknown.push(sentence);
            }
            return None;
        };
        let across = self.network.elsewhere(backend, self.held);
        Some(Trial { way, lane: Lane { ifindex, from, to: mac, tags }, source, across })
    }

    fn ways(&mut self, trials: &[Trial<'_>]) -> io::Result<Vec<Facts>> {
        let first = self.pairs(trials.iter().map(|trial| (trial, first(trial.way))))?;
        let unclear: Vec<usize> =
            (0..trials.len()).filter(|n| matches!(first[*n].vip, Reply::Silent | Reply::Unsent)).collect();
        let second = self.pairs(unclear.iter().map(|n| (&trials[*n], other(trials[*n].way))))?;
        let second: BTreeMap<usize, Pair> = unclear.iter().copied().zip(second).collect();
        let mut across = self.across(trials)?;
        let mute = |n: &usize| {
            !first[*n].own.is_answer() && !second[n].vip.is_answer() && !second[n].own.is_answer()
        };
        let mute: Vec<usize> = unclear.iter().filter(|n| mute(n)).copied().collect();
        let owners = self.owners(mute.iter().map(|n| (trials[*n].lane, trials[*n].way.backend.ip())))?;
        let mut owners: BTreeMap<usize, BTreeSet<Mac>> = mute.into_iter().zip(owners).collect();
        let facts = trials.iter().enumerate().map(|(n, trial)| Facts {
            way: trial.way.clone(),
            source: trial.source,
            first: first[n],
            second: second.get(&n).copied(),
            across: across.remove(&n),
            owners: owners.remove(&n).unwrap_or_default(),
            health: self.health(trial.way),
        });
        Ok(facts.collect())
    }

    /// Each asks for the VIP and for the backend's own address, all at once.
    fn pairs<'a, 'w: 'a>(
        &mut self,
        asked: impl Iterator<Item = (&'a Trial<'w>, fn(IpAddr, u16) -> Ask)>,
    ) -> io::Result<Vec<Pair>> {
        let questions: Vec<Question> = asked
            .flat_map(|(trial, ask)| {
                let port = Some(trial.way.vip.port()).filter(|port| *port != 0).unwrap_or(ANY_PORT);
                [trial.way.vip.ip(), trial.way.backend.ip()].map(|to| Question {
                    lane: trial.lane,
                    from: trial.source,
                    ask: ask(to, port),
                })
            })
            .collect();
        let replies = probe::ask(&mut self.wire, &questions)?;
        Ok(replies.chunks_exact(2).map(|pair| Pair { vip: pair[0], own: pair[1] }).collect())
    }

    fn across(&mut self, trials: &[Trial<'_>]) -> io::Result<BTreeMap<usize, Across>> {
        let from: Vec<(usize, &(IpAddr, String))> =
            trials.iter().enumerate().filter_map(|(n, trial)| Some((n, trial.across.as_ref()?))).collect();
        let questions: Vec<Question> = from
            .iter()
            .map(|(n, (source, _))| {
                let Trial { way, lane, .. } = &trials[*n];
                let port = Some(way.vip.port()).filter(|port| *port != 0).unwrap_or(ANY_PORT);
                Question { lane: *lane, from: *source, ask: first(way)(way.vip.ip(), port) }
            })
            .collect();
        let replies = probe::ask(&mut self.wire, &questions)?;
        let found = from
            .into_iter()
            .zip(replies)
            .map(|((n, (source, device)), vip)| (n, Across { source: *source, device: device.clone(), vip }));
        Ok(found.collect())
    }

    fn mtus(&mut self, trials: &[Trial<'_>], ways: &[Facts]) -> io::Result<Vec<mtu::Facts>> {
        let Some((ingress, ingress_mtu)) = self.network.ingress(self.held) else { return Ok(Vec::new()) };
        let by_backend: BTreeMap<IpAddr, &Trial<'_>> =
            trials.iter().map(|trial| (trial.way.backend.ip(), trial)).collect();
        let mut facts: Vec<mtu::Facts> = Vec::new();
        let mut questions = Vec::new();
        for (backend, trial) in by_backend {
            let Next::Host { ifindex, mtu, .. } = trial.way.next else { continue };
            let length = ingress_mtu.min(u32::from(mtu));
            let announced = ways.iter().filter(|facts| facts.way.backend.ip() == backend).find_map(|facts| {
                match facts.first.vip {
                    Reply::Open { mss, .. } => mss,
                    _ => None,
                }
            });
            for length in [SHORT, length] {
                let ask = Ask::Echo(backend, length as usize);
                questions.push(Question { lane: trial.lane, from: trial.source, ask });
            }
            facts.push(mtu::Facts {
                backend,
                device: self.network.name(ifindex),
                mtu: mtu.into(),
                ingress: ingress.clone(),
                ingress_mtu,
                short: Reply::Silent,
                long: Reply::Silent,
                length,
                mss: announced,
            });
        }
        let replies = probe::ask(&mut self.wire, &questions)?;
        for (facts, pair) in facts.iter_mut().zip(replies.chunks_exact(2)) {
            (facts.short, facts.long) = (pair[0], pair[1]);
        }
        Ok(facts)
    }

    fn reach(&mut self) -> io::Result<Vec<reach::Facts>> {
        let backends: BTreeMap<IpAddr, Next> =
            self.held.ways.iter().map(|way| (way.backend.ip(), way.next)).collect();
        let lane = |backend: &IpAddr| {
            let route = self.network.routes.get(backend)?.filter(|route| route.gateway.is_none())?;
            let from = self.network.mac(route.oif)?;
            Some((Lane { ifindex: route.oif, from, to: BROADCAST, tags: (0, 0) }, *backend))
        };
        let unknown = backends.iter().filter(|(_, next)| **next == Next::Unresolved);
        let unknown: Vec<(Lane, IpAddr)> = unknown.filter_map(|(backend, _)| lane(backend)).collect();
        let owners = self.owners(unknown.iter().copied())?;
        let mut owners: BTreeMap<IpAddr, BTreeSet<Mac>> =
            unknown.into_iter().map(|(_, backend)| backend).zip(owners).collect();
        // What a device that is down has caused is no news.
        let broken = self.held.links.iter().any(|link| !self.network.works(link.ifindex));
        let is_news = |backend: &IpAddr, next: &Next| match (next, self.network.routes.get(backend)) {
            (Next::Host { ifindex, .. }, _) if !self.network.works(*ifindex) => false,
            (_, Some(Some(route))) => self.network.works(route.oif),
            _ => !broken,
        };
        let news = backends.into_iter().filter(|(backend, next)| is_news(backend, next));
        let facts =
            news.map(|(backend, next)| reach::Facts {
                backend,
                next,
                route: self.network.routes.get(&backend).copied().flatten().map(|route| reach::Route {
                    device: self.network.name(route.oif),
                    gateway: route.gateway,
                }),
                owners: owners.remove(&backend).unwrap_or_default(),
            });
        Ok(facts.collect())
    }

    fn vips(&mut self) -> io::Result<Vec<vip::Facts>> {
        let asked: Vec<(IpAddr, u32, TagPair)> = self
            .held
            .vips
            .iter()
            .flat_map(|vip| self.held.segments.iter().map(move |(ifindex, tags)| (*vip, *ifindex, *tags)))
            .collect();
        let lanes = asked.iter().filter_map(|(vip, ifindex, tags)| {
            let from = self.network.mac(*ifindex)?;
            Some((Lane { ifindex: *ifindex, from, to: BROADCAST, tags: *tags }, *vip))
        });
        let lanes: Vec<(Lane, IpAddr)> = lanes.collect();
        let answers = self.owners(lanes.iter().copied())?;
        let mut facts: BTreeMap<IpAddr, vip::Facts> = BTreeMap::new();
        for vip in &self.held.vips {
            let fresh = vip::Facts {
                vip: *vip,
                here: self.network.having(*vip),
                answered: BTreeMap::new(),
                own: self.network.macs(),
                backends: self.held.macs(),
            };
            facts.insert(*vip, fresh);
        }
        for ((lane, vip), macs) in lanes.into_iter().zip(answers) {
            let device = self.network.name(lane.ifindex);
            if let Some(facts) = facts.get_mut(&vip) {
                facts.answered.entry(device).or_default().extend(macs);
            }
        }
        Ok(facts.into_values().collect())
    }

    fn owners(&mut self, asked: impl Iterator<Item = (Lane, IpAddr)>) -> io::Result<Vec<BTreeSet<Mac>>> {
        let questions: Vec<WhoHas> = asked
            .map(|(lane, target)| WhoHas { lane, from: self.link_local(lane.ifindex), target })
            .collect();
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        probe::who_has(&mut self.wire, &questions)
    }

    fn link_local(&self, ifindex: u32) -> Option<Ipv6Addr> {
        self.network.link_local(ifindex)
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
        Some(Health { passes, words: words.join("; ") })
    }
}

fn syn(to: IpAddr, port: u16) -> Ask {
    Ask::Syn(SocketAddr::new(to, port))
}

fn echo(to: IpAddr, _: u16) -> Ask {
    Ask::Echo(to, SHORT as usize)
}

/// What a service's protocol allows to ask first, and what else.
fn first(way: &Way) -> fn(IpAddr, u16) -> Ask {
    if way.protocol == Protocol::Tcp && way.vip.port() != 0 { syn } else { echo }
}

fn other(way: &Way) -> fn(IpAddr, u16) -> Ask {
    if way.protocol == Protocol::Tcp && way.vip.port() != 0 { echo } else { syn }
}
