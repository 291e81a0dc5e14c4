//! The planner: differences between what is wanted and what the kernel holds, as ordered operations.
//!
//! Order: what new things refer to comes first (links, hosts, destinations, generations), then the
//! endpoints that lead to them, then what is taken away. So every prefix of a plan leaves the kernel
//! in a state that serves, and an agent that dies in between is corrected by the next one's plan.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    dest::{self, Dest},
    endpoint::{self, Endpoint, filter},
    generation::{Member, Published},
    host::{self, Host, Path, Route},
    link::{self, Link, MAX_LINKS},
    service::{self, Service as Record},
    tcp::State,
    tick,
    vlan::Tags,
};

use super::{
    Census, CompileError, Desired, EndpointKey, HostRoute, LinkSpec, Op, Snapshot, compile,
    ids::Ids,
    region::Arena,
    rotation::resume,
    snapshot::{address_bytes, address_from, address_words, name_bytes, name_of},
};
use crate::model::{Protocol, Service, ServiceName, Timeouts};

/// Why there is no plan. Nothing has been changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("service {0}: {1}")]
    Compile(ServiceName, CompileError),
    #[error("more than {0} services, deleted ones with live connections included: raise limits.services")]
    Services(u32),
    #[error(
        "more than {0} backends in all, removed ones with live connections included: raise limits.destinations"
    )]
    Dests(u32),
    #[error("more than {MAX_LINKS} interfaces")]
    Links,
    #[error("the rotation tables need more than {0} words in all: lower the weights")]
    Arena(u32),
}

/// What to do to make `now` what `want` says.
pub fn plan(want: &Desired, now: &Snapshot) -> Result<Vec<Op>, PlanError> {
    let mut planner = Planner { want, now, ops: Vec::new(), late: Vec::new() };
    let links = planner.links()?;
    let services = planner.service_ids()?;
    let hosts = planner.hosts(&links)?;
    let dests = planner.dests(&services, &hosts)?;
    planner.services(&services, &dests)?;
    planner.endpoints(&services)?;
    planner.filter();
    let Planner { mut ops, late, .. } = planner;
    ops.extend(late);
    Ok(ops)
}

/// What can be freed: retired things that no flow refers to any more.
pub fn reclaim(now: &Snapshot, census: &Census) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut services: BTreeSet<u16> = BTreeSet::new();
    let mut hosts: BTreeSet<u32> = BTreeSet::new();
    for (key, endpoint) in &now.endpoints {
        if key.protocol.is_some() && !endpoint.has(endpoint::flag::OPEN) {
            if census.endpoints.contains(&endpoint.id()) {
                services.insert(endpoint.service());
            } else {
                ops.push(Op::DeleteEndpoint { key: *key });
            }
        } else {
            services.insert(endpoint.service());
        }
    }
    for (id, dest) in &now.dests {
        let gone = dest.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
        if gone && !census.dests.contains(id) {
            ops.push(Op::DeleteDest { id: *id });
        } else {
            services.insert(dest.service);
            hosts.insert(dest.host);
        }
    }
    let unused = now.hosts.keys().filter(|index| !hosts.contains(index));
    ops.extend(unused.map(|index| Op::DeleteHost { index: *index }));
    let unused = now.services.keys().filter(|id| !services.contains(id));
    ops.extend(unused.map(|id| Op::DeleteService { id: *id }));
    ops
}

struct Planner<'a> {
    want: &'a Desired,
    now: &'a Snapshot,
    ops: Vec<Op>,
    /// Operations that take things away.
    late: Vec<Op>,
}

type DestKey = (u16, [u8; 16], u16);

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
                None => ids.give().ok_or(PlanError::Services(self.now.limits.services - 1))?,
            };
            given.insert(service.name.clone(), id);
        }
        Ok(given)
    }

    /// Host indices by address.
    fn hosts(&mut self, links: &BTreeMap<String, u16>) -> Result<BTreeMap<[u8; 16], u32>, PlanError> {
        let known: BTreeMap<[u8; 16], u32> =
            self.now.hosts.iter().map(|(index, host)| (host.address, *index)).collect();
        let mut ids = Ids::new(&self.now.hosts, self.now.limits.dests);
        let mut indices = BTreeMap::new();
        let backends = self.want.services.iter().flat_map(|service| &service.backends);
        for address in backends.map(|backend| backend.key.address).collect::<BTreeSet<_>>() {
            let bytes = address_bytes(address);
            let index = match known.get(&bytes) {
                Some(index) => *index,
                None => ids.give().ok_or(PlanError::Dests(self.now.limits.dests - 1))?,
            };
            let route = self.want.hosts.get(&address).unwrap_or(&HostRoute::Unresolved);
            let host = host_record(bytes, address.is_ipv6(), route, links);
            if self.now.hosts.get(&index) != Some(&host) {
                self.ops.push(Op::SetHost { index, host });
            }
            indices.insert(bytes, index);
        }
        Ok(indices)
    }

    /// Destination ids by service, address and port; one taken out and added again gets its old one.
    fn dests(
        &mut self,
        services: &BTreeMap<ServiceName, u16>,
        hosts: &BTreeMap<[u8; 16], u32>,
    ) -> Result<BTreeMap<DestKey, u32>, PlanError> {
        let key = |dest: &Dest| (dest.service, dest.address, u16::from_be_bytes(dest.port));
        let known: BTreeMap<DestKey, u32> =
            self.now.dests.iter().map(|(id, dest)| (key(dest), *id)).collect();
        let mut ids = Ids::new(&self.now.dests, self.now.limits.dests);
        let mut given = BTreeMap::new();
        for service in &self.want.services {
            for backend in &service.backends {
                let address = address_bytes(backend.key.address);
                let is_ipv6 = if backend.key.address.is_ipv6() { dest::flag::IPV6 } else { 0 };
                let dest = Dest {
                    host: hosts.get(&address).copied().unwrap_or(0),
                    service: services[&service.name],
                    flags: dest::flag::USED | is_ipv6,
                    upper: backend.upper_threshold,
                    lower: backend.lower_threshold,
                    address,
                    port: backend.key.port.to_be_bytes(),
                    weight: backend.effective_weight(),
                    pad: 0,
                };
                let (id, fresh) = match known.get(&key(&dest)) {
                    Some(id) => (*id, false),
                    None => (ids.give().ok_or(PlanError::Dests(self.now.limits.dests - 1))?, true),
                };
                if self.now.dests.get(&id) != Some(&dest) {
                    self.ops.push(Op::SetDest { id, dest, fresh });
                }
                given.insert(key(&dest), id);
            }
        }
        let alive: BTreeSet<u16> = services.values().copied().collect();
        for (key, id) in known.iter().filter(|(key, _)| !given.contains_key(key)) {
            let mut dest = self.now.dests[id];
            // Of a deleted service the flows live on; of a backend that was removed before it they do not.
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

    /// Records and generations.
    fn services(
        &mut self,
        services: &BTreeMap<ServiceName, u16>,
        dests: &BTreeMap<DestKey, u32>,
    ) -> Result<(), PlanError> {
        let published = self.now.services.values().map(|record| {
            let published = Published(record.generation);
            (published.offset(), u32::from(published.length()))
        });
        let mut arena = Arena::new(self.now.limits.arena, published);
        for service in &self.want.services {
            let id = services[&service.name];
            let before = self.now.services.get(&id);
            let generation = before.map_or(0, |record| record.generation);
            let record = service_record(service, &self.want.timeouts, self.want.hz, generation);
            if before != Some(&record) {
                self.ops.push(Op::SetService { id, service: record, fresh: before.is_none() });
            }
            self.generation(service, id, Published(generation), dests, &mut arena)?;
        }
        for (id, record) in &self.now.services {
            if !services.values().any(|wanted| wanted == id) && Published(record.generation).length() != 0 {
                let number = Published(record.generation).number().wrapping_add(1);
                self.late.push(Op::Publish { service: *id, published: Published::new(0, 0, number) });
            }
        }
        Ok(())
    }

    fn generation(
        &mut self,
        service: &Service,
        id: u16,
        before: Published,
        dests: &BTreeMap<DestKey, u32>,
        arena: &mut Arena,
    ) -> Result<(), PlanError> {
        let members: Vec<Member> = service
            .backends
            .iter()
            .map(|backend| {
                let key = (id, address_bytes(backend.key.address), backend.key.port);
                // One without a MAC, or that does not answer any more, gets no new connections.
                let reachable = match self.want.hosts.get(&backend.key.address) {
                    Some(HostRoute::Local) => true,
                    Some(HostRoute::Neighbour { answers, .. }) => *answers,
                    None | Some(HostRoute::Unresolved) => false,
                };
                Member::new(dests[&key], if reachable { backend.effective_weight() } else { 0 })
            })
            .collect();
        let mut words = compile(service.scheduler, &members)
            .map_err(|error| PlanError::Compile(service.name.clone(), error))?;
        let empty = Vec::new();
        let old = self.now.regions.get(&id).unwrap_or(&empty);
        // The third word says where the rotation stood: not a difference by itself.
        let same = old.len() == words.len()
            && old.iter().zip(&words).enumerate().all(|(i, (old, new))| i == 2 || old == new);
        if same {
            return Ok(());
        }
        let next = self.now.rotations.get(&id).copied().unwrap_or(0);
        let by = resume(old, next, &mut words);
        let length = words.len() as u32;
        let offset = arena.allocate(length).ok_or(PlanError::Arena(self.now.limits.arena))?;
        self.ops.push(Op::WriteRegion { offset, words });
        let published = Published::new(offset, length as u16, before.number().wrapping_add(1));
        self.ops.push(Op::Publish { service: id, published });
        if by != 0 {
            self.ops.push(Op::Rotate { service: id, by });
        }
        Ok(())
    }

    fn endpoints(&mut self, services: &BTreeMap<ServiceName, u16>) -> Result<(), PlanError> {
        let taken: BTreeMap<u16, ()> =
            self.now.endpoints.values().map(|endpoint| (endpoint.id(), ())).collect();
        let mut ids = Ids::new(&taken, u32::from(endpoint::RESERVED_ID));
        let mut wanted = BTreeMap::new();
        for service in &self.want.services {
            let at = service.endpoint;
            let key = EndpointKey { address: at.address, port: at.port, protocol: Some(at.protocol) };
            let id = match self.now.endpoints.get(&key) {
                Some(endpoint) => endpoint.id(),
                None => ids.give().ok_or(PlanError::Services(u32::from(endpoint::RESERVED_ID) - 1))?,
            };
            let wildcard = if at.port == 0 { endpoint::flag::WILDCARD } else { 0 };
            let flags = endpoint::flag::OPEN | wildcard;
            wanted.insert(key, Endpoint::new(id, services[&service.name], flags));
        }
        // Deleted ones stay as tombstones until their flows are gone.
        for (key, endpoint) in self.now.endpoints.iter().filter(|(key, _)| key.protocol.is_some()) {
            wanted.entry(*key).or_insert_with(|| {
                let flags = endpoint.flags() & !endpoint::flag::OPEN;
                Endpoint::new(endpoint.id(), endpoint.service(), flags)
            });
        }
        for (key, entry) in address_entries(wanted.keys()) {
            wanted.insert(key, entry);
        }
        for (key, endpoint) in &wanted {
            if self.now.endpoints.get(key) != Some(endpoint) {
                self.ops.push(Op::SetEndpoint { key: *key, endpoint: *endpoint });
            }
        }
        let gone = self.now.endpoints.keys().filter(|key| !wanted.contains_key(key));
        self.late.extend(gone.map(|key| Op::DeleteEndpoint { key: *key }));
        Ok(())
    }

    /// The filter has a bit for each address that any endpoint, tombstones included, stands on.
    fn filter(&mut self) {
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        let wanted = self.want.services.iter().map(|s| (s.endpoint.address, s.endpoint.port));
        let kept = self.now.endpoints.keys().filter(|key| key.protocol.is_some());
        for (address, port) in wanted.chain(kept.map(|key| (key.address, key.port))) {
            let (word, shift) = filter::position(address_words(address));
            let bits = filter::ANY | if port == 0 { filter::WILDCARD } else { 0 };
            *words.entry(word).or_default() |= bits << shift;
        }
        for (word, bits) in &words {
            if self.now.filter.get(word) != Some(bits) {
                self.ops.push(Op::SetFilter { word: *word, bits: *bits });
            }
        }
        let gone = self.now.filter.keys().filter(|word| !words.contains_key(word));
        self.late.extend(gone.map(|word| Op::SetFilter { word: *word, bits: 0 }));
    }
}

fn link_record(spec: &LinkSpec) -> Link {
    let untagged = if spec.untagged { link::flag::UNTAGGED } else { 0 };
    Link {
        mac: link::mac_word(spec.mac) | untagged,
        ifindex: spec.ifindex,
        ipv4: spec.ipv4.map_or([0; 4], |address| address.octets()),
        ipv6: spec.ipv6.map_or([0; 16], |address| address.octets()),
        name: name_bytes(&spec.name),
    }
}

fn host_record(address: [u8; 16], is_ipv6: bool, route: &HostRoute, links: &BTreeMap<String, u16>) -> Host {
    let (route, path) = match route {
        HostRoute::Local => (Route::new([0; 6], host::LOCAL), Path::new(Tags::NONE, 0)),
        HostRoute::Neighbour { mac, link, tags, mtu, .. } => match links.get(link) {
            Some(index) => (Route::new(*mac, *index), Path::new(*tags, *mtu)),
            None => (Route::UNRESOLVED, Path::new(Tags::NONE, 0)),
        },
        HostRoute::Unresolved => (Route::UNRESOLVED, Path::new(Tags::NONE, 0)),
    };
    let is_ipv6 = if is_ipv6 { host::flag::IPV6 } else { 0 };
    Host { route: route.0, path: path.0, address, flags: host::flag::USED | is_ipv6, pad: 0 }
}

fn service_record(service: &Service, timeouts: &Timeouts, hz: u32, generation: u64) -> Record {
    let mut ticks = [0; State::COUNT];
    for (state, slot) in (0u8..).map(State).zip(ticks.iter_mut()) {
        *slot = tick::ticks(timeouts.of(state), hz.max(4));
    }
    Record {
        generation,
        flags: service::flag::USED,
        pad: 0,
        timeouts: ticks,
        name: name_bytes(service.name.as_str()),
    }
}

/// What a fragment without ports is judged by: which protocols an address has endpoints of.
fn address_entries<'a>(keys: impl Iterator<Item = &'a EndpointKey>) -> BTreeMap<EndpointKey, Endpoint> {
    let mut flags: BTreeMap<EndpointKey, u16> = BTreeMap::new();
    for key in keys {
        let flag = match key.protocol {
            Some(Protocol::Tcp) => endpoint::flag::HAS_TCP,
            Some(Protocol::Udp) => endpoint::flag::HAS_UDP,
            None => continue,
        };
        let entry = EndpointKey { address: key.address, port: 0, protocol: None };
        *flags.entry(entry).or_default() |= flag;
    }
    flags.into_iter().map(|(key, flags)| (key, Endpoint::new(0, 0, flags))).collect()
}

/// The address of a destination record.
pub fn dest_address(dest: &Dest) -> std::net::IpAddr {
    address_from(dest.address, dest.flags & dest::flag::IPV6 != 0)
}
