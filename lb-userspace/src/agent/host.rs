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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

    /// Writes down what is about to be changed. What the disk does not take is not known either: taken for known, it
    /// would be made at the next attempt, and the agent after a crash would not know that it is ours.
    fn note(&mut self, new: impl FnOnce(&mut Self)) -> Result<()> {
        let before = self.clone();
        new(self);
        self.store().inspect_err(|_| *self = before)
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
        if !gone.is_empty() {
            self.store()?;
        }
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
            self.note(|changes| changes.addresses.extend(new))?;
        }
        netlink.add_addresses(added)?;
        let told = |new: &NewAddress| tracing::info!(address = %new.address, interface, "added the VIP");
        added.iter().for_each(told);
        Ok(())
    }

    /// Takes VIPs away, not yet out of the file. Which are left, in words, and the first reason.
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
        Ok((left, first))
    }

    /// Switches an offload off.
    pub fn switch_off(&mut self, interface: &str, feature: &str) -> Result<()> {
        let ours = (interface.to_owned(), feature.to_owned());
        if !self.offloads.contains(&ours) {
            self.note(|changes| changes.offloads.push(ours))?;
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
        self.note(|changes| changes.ports.extend(&missing))?;
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
        // Whatever the disk is like: behind this the programs have to be taken off.
        if let Err(error) = self.close() {
            let path = self.path.display();
            warnings.push(format!(
                "{path} does not say what was undone ({error:#}): remove it before a new start"
            ));
        }
        Ok(warnings)
    }

    /// What is left to be undone, or no file.
    fn close(&self) -> Result<()> {
        if !self.is_empty() {
            return self.store();
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("removing it"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: (&str, IpAddr) = ("eth0", IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    fn changes(path: PathBuf) -> HostChanges {
        HostChanges { path, ..HostChanges::default() }
    }

    fn note_vip(changes: &mut HostChanges) -> Result<()> {
        let (interface, address) = VIP;
        changes.note(|changes| changes.addresses.push((interface.to_owned(), address)))
    }

    #[test]
    fn what_the_disk_did_not_take_is_not_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut changes = changes(dir.path().join("gone").join("host.json"));
        note_vip(&mut changes).expect_err("there is no directory");
        assert!(changes.is_empty(), "{changes:?}");
        changes.switch_off("eth0", "rx-gro-hw").expect_err("there is no directory");
        assert!(changes.is_empty(), "{changes:?}");
    }

    /// A directory in the place of the file is neither replaced nor removed, by nobody.
    #[tokio::test]
    async fn undoing_ends_on_a_disk_that_takes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let netlink = Netlink::connect().expect("netlink");
        for (what, addresses) in
            [("nothing is left", vec![]), ("a VIP of an interface that is gone", vec![VIP])]
        {
            let addresses = addresses.into_iter().map(|(_, it)| ("gone-42".to_owned(), it)).collect();
            let mut changes = HostChanges { addresses, ..changes(dir.path().to_owned()) };
            let warnings = changes.undo(&netlink).await.expect(what);
            assert_eq!(warnings.len(), 1, "{what}: {warnings:?}");
            assert!(warnings[0].contains(&dir.path().display().to_string()), "{what}: {warnings:?}");
        }
    }
}
