//! Interfaces that packets are redirected to: what their drivers need, and what they cannot do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Agent, drivers, interfaces::put};
use crate::{
    dataplane::{Build, Loaded, Target},
    model::AttachMode,
    net::xdp,
};

impl Agent {
    /// Some drivers transmit redirected frames only on an interface that has a program of its own.
    pub(super) fn attach_redirect_targets(&mut self) {
        let links = &self.network.links;
        self.interfaces.passing.retain(|attached| links.iter().any(|link| link.index == attached.ifindex));
        for name in self.network.egress() {
            let ours = self.interfaces.attachments().any(|at| at.name == name)
                || self.interfaces.passing.iter().any(|attached| attached.interface == name);
            let Some(link) = self.network.links.iter().find(|link| link.name == name) else { continue };
            let refused = self.interfaces.refused.contains(&link.index);
            if ours || refused || !link.xdp.is_empty() && !self.pins.layout.link(&name).exists() {
                continue;
            }
            let transmits =
                xdp::features(link.index).ok().flatten().is_some_and(|features| features.ndo_xmit());
            if transmits && !self.pins.layout.link(&name).exists() {
                continue;
            }
            let target = Target {
                interface: name.clone(),
                ifindex: link.index,
                mode: AttachMode::Native,
                link: 0,
                pass: true,
            };
            let put = Loaded::load(&self.pins.layout, &self.pins.meta, target, Build::Ordinary)
                .and_then(|loaded| put(&self.pins, loaded, &self.network.links));
            match put {
                Ok(attached) => {
                    tracing::info!(
                        interface = name,
                        "attached a pass program: its driver transmits only with one"
                    );
                    self.interfaces.passing.push(attached);
                }
                Err(error) => {
                    self.interfaces.refused.insert(link.index);
                    tracing::warn!(
                        interface = name,
                        "packets redirected there may not leave: its driver wants an XDP program and takes none: {error:#}"
                    );
                }
            }
        }
        self.interfaces.no_redirect = self.without_redirect();
        let warnings = self.redirect_warnings();
        for warning in warnings.iter().filter(|warning| !self.interfaces.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.interfaces.warnings = warnings;
    }

    /// Devices with a native program whose driver knows no XDP_REDIRECT.
    fn without_redirect(&self) -> BTreeSet<String> {
        let native = self.interfaces.all.iter().filter_map(|interface| interface.attached.as_ref());
        let native = native.filter(|attached| !attached.generic);
        let without = native.filter(|attached| {
            xdp::features(attached.ifindex).ok().flatten().is_some_and(|features| !features.redirect())
        });
        without.map(|attached| attached.interface.clone()).collect()
    }

    /// What the drivers cannot do on the ways that packets take from one interface to another. (In generic
    /// mode the stack sends them, which every driver can.)
    fn redirect_warnings(&self) -> Vec<String> {
        let features = |ifindex| xdp::features(ifindex).ok().flatten();
        let native: BTreeMap<&str, u32> = (self.interfaces.all.iter())
            .filter_map(|interface| interface.attached.as_ref())
            .filter(|attached| !attached.generic)
            .map(|attached| (attached.interface.as_str(), attached.ifindex))
            .collect();
        let egress = self.network.egress();
        let mut warnings = Vec::new();
        for (name, ifindex) in &native {
            let targets: Vec<&str> =
                egress.iter().map(String::as_str).filter(|target| target != name).collect();
            warnings.extend(features(*ifindex).and_then(|found| drivers::redirects(name, &targets, found)));
        }
        for target in &egress {
            let link = self.network.links.iter().find(|link| link.name == *target);
            let Some(link) = link.filter(|_| native.keys().any(|name| name != target)) else { continue };
            warnings
                .extend(features(link.index).and_then(|found| drivers::transmits(target, link.mtu, found)));
        }
        warnings
    }
}
