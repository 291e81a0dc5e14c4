//! The interfaces that the program is attached to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_common::meta::Meta;
use tokio::task::JoinHandle;

use super::{Agent, host::HostChanges};
use crate::{
    dataplane::{Attached, Build, Loaded, Opened, Pins, Target},
    events::{Draft, Kind},
    model::{AttachMode, InterfaceSpec, Model, OffloadPolicy},
    net::{
        Attachment, Link,
        drivers::{self, Device},
        ethtool, offload, resolve_attach,
        xdp::{self, XdpMode, XdpProgram},
    },
};

/// One configured interface.
pub struct Interface {
    pub spec: InterfaceSpec,
    pub attachment: Attachment,
    /// Once it has the program.
    pub attached: Option<Attached>,
    /// It was there and is not now.
    missing: bool,
}

/// All of them, and what was attached to interfaces that only transmit (`targets.rs`).
#[derive(Default)]
pub struct Interfaces {
    pub all: Vec<Interface>,
    pub(super) passing: Vec<Attached>,
    /// Interfaces (by index) that took no pass program: tried once.
    pub(super) refused: BTreeSet<u32>,
    /// Devices whose driver cannot send on what a native program redirects: answers to checks through the VIP are
    /// lost there.
    pub(super) no_redirect: BTreeSet<String>,
    /// What drivers cannot do, as it was found last.
    pub(super) warnings: Vec<String>,
    /// What [`check_devices`] found last.
    pub(super) of_devices: Vec<String>,
    /// Why a device has the program in generic mode although native was preferred.
    fallbacks: BTreeMap<String, String>,
    /// When attaching may be tried again: where nothing is new it fails as it did.
    pub(super) not_before: Duration,
}

impl Interface {
    fn lacks_program(&self) -> bool {
        !self.missing && self.attached.is_none()
    }
}

impl Interfaces {
    /// Finds each on the host. Nothing is touched.
    pub fn resolve(model: &Model, links: &[Link]) -> Result<Self> {
        let all = model
            .interfaces
            .iter()
            .map(|spec| {
                let attachment = resolve_attach(links, &spec.name)?;
                Ok(Interface { spec: spec.clone(), attachment, attached: None, missing: false })
            })
            .collect::<Result<_>>()?;
        Ok(Self { all, ..Self::default() })
    }

    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.of_devices.iter().chain(self.fallbacks.values()).chain(&self.warnings)
    }

    /// Finds them anew; whether there is one to attach to, because it was deleted and made again, or was away.
    pub fn follow(&mut self, links: &[Link]) -> bool {
        let mut to_attach = false;
        for interface in &mut self.all {
            let name = &interface.spec.name;
            // An interface may come back under its old index, from another namespace or made with it.
            let lost = interface.attached.take_if(|attached| !is_there(attached, links)).is_some();
            match resolve_attach(links, name) {
                Ok(attachment) => {
                    if lost || interface.missing || attachment != interface.attachment {
                        self.not_before = Duration::ZERO;
                    }
                    if attachment.ifindex != interface.attachment.ifindex {
                        tracing::warn!(interface = name, "was deleted and made again: attaching anew");
                        interface.attached = None;
                    } else if lost {
                        tracing::warn!(interface = name, "has lost the program: attaching anew");
                    }
                    to_attach |= interface.attached.is_none();
                    interface.attachment = attachment;
                    interface.missing = false;
                }
                Err(error) => {
                    let renamed = interface.attached.is_some() && interface.attachment.vlans.is_empty();
                    if !interface.missing && renamed {
                        tracing::error!(
                            "{name} has another name now: it forwards on, but its VIPs and addresses are not followed; \
                             give it its name again, or write the new one into the configuration and start the agent anew"
                        );
                    } else if !interface.missing {
                        tracing::error!("nothing comes in by {name} any more: {error}");
                    }
                    interface.missing = true;
                }
            }
        }
        to_attach
    }

    /// Whether one that is there has no program.
    pub fn lacks_program(&self) -> bool {
        self.all.iter().any(Interface::lacks_program)
    }

    /// The same of interface `name`, or of one whose program is to be on that device.
    pub fn lacks_program_on(&self, name: &str) -> bool {
        let mut here = self.all.iter().filter(|one| one.spec.name == name || one.attachment.name == name);
        here.any(Interface::lacks_program)
    }

    /// Those that were there and are not now.
    pub fn missing(&self) -> Vec<&str> {
        self.all.iter().filter(|one| one.missing).map(|one| one.spec.name.as_str()).collect()
    }

    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.all.iter().map(|interface| &interface.attachment)
    }

    /// Whether frames may come in by device `name` that are several merged into one: the program runs behind GRO
    /// in generic mode. Until it is attached nobody knows.
    pub fn may_merge(&self, name: &str) -> bool {
        let mut here = self.all.iter().filter(|interface| interface.attachment.name == name);
        here.any(|interface| interface.attached.as_ref().is_none_or(|attached| attached.generic))
    }

    /// Interfaces where the program can give answers to the checks through the VIP, by the name that was configured.
    pub fn answering(&self) -> impl Iterator<Item = (&str, &Attachment)> {
        let able = self.all.iter().filter(|one| !self.no_redirect.contains(&one.attachment.name));
        able.map(|one| (one.spec.name.as_str(), &one.attachment))
    }

    /// Indices of the configured interfaces whose program is on device `name`.
    pub fn named_on<'a>(&'a self, name: &'a str, links: &'a [Link]) -> impl Iterator<Item = u32> + 'a {
        let here = self.all.iter().filter(move |interface| interface.attachment.name == name);
        here.filter_map(|interface| {
            links.iter().find(|link| link.name == interface.spec.name).map(|link| link.index)
        })
    }

    /// What is attached to a device is so for all the interfaces whose program it has: two VLAN devices
    /// of one parent share it.
    fn shared(&mut self, attached: &Attached) {
        let here = |interface: &&mut Interface| {
            !interface.missing && interface.attachment.ifindex == attached.ifindex
        };
        for interface in self.all.iter_mut().filter(here) {
            interface.attached.get_or_insert_with(|| attached.clone());
        }
    }

    /// Refuses to go on where somebody else's program is in the way.
    pub fn check_occupied(&self, links: &[Link], is_ours: impl Fn(&str) -> bool) -> Result<()> {
        for interface in &self.all {
            let Attachment { name, ifindex, .. } = &interface.attachment;
            let link = links.iter().find(|link| link.index == *ifindex);
            let Some(program) = link.and_then(|link| link.xdp.first()).filter(|_| !is_ours(name)) else {
                continue;
            };
            let XdpProgram { mode, id } = *program;
            bail!(
                "{name} already has another XDP program: {} (id {id}; `bpftool prog show id {id}` tells more), which lb \
                 would displace. Detach it (`ip link set dev {name} {} off`, or stop what attached it), or start with \
                 --replace to take over",
                program_name(id),
                mode.iproute2()
            );
        }
        Ok(())
    }
}

/// Whether its device has the program still. An id that the kernel did not tell says nothing.
fn is_there(attached: &Attached, links: &[Link]) -> bool {
    let device = links.iter().find(|link| link.index == attached.ifindex);
    let has = |link: &Link| link.xdp.iter().any(|program| program.id == attached.program_id);
    device.is_some_and(|link| attached.program_id == 0 || has(link))
}

/// The name of a loaded program, as `bpftool prog` shows it. The kernel tells it with CAP_SYS_ADMIN.
fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(|program| program.ok())
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "of unknown name".to_owned())
}

impl Agent {
    /// Attaches the program wherever it is missing. An interface that cannot have it keeps no other one waiting.
    pub(super) async fn attach(&mut self) -> Result<()> {
        let meta = self.pins.meta;
        let mut first = None;
        for opened in self.open(&meta, false)? {
            let put = match opened.verify() {
                Ok(loaded) => self.put_one(loaded).await,
                Err(error) => Err(error),
            };
            if let Err(error) = put {
                first.get_or_insert(error);
            }
        }
        self.have_put()?;
        first.map_or(Ok(()), Err)
    }

    /// Opens the programs that a start attaches, and has the kernel verify them beside what else is to be done.
    pub(super) fn begin_to_load(&mut self) -> Result<JoinHandle<Result<Vec<Loaded>>>> {
        self.reconcile_links()?;
        let meta = self.pins.meta;
        let opened = self.open(&meta, false)?;
        Ok(tokio::task::spawn_blocking(|| opened.into_iter().map(Opened::verify).collect()))
    }

    /// All are loaded before the first displaces another program or one of an earlier agent's.
    pub(super) async fn put(&mut self, programs: Vec<Loaded>) -> Result<()> {
        for loaded in programs {
            self.put_one(loaded).await?;
        }
        self.have_put()
    }

    /// Swaps it in where an earlier agent's runs.
    async fn put_one(&mut self, mut loaded: Loaded) -> Result<()> {
        let (target, traces) = (loaded.target().clone(), loaded.traces());
        if self.options.replace {
            self.displace(&target).await?;
        }
        let attached = put(&self.pins, loaded, &self.network.links)?;
        self.tracing.follow(&target, traces);
        report(&attached, &mut self.interfaces.fallbacks);
        if attached.adopted {
            self.say(Draft::new(Kind::Program).because(&attached.interface));
        }
        self.interfaces.shared(&attached);
        Ok(())
    }

    fn have_put(&mut self) -> Result<()> {
        self.attach_redirect_targets();
        // Their modes are known now (see `may_merge`).
        if self.monitor.health.takes_the_vip() {
            // And what their drivers can do for the answers to checks.
            self.reconcile()?;
        } else {
            self.reconcile_links()?;
        }
        self.leave_others()
    }

    /// Replaces the programs that are there, each atomically.
    pub(super) fn swap(&mut self, programs: Vec<Loaded>) -> Result<()> {
        let why = match self.tracing.build() {
            Build::Ordinary => "",
            Build::Tracing => ", with the program of `lb trace`",
        };
        for mut loaded in programs {
            let (target, traces) = (loaded.target().clone(), loaded.traces());
            let here = self.interfaces.all.iter().filter(|one| one.attachment.ifindex == target.ifindex);
            let was_generic = here.filter_map(|one| one.attached.as_ref()).map(|now| now.generic).next();
            let attached = loaded.attach(&self.pins.layout, was_generic)?;
            tracing::debug!(
                interface = attached.interface,
                program = attached.program_id,
                instructions = attached.verified_instructions,
                in_place = attached.adopted,
                "swapped the XDP program"
            );
            self.tracing.follow(&target, traces);
            self.say(Draft::new(Kind::Program).because(format!("{}{why}", attached.interface)));
            for one in self.interfaces.all.iter_mut().filter(|one| one.attachment.ifindex == target.ifindex) {
                one.attached = Some(attached.clone());
            }
        }
        Ok(())
    }

    /// Loads a program for each device that should have one and has not, or (`anew`) for all.
    pub(super) fn load(&mut self, meta: &Meta, anew: bool) -> Result<Vec<Loaded>> {
        self.open(meta, anew)?.into_iter().map(Opened::verify).collect()
    }

    fn open(&mut self, meta: &Meta, anew: bool) -> Result<Vec<Opened>> {
        let there: Vec<Attached> =
            self.interfaces.all.iter().filter_map(|interface| interface.attached.clone()).collect();
        there.iter().for_each(|attached| self.interfaces.shared(attached));
        let links = self.pins.maps.snapshot()?.links;
        let mut opened: Vec<Opened> = Vec::new();
        for Interface { spec, attachment, attached, missing } in &self.interfaces.all {
            let again = opened.iter().any(|opened| opened.target().ifindex == attachment.ifindex);
            if (attached.is_some() && !anew) || *missing || again {
                continue;
            }
            let name = &attachment.name;
            let link = links
                .iter()
                .find(|(_, link)| crate::plan::name_of(&link.name) == *name)
                .map(|(index, _)| *index)
                .with_context(|| format!("{name} has no link index"))?;
            let (interface, ifindex) = (name.clone(), attachment.ifindex);
            let target = Target { interface, ifindex, mode: spec.mode, link, pass: false };
            opened.push(Opened::open(&self.pins.layout, meta, target, self.tracing.build())?);
        }
        Ok(opened)
    }

    /// Takes the program off interfaces that an earlier configuration had and this one has not.
    fn leave_others(&self) -> Result<()> {
        let passing = self.interfaces.passing.iter().map(|attached| attached.interface.clone());
        let mut keep: BTreeSet<String> = self.interfaces.attachments().map(|at| at.name.clone()).collect();
        keep.extend(passing);
        for name in self.pins.layout.detach_others(&keep)? {
            tracing::info!(interface = name, "detached: it is not in the configuration any more");
        }
        Ok(())
    }

    /// Removes somebody else's program.
    async fn displace(&self, target: &Target) -> Result<()> {
        if self.pins.layout.link(&target.interface).exists() {
            return Ok(());
        }
        let link = self.network.links.iter().find(|link| link.index == target.ifindex);
        for program in link.map(|link| link.xdp.as_slice()).unwrap_or_default() {
            tracing::warn!(
                interface = target.interface,
                program = program.id,
                "taking over from another XDP program (--replace)"
            );
            self.network.netlink.detach_xdp(target.ifindex, program.mode).await.with_context(|| {
                format!(
                    "the program on {} cannot be displaced (one attached through a bpf_link belongs to its owner: stop \
                     that)",
                    target.interface
                )
            })?;
        }
        Ok(())
    }
}

pub(super) fn put(pins: &Pins, loaded: Loaded, links: &[Link]) -> Result<Attached> {
    let target = loaded.target();
    let link = links.iter().find(|link| link.index == target.ifindex);
    let was_generic = link
        .and_then(|link| link.xdp.first())
        .filter(|_| pins.layout.link(&target.interface).exists())
        .map(|program| program.mode == XdpMode::Generic);
    Ok(loaded.attach(&pins.layout, was_generic)?)
}

fn report(attached: &Attached, fallbacks: &mut BTreeMap<String, String>) {
    let mode = if attached.generic { "generic" } else { "native" };
    tracing::info!(
        interface = attached.interface,
        mode,
        program = attached.program_id,
        instructions = attached.verified_instructions,
        adopted = attached.adopted,
        "the XDP program is attached"
    );
    if let Some(why) = &attached.fallback {
        let warning = format!(
            "{}: the driver takes no native XDP program ({why}); attached in generic mode, which is several times slower",
            attached.interface
        );
        tracing::warn!("{warning}");
        fallbacks.insert(attached.interface.clone(), warning);
    } else if !attached.adopted {
        fallbacks.remove(&attached.interface);
    }
}

/// Looks for an MTU that the driver cannot do, and for offloads that hide tags or merge frames before
/// XDP; switches those off where told to.
pub fn check_devices(interfaces: &Interfaces, links: &[Link], host: &mut HostChanges) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for interface in &interfaces.all {
        let Interface { spec, attachment, .. } = interface;
        let Attachment { name, device_mtu, ifindex, .. } = attachment;
        let features = xdp::features(*ifindex).ok().flatten();
        let driver = Device { name: name.clone(), mtu: *device_mtu, features };
        // The stack has whole frames.
        if spec.mode != AttachMode::Generic
            && let Some(lack) = drivers::receives(&driver)
        {
            tracing::warn!("{lack}");
            warnings.push(lack.to_string());
        }
        let tagged = !attachment.vlans.is_empty();
        let device = links.iter().find(|link| link.index == attachment.ifindex);
        for nic in device.into_iter().flat_map(|device| offload::receivers(device, links)) {
            warnings.extend(check_offloads(&nic.name, tagged, spec.offloads, host)?);
        }
    }
    Ok(warnings)
}

fn check_offloads(
    nic: &str,
    tagged: bool,
    policy: OffloadPolicy,
    host: &mut HostChanges,
) -> Result<Vec<String>> {
    let features = match ethtool::features(nic) {
        Ok(features) => features,
        Err(error) => {
            tracing::debug!(interface = nic, "its offloads cannot be read: {error}");
            return Ok(Vec::new());
        }
    };
    let mut warnings = Vec::new();
    for obstacle in offload::in_the_way(&features, tagged) {
        if policy == OffloadPolicy::Set && obstacle.changeable {
            host.switch_off(nic, obstacle.feature)?;
        } else {
            let warning = format!(
                "{nic}: {} is on: {}; `offloads: set` lets lb switch it off, or `ethtool -K {nic} {} off`",
                obstacle.feature, obstacle.why, obstacle.feature
            );
            tracing::warn!("{warning}");
            warnings.push(warning);
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests;
