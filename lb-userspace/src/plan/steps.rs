//! The planner: differences between what is wanted and what the kernel holds, as ordered operations.
//!
//! Order: what new things refer to comes first (links, hosts, services, destinations, generations), then
//! the endpoints that lead to them, then what is taken away. So every prefix of a plan leaves the kernel
//! in a state that serves, and an agent that dies in between is corrected by the next one's plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    dest::{self, Dest},
    generation::{Member, Published},
    host::{self, Host, Route},
    link::{self, MAX_LINKS},
};

use super::{
    CompileError, Desired, HostRoute, LinkSpec, Op, Snapshot, compile,
    ids::Ids,
    records::{dest_record, host_address, host_record, link_record, service_record},
    region::Arena,
    rotation::resume,
    snapshot::{address_bytes, name_of},
    tables::Candidate,
};
use crate::model::{Backend, BackendKey, Scheduler, Service, ServiceName};

/// Why there is no plan. Nothing has been changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("service {0}: {1}")]
    Compile(ServiceName, CompileError),
    #[error("more than {0} services, deleted ones with live connections included: raise limits.services")]
    Services(u32),
    #[error("more than {0} endpoints, deleted ones with live connections included: raise limits.endpoints")]
    Endpoints(u32),
    #[error(
        "more than {0} backends in all, removed ones with live connections included: raise limits.destinations"
    )]
    Dests(u32),
    #[error("more than {MAX_LINKS} interfaces")]
    Links,
    #[error(
        "the schedulers' tables need more than {0} words of 8 bytes in all, which were reserved for the services that \
         there were at the first start: `lb detach` and a new start make room for twice what the configuration needs; \
         or use mh for fewer services, or lower the weights"
    )]
    Arena(u32),
}

/// What to do to make `now` what `want` says.
pub fn plan(want: &Desired, now: &Snapshot) -> Result<Vec<Op>, PlanError> {
    plan_on(want, now, &mut Compiled::default())
}

/// The beginning of a plan: the links alone, which a program has to be loaded for. Nothing is taken away.
pub fn plan_links(links: Vec<LinkSpec>, now: &Snapshot) -> Result<Vec<Op>, PlanError> {
    let (want, mut compiled) = (Desired { links, ..Desired::default() }, Compiled::default());
    let mut planner =
        Planner { want: &want, now, compiled: &mut compiled, ops: Vec::new(), late: Vec::new() };
    planner.links()?;
    Ok(planner.ops)
}

/// The same as [`plan`], which does not compile again what it finds in `compiled`. All plans of the same maps have to
/// be made on it.
pub fn plan_on(want: &Desired, now: &Snapshot, compiled: &mut Compiled) -> Result<Vec<Op>, PlanError> {
    let mut planner = Planner { want, now, compiled, ops: Vec::new(), late: Vec::new() };
    let links = planner.links()?;
    let services = planner.service_ids()?;
    let hosts = planner.hosts(&links)?;
    planner.records(&services);
    let dests = planner.dests(&services, &hosts)?;
    planner.generations(&services, &dests)?;
    planner.probes(&links);
    planner.rules(&services);
    planner.endpoints(&services)?;
    planner.filter();
    let Planner { mut ops, late, .. } = planner;
    ops.extend(late);
    Ok(ops)
}

/// From what each service's generation was compiled, and as what it was to be published: what is published just so
/// need not be compiled to be compared. Most plans change few services of many.
#[derive(Debug, Default)]
pub struct Compiled(BTreeMap<ServiceName, (Scheduler, Vec<Candidate>, Published)>);

pub(super) struct Planner<'a> {
    pub want: &'a Desired,
    pub now: &'a Snapshot,
    pub compiled: &'a mut Compiled,
    pub ops: Vec<Op>,
    /// Operations that take things away.
    pub late: Vec<Op>,
}

/// Service and address. The port is no part of it: Direct Routing does not translate it, and a service whose first
/// endpoint is another one keeps its backends, their counts and connections.
type DestKey = (u16, [u8; 16]);

/// A destination as it is to be.
#[derive(Clone, Copy)]
struct Given {
    id: u32,
    last_weight: u16,
}

impl Planner<'_> {
    /// Link indices by name.
    fn links(&mut self) -> Result<BTreeMap<String, u16>, PlanError> {
        let known: BTreeMap<String, u16> =
            self.now.links.iter().map(|(index, link)| (name_of(&link.name), *index)).collect();
        let mut ids = Ids::new(&self.now.links, MAX_LINKS);
        let mut indices = BTreeMap::new();
        let (mut tags, mut macs) = (BTreeSet::new(), BTreeSet::new());
        for spec in &self.want.links {
            let index = match known.get(&spec.name) {
                Some(index) => *index,
                None => ids.give().ok_or(PlanError::Links)?,
            };
            let link = link_record(spec);
            if self.now.links.get(&index) != Some(&link) {
                self.ops.push(Op::SetLink { index, link });
            }
            tags.extend(spec.tags.iter().map(|tags| link::tag_key(index, *tags)));
            macs.extend(spec.macs.iter().map(|mac| link::mac_word(*mac) | u64::from(index) << 48));
            indices.insert(spec.name.clone(), index);
        }
        self.ops.extend(tags.difference(&self.now.tags).map(|key| Op::AddTag(*key)));
        self.late.extend(self.now.tags.difference(&tags).map(|key| Op::DeleteTag(*key)));
        self.ops.extend(macs.difference(&self.now.macs).map(|key| Op::AddMac(*key)));
        self.late.extend(self.now.macs.difference(&macs).map(|key| Op::DeleteMac(*key)));
        let gone = known.iter().filter(|(name, _)| !indices.contains_key(*name));
        self.late.extend(gone.map(|(_, index)| Op::DeleteLink { index: *index }));
        Ok(indices)
    }

    /// Service ids by name; a deleted service that comes back gets its old one.
    fn service_ids(&mut self) -> Result<BTreeMap<ServiceName, u16>, PlanError> {
        let known: BTreeMap<String, u16> =
            self.now.services.iter().map(|(id, record)| (name_of(&record.name), *id)).collect();
        let mut ids = Ids::new(&self.now.services, self.now.limits.services);
        let mut given = BTreeMap::new();
        for service in &self.want.services {
            let id = match known.get(service.name.as_str()) {
                Some(id) => *id,
                None => ids.give().ok_or(PlanError::Services(self.now.limits.services.saturating_sub(1)))?,
            };
            given.insert(service.name.clone(), id);
        }
        Ok(given)
    }

    /// The services' own records, but for their generations.
    fn records(&mut self, services: &BTreeMap<ServiceName, u16>) {
        for service in &self.want.services {
            let id = services[&service.name];
            let before = self.now.services.get(&id);
            let generation = before.map_or(0, |record| record.generation);
            let record =
                service_record(service, &self.want.timeouts, self.want.hz, self.want.flows, generation);
            if before != Some(&record) {
                self.ops.push(Op::SetService { id, service: record, fresh: before.is_none() });
            }
        }
    }

    /// Host indices by address.
    fn hosts(&mut self, links: &BTreeMap<String, u16>) -> Result<BTreeMap<IpAddr, u32>, PlanError> {
        let known: BTreeMap<IpAddr, u32> =
            self.now.hosts.iter().map(|(index, host)| (host_address(host), *index)).collect();
        let mut ids = Ids::new(&self.now.hosts, self.now.limits.dests);
        let mut indices = BTreeMap::new();
        let backends = self.want.services.iter().flat_map(|service| &service.backends);
        for address in backends.map(|backend| backend.key.address).collect::<BTreeSet<_>>() {
            let index = match known.get(&address) {
                Some(index) => *index,
                None => ids.give().ok_or(PlanError::Dests(self.now.limits.dests.saturating_sub(1)))?,
            };
            let route = self.want.hosts.get(&address).unwrap_or(&HostRoute::Unresolved);
            self.host(index, host_record(address, route, links));
            indices.insert(address, index);
        }
        for (address, index) in known.iter().filter(|(address, _)| !indices.contains_key(*address)) {
            self.leftover_host(*address, *index, links);
        }
        Ok(indices)
    }

    /// A host that only flows of deleted services still go to: kept up to date as far as it is known,
    /// and never behind an interface that is gone, whose index another one may get.
    fn leftover_host(&mut self, address: IpAddr, index: u32, links: &BTreeMap<String, u16>) {
        let link = Route(self.now.hosts[&index].route).link();
        if let Some(route) = self.want.hosts.get(&address) {
            self.host(index, host_record(address, route, links));
        } else if link != host::LOCAL && !links.values().any(|there| *there == link) {
            self.host(index, host_record(address, &HostRoute::Unresolved, links));
        }
    }

    fn host(&mut self, index: u32, host: Host) {
        if self.now.hosts.get(&index) != Some(&host) {
            self.ops.push(Op::SetHost { index, host });
        }
    }

    /// Destination ids by service and address; one taken out and added again gets its old one.
    fn dests(
        &mut self,
        services: &BTreeMap<ServiceName, u16>,
        hosts: &BTreeMap<IpAddr, u32>,
    ) -> Result<BTreeMap<DestKey, Given>, PlanError> {
        let key = |dest: &Dest| (dest.service, dest.address);
        let known: BTreeMap<DestKey, u32> =
            self.now.dests.iter().map(|(id, dest)| (key(dest), *id)).collect();
        let mut ids = Ids::new(&self.now.dests, self.now.limits.dests);
        let mut given = BTreeMap::new();
        for service in &self.want.services {
            let id = services[&service.name];
            for backend in &service.backends {
                let host = hosts.get(&backend.key.address).copied().unwrap_or(0);
                let known = known.get(&(id, address_bytes(backend.key.address)));
                let before = known.and_then(|id| self.now.dests.get(id));
                let record = dest_record(backend, id, host, before);
                let dest = self.by_health(record, service, backend, before);
                let (id, fresh) = match known {
                    Some(id) => (*id, false),
                    None => {
                        (ids.give().ok_or(PlanError::Dests(self.now.limits.dests.saturating_sub(1)))?, true)
                    }
                };
                if self.now.dests.get(&id) != Some(&dest) {
                    self.ops.push(Op::SetDest { id, dest, fresh });
                }
                given.insert(key(&dest), Given { id, last_weight: dest.last_weight });
            }
        }
        let alive: BTreeSet<u16> = services.values().copied().collect();
        for (key, id) in known.iter().filter(|(key, _)| !given.contains_key(key)) {
            let mut dest = self.now.dests[id];
            // Of a deleted service the flows live on; of a removed backend they do not, and do not come
            // back when its service is deleted after it.
            let removed = alive.contains(&key.0) || dest.flags & dest::flag::RETIRED != 0;
            let flag = if removed { dest::flag::RETIRED } else { dest::flag::ORPHANED };
            let kept = dest.flags & !(dest::flag::RETIRED | dest::flag::ORPHANED);
            if dest.flags != kept | flag {
                dest.flags = kept | flag;
                self.late.push(Op::SetDest { id: *id, dest, fresh: false });
            }
        }
        Ok(given)
    }

    /// The record of a backend whose health gives it another weight.
    fn by_health(&self, record: Dest, service: &Service, backend: &Backend, before: Option<&Dest>) -> Dest {
        let weight = self.want.weights.effective(&service.name, backend);
        let is_out = self.want.weights.is_out(&service.name, backend.key);
        Dest {
            weight,
            last_weight: if weight == 0 { before.map_or(0, |dest| dest.last_weight) } else { weight },
            flags: record.flags | if is_out { dest::flag::OUT } else { 0 },
            ..record
        }
    }

    /// What the services' members are chosen from. Of deleted services it is taken away.
    fn generations(
        &mut self,
        services: &BTreeMap<ServiceName, u16>,
        dests: &BTreeMap<DestKey, Given>,
    ) -> Result<(), PlanError> {
        let published = self.now.services.values().map(|record| {
            let published = Published(record.generation);
            (published.offset(), u32::from(published.length()))
        });
        let mut arena = Arena::new(self.now.limits.arena, published);
        for service in &self.want.services {
            let id = services[&service.name];
            let generation = self.now.services.get(&id).map_or(0, |record| record.generation);
            self.generation(service, id, Published(generation), dests, &mut arena)?;
        }
        self.compiled.0.retain(|name, _| services.contains_key(name));
        let alive: BTreeSet<u16> = services.values().copied().collect();
        for (id, record) in self.now.services.iter().filter(|(id, _)| !alive.contains(id)) {
            let published = Published(record.generation);
            if published.length() != 0 {
                let published = Published::new(0, 0, published.number().wrapping_add(1));
                self.late.push(Op::Publish { service: *id, published });
            }
        }
        Ok(())
    }

    fn generation(
        &mut self,
        service: &Service,
        id: u16,
        before: Published,
        dests: &BTreeMap<DestKey, Given>,
        arena: &mut Arena,
    ) -> Result<(), PlanError> {
        let candidates: Vec<Candidate> = service
            .backends
            .iter()
            // As keepalived removes it: the tables of hashing schedulers are filled by the others.
            .filter(|backend| !self.want.weights.is_out(&service.name, backend.key))
            .map(|backend| {
                let key = (id, address_bytes(backend.key.address));
                // One without a MAC, or that does not answer any more, gets no new connections.
                let reachable = match self.want.hosts.get(&backend.key.address) {
                    Some(HostRoute::Local) => true,
                    Some(HostRoute::Neighbour { answers, .. }) => *answers,
                    None | Some(HostRoute::Unresolved) => false,
                };
                let Given { id, last_weight } = dests[&key];
                let weight = if reachable { self.want.weights.effective(&service.name, backend) } else { 0 };
                let BackendKey { address, port } = backend.key;
                Candidate { member: Member::new(id, weight), address, port, last_weight }
            })
            .collect();
        let known = self.compiled.0.get(&service.name);
        if known.is_some_and(|(scheduler, from, published)| {
            *published == before && *scheduler == service.scheduler && *from == candidates
        }) {
            return Ok(());
        }
        let mut words = compile(service.scheduler, &candidates)
            .map_err(|error| PlanError::Compile(service.name.clone(), error))?;
        let empty = Vec::new();
        let old = self.now.regions.get(&id).unwrap_or(&empty);
        // The third word says where the rotation stood: not a difference by itself.
        let same = old.len() == words.len()
            && old.iter().zip(&words).enumerate().all(|(i, (old, new))| i == 2 || old == new);
        if same {
            self.compiled.0.insert(service.name.clone(), (service.scheduler, candidates, before));
            return Ok(());
        }
        let next = self.now.rotations.get(&id).copied().unwrap_or(0);
        let by = resume(old, next, &mut words);
        let length = words.len() as u32;
        let offset = arena.allocate(length).ok_or(PlanError::Arena(self.now.limits.arena))?;
        self.ops.push(Op::WriteRegion { offset, words });
        let published = Published::new(offset, length as u16, before.number().wrapping_add(1));
        self.ops.push(Op::Publish { service: id, published });
        self.compiled.0.insert(service.name.clone(), (service.scheduler, candidates, published));
        if by != 0 {
            self.ops.push(Op::Rotate { service: id, by });
        }
        Ok(())
    }
}
