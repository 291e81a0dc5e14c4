//! Interfaces that packets are redirected to: what their drivers need, and what they cannot do.

use std::collections::BTreeSet;

use super::{Agent, interfaces::put};
use crate::{
    dataplane::{Build, Loaded, Target},
    model::AttachMode,
    net::{drivers, xdp},
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

    /// What the drivers cannot do on the ways that packets take from one interface to another.
    fn redirect_warnings(&self) -> Vec<String> {
        let links = self.network.links.iter();
        let native = self.interfaces.all.iter().filter_map(|interface| interface.attached.as_ref());
        let native: BTreeSet<u32> =
            native.filter(|attached| !attached.generic).map(|attached| attached.ifindex).collect();
        let egress = self.network.egress();
        let from: Vec<_> =
            links.clone().filter(|link| native.contains(&link.index)).map(xdp::device).collect();
        let to: Vec<_> = links.filter(|link| egress.contains(&link.name)).map(xdp::device).collect();
        drivers::forwards(&from, &to).iter().map(ToString::to_string).collect()
    }
}
