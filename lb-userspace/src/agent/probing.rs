//! The way of health checks through the VIP: made when a check wants it, and kept equal to what the network says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use lb_common::host::{self, Host, Route};

use super::{Agent, network::vips};
use crate::{
    checks::{Reached, Through, Ways},
    dataplane::{Delivery, End},
    model::Model,
    net::sysctl::Sysctl,
    plan::{Op, ProbeSpec, Snapshot, host_address},
};

/// What there is of it.
#[derive(Default)]
pub struct Probing {
    way_out: Option<WayOut>,
    /// Why there is none, though it is wanted.
    pub trouble: Option<String>,
    /// As the checks' thread has it.
    followed: Arc<Ways>,
}

/// The director's end of the pair of devices.
struct WayOut {
    device: String,
    index: u32,
    _delivery: Delivery,
}

impl Agent {
    /// Makes the way through the VIP if a check wants it and it is not there. Without it those checks are not made,
    /// and the backends' own addresses decide alone: a director that cannot look must not empty its pools.
    pub(super) async fn prepare_probes(&mut self) {
        let wanted = self.monitor.health.takes_the_vip();
        let links = &self.network.links;
        let is_there = (self.probing.way_out.as_ref())
            .is_some_and(|way| links.iter().any(|link| link.index == way.index && link.name == way.device));
        if wanted == is_there {
            if is_there && let Err(error) = self.reserve_ports() {
                tracing::warn!("{error:#}");
            }
            return;
        }
        self.monitor.checks.set_through(None);
        (self.probing.way_out, self.probing.followed) = (None, Arc::default());
        let before = self.probing.trouble.take();
        if !wanted {
            return;
        }
        if let Err(error) = self.make_way_out().await {
            let trouble = format!(
                "health checks through the VIP are not made, so a backend without the VIP on its lo is not noticed: \
                 {error:#}; `via: rip` in the checks does without"
            );
            if before.as_ref() != Some(&trouble) {
                tracing::error!("{trouble}");
            }
            self.probing.trouble = Some(trouble);
        }
    }

    async fn make_way_out(&mut self) -> Result<()> {
        let device = format!("lb-probe{}", std::process::id());
        let (layout, meta) = (self.pins.layout.clone(), self.pins.meta);
        let on_inner = move |inner: &str| Delivery::attach(&layout, &meta, inner, End::Inner);
        let maker = self.monitor.checks.maker();
        let through = Through::start(device.clone(), maker, on_inner).await?;
        let delivery = Delivery::attach(&self.pins.layout, &self.pins.meta, &device, End::Outer)?;
        // The director's stack has nothing to say there.
        match Sysctl::ipv6_conf(&device, "disable_ipv6")?.write(1) {
            Err(error) if !error.is_missing() => return Err(error.into()),
            _ => {}
        }
        self.network.links = self.network.netlink.links().await?;
        let link = self.network.links.iter().find(|link| link.name == device);
        let index = link.with_context(|| format!("the device {device} is not there"))?.index;
        self.network.netlink.set_up_without_arp(index).await?;
        self.reserve_ports()?;
        self.monitor.checks.set_through(Some(through));
        tracing::info!(device, ports = %self.model.probes, "health checks go through the VIP too");
        self.probing.way_out = Some(WayOut { device, index, _delivery: delivery });
        Ok(())
    }

    /// Another instance that had them too may have given them back.
    fn reserve_ports(&mut self) -> Result<()> {
        let ports = self.model.probes;
        self.host.reserve(ports.first..=ports.last).context("reserving the ports of health checks")
    }

    /// What the planner has to know.
    pub(super) fn probe_spec(&self, model: &Model) -> Option<ProbeSpec> {
        let way_out = self.probing.way_out.as_ref()?;
        Some(ProbeSpec {
            link: way_out.device.clone(),
            mac: self.monitor.checks.through()?.mac,
            sources: self.probe_sources(model, &self.network.sources(&self.interfaces, model)),
            ports: model.probes.first..=model.probes.last,
        })
    }

    /// The device that the planner needs among its links.
    pub(super) fn probe_device(&self) -> Option<&str> {
        self.probing.way_out.as_ref().map(|way| way.device.as_str())
    }

    /// All addresses that checks through the VIP come from: those, and what the checks say themselves.
    fn probe_sources(&self, model: &Model, chosen: &BTreeMap<IpAddr, IpAddr>) -> BTreeSet<IpAddr> {
        let vips = vips(model);
        let backends =
            model.services.iter().flat_map(|service| service.backends.iter().map(move |it| (service, it)));
        let attempts = backends.flat_map(|(service, backend)| service.attempts(backend));
        let told = attempts.filter(|(_, vip)| vip.is_some()).filter_map(|(check, _)| check.source);
        chosen.values().copied().chain(told.filter(|source| !vips.contains(source))).collect()
    }

    /// Tells the checks how backends are reached, now that `ops` were applied to `before`.
    pub(super) fn follow_probes(&mut self, before: &Snapshot, ops: &[Op]) {
        let Some(through) = self.monitor.checks.through() else { return };
        let mut hosts: BTreeMap<u32, Host> = before.hosts.clone();
        for op in ops {
            match op {
                Op::SetHost { index, host } => drop(hosts.insert(*index, *host)),
                Op::DeleteHost { index } => drop(hosts.remove(index)),
                _ => {}
            }
        }
        let sources = self.network.sources(&self.interfaces, &self.model);
        let reached = |(index, host): (u32, Host)| {
            let address = host_address(&host);
            (address, reached(index, &host, sources.get(&address)))
        };
        let backends = hosts.into_iter().map(reached).collect();
        let sources = self.probe_sources(&self.model, &sources);
        let ways = Ways { ports: self.model.probes, backends, sources };
        if ways != *self.probing.followed {
            self.probing.followed = Arc::new(ways);
            through.follow(self.probing.followed.clone());
        }
    }

    /// What an operator should hear.
    pub(super) fn probe_warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.probing.trouble.iter().cloned().collect();
        let ways = &self.probing.followed.backends;
        let without = ways.iter().filter(|(_, reached)| **reached == Reached::NoSource);
        warnings.extend(without.map(|(backend, _)| {
            let family = crate::model::rules::family(*backend);
            format!(
                "backend {backend} is not checked through the VIP: no interface with the program, and a driver that knows \
                 XDP_REDIRECT, has an {family} address besides the VIPs that checks could come from"
            )
        }));
        warnings
    }
}

fn reached(index: u32, host: &Host, source: Option<&IpAddr>) -> Reached {
    match (Route(host.route).link(), source) {
        (host::LOCAL, _) => Reached::Local,
        (0, _) => Reached::Unresolved,
        (_, None) => Reached::NoSource,
        (_, Some(source)) => Reached::By { host: index, source: *source },
    }
}
