//! Carries out a plan: the only writer of the configuration maps.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Pod,
    maps::{MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
};
use lb_common::{
    counters::ConnCounts,
    dest::Dest,
    endpoint::{
        range::{self, Data4, Data6},
        table,
    },
    host::Host,
    link::Link,
    service::{NAME_LEN, Rotation, Service},
    source,
    tcp::State,
};

use super::{maps::Maps, pins::grace_period, snapshot::protocol_number};
use crate::plan::{EndpointKey, Op, RangeKey, RuleKey, address_words};

const NO_DEST: Dest = Dest {
    host: 0,
    service: 0,
    flags: 0,
    upper: 0,
    lower: 0,
    address: [0; 16],
    port: [0; 2],
    weight: 0,
    last_weight: 0,
    pad: 0,
};
const NO_HOST: Host = Host { route: 0, path: 0, address: [0; 16], flags: 0, pad: 0 };
const NO_LINK: Link = Link { mac: 0, ifindex: 0, ipv4: [0; 4], ipv6: [0; 16], name: [0; 16] };
const NO_SERVICE: Service = Service {
    generation: 0,
    flags: 0,
    persistence: 0,
    timeouts: [0; State::COUNT],
    mask: [0; 2],
    rearm: 0,
    guard: 0,
    name: [0; NAME_LEN + 1],
};

impl Maps {
    /// Does all of it, in order, and waits until no CPU works on what was replaced. Also where it fails: what has
    /// been freed until then may be given to others next.
    pub fn apply(&mut self, ops: &[Op]) -> Result<()> {
        let done =
            ops.iter().try_for_each(|op| self.apply_one(op).with_context(|| format!("applying {op:?}")));
        if !ops.is_empty() {
            grace_period()?;
        }
        done
    }

    fn apply_one(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::SetLink { index, link } => {
                self.devices
                    .set(u32::from(*index), link.ifindex, None, 0)
                    .with_context(|| format!("interface {} cannot be a redirect target", link.ifindex))?;
                ensure!(self.links.set(u32::from(*index), link), "LINKS is too small");
            }
            Op::DeleteLink { index } => {
                // Links are few: the device map keeps its entry until the index is given out again.
                self.links.set(u32::from(*index), &NO_LINK);
            }
            Op::AddTag(key) => self.tags.insert(key, 1, 0)?,
            Op::DeleteTag(key) => gone_already(self.tags.remove(key))?,
            Op::AddMac(key) => self.macs.insert(key, 1, 0)?,
            Op::DeleteMac(key) => gone_already(self.macs.remove(key))?,
            Op::SetProbes { source, probes } => self.probes.insert(address_words(*source), probes, 0)?,
            Op::DeleteProbes { source } => gone_already(self.probes.remove(&address_words(*source)))?,
            Op::SetHost { index, host } => ensure!(self.hosts.set(*index, host), "HOSTS is too small"),
            Op::DeleteHost { index } => {
                self.hosts.set(*index, &NO_HOST);
            }
            Op::SetDest { id, dest, fresh } => {
                let before = self.dests.get(*id).map(|before| (before.upper, before.lower));
                ensure!(self.dests.set(*id, dest), "DESTS is too small");
                if *fresh {
                    self.conns.set(*id, &ConnCounts::default());
                    // A system call each: not for the thousands of a first start.
                    if *id < self.unused_dests {
                        zero(&mut self.dest_counters, *id)?;
                    }
                    self.unused_dests = self.unused_dests.max(id.saturating_add(1));
                } else if before != Some((dest.upper, dest.lower)) {
                    // As `__ip_vs_update_dest` does it: new thresholds hold for the connections there are.
                    self.mark_overload(*id, dest);
                }
            }
            Op::DeleteDest { id } => {
                self.dests.set(*id, &NO_DEST);
            }
            Op::SetService { id, service, fresh } => {
                if *fresh {
                    self.services.set(u32::from(*id), &NO_SERVICE);
                    self.rotations.set(u32::from(*id), &Rotation::default());
                    zero(&mut self.service_counters, u32::from(*id))?;
                }
                // The generation is word 0, and published by itself.
                ensure!(self.services.set_from(u32::from(*id), service, 1), "SERVICES is too small");
            }
            Op::DeleteService { id } => {
                self.services.set(u32::from(*id), &NO_SERVICE);
            }
            Op::WriteRegion { offset, words } => {
                for (index, word) in (*offset..).zip(words) {
                    let at = self.arena_word(index).context("ARENA is too small")?;
                    at.store(*word, Ordering::Release);
                }
            }
            Op::Publish { service, published } => {
                let words = self.services.words(u32::from(*service)).context("SERVICES is too small")?;
                words[0].store(published.0, Ordering::Release);
            }
            Op::Rotate { service, by } => {
                let words = self.rotations.words(u32::from(*service)).context("ROTATIONS is too small")?;
                words[0].fetch_add(*by, Ordering::AcqRel);
            }
            Op::SetEndpoint { key, endpoint } => {
                let key = to_key(key);
                table::set(self.candidates(key)?, key, *endpoint)
                    .map_err(|table::Full| anyhow!("no room in ENDPOINTS: raise limits.endpoints"))?;
            }
            Op::DeleteEndpoint { key } => {
                let key = to_key(key);
                table::remove(self.candidates(key)?, key);
            }
            Op::SetRange { key, endpoint } => match key.address {
                IpAddr::V4(_) => self.ranges4.insert(&to_range4(key), endpoint.0, 0)?,
                IpAddr::V6(_) => self.ranges6.insert(&to_range6(key), endpoint.0, 0)?,
            },
            Op::DeleteRange { key } => match key.address {
                IpAddr::V4(_) => gone_already(self.ranges4.remove(&to_range4(key)))?,
                IpAddr::V6(_) => gone_already(self.ranges6.remove(&to_range6(key)))?,
            },
            Op::SetRule { key, rule } => match key.network.addr() {
                IpAddr::V4(_) => self.rules4.insert(&to_rule4(key), rule.0, 0)?,
                IpAddr::V6(_) => self.rules6.insert(&to_rule6(key), rule.0, 0)?,
            },
            Op::DeleteRule { key } => match key.network.addr() {
                IpAddr::V4(_) => gone_already(self.rules4.remove(&to_rule4(key)))?,
                IpAddr::V6(_) => gone_already(self.rules6.remove(&to_rule6(key)))?,
            },
            Op::SetFilter { word, bits } => ensure!(self.filter.set(*word, bits), "FILTER is too small"),
        }
        Ok(())
    }

    fn candidates(&self, key: table::Key) -> Result<[&table::Bucket<AtomicU64>; 2]> {
        let mask = self.endpoints.entries() - 1;
        let bucket = |index| self.endpoints.bucket(index).context("ENDPOINTS is too small");
        Ok([bucket(key.first(mask))?, bucket(key.second(mask))?])
    }
}

/// Removing what is not there is done.
fn gone_already(result: Result<(), MapError>) -> Result<()> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => Ok(other?),
    }
}

fn zero<C: Pod + Default>(counters: &mut PerCpuArray<aya::maps::MapData, C>, index: u32) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    counters.set(index, PerCpuValues::try_from(vec![C::default(); cpus])?, 0)?;
    Ok(())
}

fn to_key(key: &EndpointKey) -> table::Key {
    let EndpointKey { address, port, protocol } = key;
    table::Key::new(address_words(*address), address.is_ipv6(), port.to_be(), protocol_number(*protocol))
}

fn to_range4(key: &RangeKey) -> Key<Data4> {
    let address = address_words(key.address)[0] as u32;
    let data = Data4::new(address, key.port.to_be(), protocol_number(Some(key.protocol)));
    Key::new(range::BITS4 + u32::from(key.length), data)
}

fn to_range6(key: &RangeKey) -> Key<Data6> {
    let data = Data6::new(address_words(key.address), key.port.to_be(), protocol_number(Some(key.protocol)));
    Key::new(range::BITS6 + u32::from(key.length), data)
}

fn to_rule4(key: &RuleKey) -> Key<source::Data4> {
    let address = address_words(key.network.addr())[0] as u32;
    let data = source::Data4 { service: key.service.into(), address };
    Key::new(source::BITS4 + u32::from(key.network.prefix_len()), data)
}

fn to_rule6(key: &RuleKey) -> Key<source::Data6> {
    let data = source::Data6 { service: key.service.into(), address: address_words(key.network.addr()) };
    Key::new(source::BITS6 + u32::from(key.network.prefix_len()), data)
}
