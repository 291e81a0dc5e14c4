//! An instance's pins: made, adopted, checked, taken down.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::{SCHEMA_VERSION, flow::Secret, meta::Meta, meta::buckets};
use rustix::mount::MountFlags;

use super::{
    Object,
    layout::Layout,
    maps::Maps,
    object::{endpoint_buckets, flow_tables},
};
use crate::model::{FlowSizes, Limits};

/// Why the pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "{path} holds pins of schema version {found}, and this lb is of version {SCHEMA_VERSION}: \
         `lb detach` (of either version) takes them down, with all connections"
    )]
    OtherSchema { path: PathBuf, found: u32 },
    #[error("{path} holds other pins than this lb makes ({what}): `lb detach` takes them down")]
    Damaged { path: PathBuf, what: String },
}

/// What of an earlier agent's was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// Nothing: the tables are new.
    Fresh,
    /// Its tables, with their connections and counters.
    Tables,
}

/// The instance's maps, open, and what is fixed about them.
pub struct Pins {
    pub layout: Layout,
    pub meta: Meta,
    pub maps: Maps,
    pub adopted: Adopted,
}

impl Pins {
    /// Adopts the pins of an earlier agent, or makes new ones of the wanted sizes. The caller holds
    /// the instance's lock. `arena`: words for the generations ([`crate::plan::arena_words`]).
    pub fn open(layout: Layout, hz: u32, flows: FlowSizes, limits: Limits, arena: u32) -> Result<Self> {
        mount_bpffs(layout.bpffs())?;
        let (meta, adopted) = match read_meta(&layout)? {
            Some(meta) => (meta, Adopted::Tables),
            None => {
                // Left by a start that was cut off: of sizes that nobody knows.
                if layout.maps().exists() {
                    fs::remove_dir_all(layout.maps())
                        .with_context(|| format!("removing {}", layout.maps().display()))?;
                }
                (new_meta(hz, flows, limits, arena)?, Adopted::Fresh)
            }
        };
        fs::create_dir_all(layout.maps()).with_context(|| format!("making {}", layout.maps().display()))?;
        if adopted == Adopted::Tables {
            check_sizes(&layout, &meta)?;
        }
        drop(Object::open(&layout, &meta, 0)?);
        let mut maps = Maps::open(&layout, &meta)?;
        if adopted == Adopted::Fresh {
            maps.unused_dests = 1;
            // Last, so that a meta pin means complete maps.
            write_meta(&layout, &meta)?;
        } else {
            remove_other_tables(&layout, &meta)?;
            maps.free_abandoned_slots();
        }
        Ok(Self { layout, meta, maps, adopted })
    }

    /// Makes flow tables of other sizes beside those that there are, and what `meta` says once they are used. Until
    /// [`Pins::follow`] they are nobody's.
    pub fn resize(&self, flows: FlowSizes) -> Result<Meta> {
        remove_other_tables(&self.layout, &self.meta)?;
        let meta = self.meta.resized(buckets(flows.ipv4), buckets(flows.wide));
        match Object::open(&self.layout, &meta, 0) {
            Ok(_) => Ok(meta),
            Err(error) => {
                self.abandon_resize();
                Err(error.into())
            }
        }
    }

    /// Gives the tables of [`Pins::resize`] up, and their memory.
    pub fn abandon_resize(&self) {
        if let Err(error) = remove_other_tables(&self.layout, &self.meta) {
            tracing::warn!("flow tables that are not used are left: {error:#}");
        }
    }

    /// Makes `meta` hold from now on, by one write. Tables that it does not name are gone.
    pub fn follow(&mut self, meta: Meta) -> Result<()> {
        let maps = Maps::open(&self.layout, &meta)?;
        let pinned = Map::from_map_data(MapData::from_pin(self.layout.meta())?)?;
        Array::<_, Meta>::try_from(pinned)?.set(0, meta, 0).context("writing the meta map")?;
        let unused_dests = self.maps.unused_dests;
        (self.meta, self.maps) = (meta, Maps { unused_dests, ..maps });
        remove_other_tables(&self.layout, &meta)
    }
}

/// Removes the pins of flow tables that `meta` does not name: of a move that was cut off at its beginning or end.
fn remove_other_tables(layout: &Layout, meta: &Meta) -> Result<()> {
    let named: Vec<PathBuf> = flow_tables(layout, meta).into_iter().map(|table| table.pin).collect();
    for entry in fs::read_dir(layout.maps())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("FLOWS") && !named.contains(&path) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn new_meta(hz: u32, flows: FlowSizes, limits: Limits, arena: u32) -> Result<Meta> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("getting random bytes for the hash secret")?;
    let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let secret = Secret::from_random(word(&random[..8]), word(&random[8..]));
    Ok(Meta {
        schema: SCHEMA_VERSION,
        hz,
        secret_a: secret.a,
        secret_b: secret.b,
        narrow_buckets: buckets(flows.ipv4),
        wide_buckets: buckets(flows.wide),
        // Id 0 does not exist.
        services: limits.services + 1,
        dests: limits.destinations + 1,
        arena,
        endpoints: limits.endpoints + 1,
        ..Meta::default()
    })
}

pub(super) fn read_meta(layout: &Layout) -> Result<Option<Meta>> {
    let path = layout.meta();
    if !path.exists() {
        return Ok(None);
    }
    let damaged = |what: String| PinError::Damaged { path: layout.dir(), what };
    let info = MapInfo::from_pin(&path).map_err(|error| damaged(error.to_string()))?;
    if info.value_size() as usize != size_of::<Meta>() {
        bail!(damaged(format!("meta of {} bytes", info.value_size())));
    }
    let map = Map::from_map_data(MapData::from_pin(&path)?)?;
    let meta: Meta = Array::<_, Meta>::try_from(map)?.get(&0, 0)?;
    if meta.schema != SCHEMA_VERSION {
        bail!(PinError::OtherSchema { path: layout.dir(), found: meta.schema });
    }
    Ok(Some(meta))
}

fn write_meta(layout: &Layout, meta: &Meta) -> Result<()> {
    let mut map = Array::<MapData, Meta>::create(1, 0).context("making the meta map")?;
    map.set(0, meta, 0)?;
    map.pin(layout.meta()).context("pinning the meta map")
}

/// aya opens a pin under whatever sizes are asked for; a difference would make the program read
/// beyond what it believes to be there.
fn check_sizes(layout: &Layout, meta: &Meta) -> Result<()> {
    let others = [
        ("SERVICES", meta.services),
        ("ENDPOINTS", endpoint_buckets(meta.endpoints)),
        ("DESTS", meta.dests),
        ("ARENA", meta.pieces()),
    ];
    let tables = flow_tables(layout, meta).into_iter().map(|table| (table.pin, table.buckets));
    for (path, entries) in tables.chain(others.map(|(name, entries)| (layout.map(name), entries))) {
        let damaged = |what: String| PinError::Damaged { path: path.clone(), what };
        let info = MapInfo::from_pin(&path).map_err(|error| damaged(error.to_string()))?;
        if info.max_entries() != entries {
            bail!(damaged(format!("{} entries where meta says {entries}", info.max_entries())));
        }
    }
    Ok(())
}

/// Whether a BPF file system is mounted there.
pub fn is_bpffs(path: &Path) -> bool {
    /// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type & 0xffff_ffff == BPF_FS_MAGIC)
}

/// Undoes the mount of a start that failed.
pub fn unmount_bpffs(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty())?)
}

/// Mounts bpffs if it is not there.
fn mount_bpffs(path: &Path) -> Result<()> {
    if is_bpffs(path) {
        return Ok(());
    }
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    rustix::mount::mount(
        "bpf",
        path,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .with_context(|| format!("mounting bpffs on {}", path.display()))?;
    tracing::info!(path = %path.display(), "mounted bpffs");
    Ok(())
}

/// Takes everything of the instance down: links (with them the programs), maps, directories.
/// Whether there was anything.
pub fn detach(layout: &Layout) -> io::Result<bool> {
    let dir = layout.dir();
    if !dir.exists() {
        return Ok(false);
    }
    // Links first, so that no packet meets half a configuration.
    layout.detach_others(&BTreeSet::new())?;
    fs::remove_dir_all(&dir)?;
    if let Some(parent) = dir.parent() {
        // Of the last instance.
        let _ = fs::remove_dir(parent);
    }
    Ok(true)
}

/// Where membarrier(2) is refused: a scheduling clock tick on every CPU ends every section that had begun; a
/// NAPI poll is bounded by two jiffies (`netdev_budget_usecs`).
const TICKS_EVERYWHERE: Duration = Duration::from_millis(50);

/// Returns when no CPU runs a program that may still use what was replaced before the call.
pub fn grace_period() -> Result<()> {
    use rustix::thread::{MembarrierCommand, membarrier};
    // MEMBARRIER_CMD_GLOBAL is a synchronize_rcu() (kernel/sched/membarrier.c), and XDP programs
    // run inside an RCU read-side section. It is refused on nohz_full machines.
    wait_for_all(|| membarrier(MembarrierCommand::Global).is_ok(), std::thread::sleep);
    Ok(())
}

fn wait_for_all(barrier: impl FnOnce() -> bool, sleep: impl FnOnce(Duration)) {
    if !barrier() {
        sleep(TICKS_EVERYWHERE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_membarrier_is_refused_time_has_to_pass() {
        for (granted, waits) in [(true, None), (false, Some(TICKS_EVERYWHERE))] {
            let mut waited = None;
            wait_for_all(|| granted, |time| waited = Some(time));
            assert_eq!(waited, waits);
        }
    }
}
