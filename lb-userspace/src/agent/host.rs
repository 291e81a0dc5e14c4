//! What the agent changed on the host besides its pins, so that `lb detach` can undo it, also when
//! another process or a later boot of the agent does it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    net::{Netlink, NewAddress, ethtool, host_prefix, reserved},
};

/// A file in the state directory; written before each change is made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HostChanges {
    #[serde(skip)]
    path: PathBuf,
    /// The boot in which it was.
    #[serde(default)]
    boot: String,
    /// VIPs that we added, by interface.
    addresses: Vec<(String, IpAddr)>,
    /// Ports that we reserved, as ranges.
    #[serde(default)]
    ports: reserved::Ranges,
    /// Offloads that we switched off, by interface.
    offloads: Vec<(String, String)>,
}

impl HostChanges {
    /// Where it is, below an instance's state directory.
    pub fn path(state: &Path) -> PathBuf {
        state.join("host.json")
    }

    pub fn open(state: &Path) -> Result<Self> {
        let path = Self::path(state);
        let mut changes: Self = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; move it away to go on", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
        if changes.boot != boot {
            // What was changed in another boot is gone; what stands there now is somebody else's.
            changes = Self { boot, ..Self::default() };
        }
        changes.path = path;
        Ok(changes)
    }

    /// Whether there is nothing to undo.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.offloads.is_empty() && self.ports.is_empty()
    }

    fn store(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        durable::replace(&self.path, &text).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Makes the VIPs on `interface` the `wanted` ones: adds what is missing (if it `may_add`), removes what we had
    /// added and is not wanted any more. Addresses of others stay. Returns what was added.
    pub async fn place_vips(
        &mut self,
        netlink: &Netlink,
        interface: &str,
        ifindex: u32,
        wanted: &[IpAddr],
        may_add: bool,
    ) -> Result<Vec<NewAddress>> {
        let wanted: BTreeSet<IpAddr> = wanted.iter().copied().collect();
        let present = netlink.addresses().await?.into_iter().filter(|found| found.ifindex == ifindex);
        let present: BTreeSet<IpAddr> = present.map(|found| found.address).collect();
        let missing: Vec<IpAddr> = wanted.difference(&present).copied().filter(|_| may_add).collect();
        let added: Vec<NewAddress> = missing.iter().map(|it| NewAddress::vip(ifindex, *it)).collect();
        let placed = self.add_vips(netlink, interface, &added);
        // Whether or not one can be added: a deleted service's is another host's tomorrow.
        let is_wanted = |(on, address): &(String, IpAddr)| on == interface && wanted.contains(address);
        let gone: Vec<_> = self.addresses.iter().filter(|ours| !is_wanted(ours)).cloned().collect();
        let (_, failed) = self.remove_vips(netlink, &gone).await?;
        placed?;
        failed.map_or(Ok(added), Err)
    }

    fn add_vips(&mut self, netlink: &Netlink, interface: &str, added: &[NewAddress]) -> Result<()> {
        if added.is_empty() {
            return Ok(());
        }
        let known: BTreeSet<&(String, IpAddr)> = self.addresses.iter().collect();
        let new = added.iter().map(|new| (interface.to_owned(), new.address));
        let new: Vec<_> = new.filter(|ours| !known.contains(ours)).collect();
        if !new.is_empty() {
            // Once for all of them: each store waits for the disk.
            self.addresses.extend(new);
            self.store()?;
        }
        netlink.add_addresses(added)?;
        let told = |new: &NewAddress| tracing::info!(address = %new.address, interface, "added the VIP");
        added.iter().for_each(told);
        Ok(())
    }

    /// Takes VIPs away. Which are left, in words, and the first reason.
    async fn remove_vips(
        &mut self,
        netlink: &Netlink,
        gone: &[(String, IpAddr)],
    ) -> Result<(Vec<String>, Option<anyhow::Error>)> {
        if gone.is_empty() {
            return Ok((Vec::new(), None));
        }
        let links = netlink.links().await?;
        let (mut left, mut first, mut removed) = (Vec::new(), None, BTreeSet::new());
        for (interface, address) in gone {
            if let Some(link) = links.iter().find(|link| link.name == *interface) {
                match netlink.delete_address(link.index, *address, host_prefix(*address)).await {
                    Ok(true) => tracing::info!(%address, interface, "removed the VIP"),
                    Ok(false) => tracing::debug!(%address, interface, "the VIP was gone already"),
                    Err(error) => {
                        left.push(format!("the VIP {address} is still on {interface}: {error:#}"));
                        first.get_or_insert(error.into());
                        continue;
                    }
                }
            }
            removed.insert((interface, *address));
        }
        self.addresses.retain(|(interface, address)| !removed.contains(&(interface, *address)));
        self.store()?;
        Ok((left, first))
    }

    /// Switches an offload off.
    pub fn switch_off(&mut self, interface: &str, feature: &str) -> Result<()> {
        let ours = (interface.to_owned(), feature.to_owned());
        if !self.offloads.contains(&ours) {
            self.offloads.push(ours);
            self.store()?;
        }
        ethtool::set_feature(interface, feature, false)?;
        tracing::info!(interface, feature, "switched the offload off");
        Ok(())
    }

    /// Reserves ports for ourselves. Those that were reserved already stay so in the end.
    pub fn reserve(&mut self, ports: RangeInclusive<u16>) -> Result<()> {
        let missing = reserved::missing(ports)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.ports.extend(&missing);
        self.store()?;
        Ok(reserved::set(&missing, true)?)
    }

    /// Undoes everything. What cannot be undone is said and left in the file.
    pub async fn undo(&mut self, netlink: &Netlink) -> Result<Vec<String>> {
        let (mut warnings, _) = self.remove_vips(netlink, &self.addresses.clone()).await?;
        let mut left = Vec::new();
        for (interface, feature) in std::mem::take(&mut self.offloads) {
            if let Err(error) = ethtool::set_feature(&interface, &feature, true) {
                warnings.push(format!("offload {feature} of {interface} is still off: {error}"));
                left.push((interface, feature));
            }
        }
        self.offloads = left;
        if !self.ports.is_empty() {
            match reserved::set(&self.ports, false) {
                Ok(()) => self.ports.clear(),
                Err(error) => warnings.push(format!("ports of health checks are still reserved: {error}")),
            }
        }
        if self.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", self.path.display()));
                }
                _ => {}
            }
        } else {
            self.store()?;
        }
        Ok(warnings)
    }
}
