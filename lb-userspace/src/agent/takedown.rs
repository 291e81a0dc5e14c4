//! Taking down: what `lb detach` does, and what becomes of a start that failed.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use anyhow::{Context, Result};

use super::{host::HostChanges, start::lock};
use crate::{
    dataplane::{Layout, detach, is_bpffs, unmount_bpffs},
    net::Netlink,
};

/// What there was before a start, so that a failed one leaves that and no more.
pub struct Before {
    /// Neither pins nor host changes of an earlier agent in this boot: what a failed start leaves is its
    /// own. (Pins may be there and not be seen, behind another mount of bpffs.)
    fresh: bool,
    mounted: bool,
    mount_point: bool,
}

impl Before {
    pub fn look(layout: &Layout, state: &Path) -> Result<Self> {
        Ok(Self {
            fresh: !layout.meta().exists() && HostChanges::open(state)?.is_empty(),
            mounted: is_bpffs(layout.bpffs()),
            mount_point: layout.bpffs().exists(),
        })
    }

    /// Where there was nothing, nothing is left. What an earlier agent had made goes on.
    pub async fn restore(self, layout: &Layout, state: &Path) {
        if !self.fresh {
            return;
        }
        if let Err(error) = detach_everything(layout, state).await {
            tracing::error!("taking down what the start had made: {error:#}");
        }
        if self.mounted || !is_bpffs(layout.bpffs()) {
            return;
        }
        match unmount_bpffs(layout.bpffs()) {
            // An empty directory.
            Ok(()) if !self.mount_point => drop(fs::remove_dir(layout.bpffs())),
            Ok(()) => {}
            Err(error) => tracing::error!("unmounting {} again: {error}", layout.bpffs().display()),
        }
    }
}

/// Host changes, links and pins of an instance, gone. VIPs first: without the program the host itself
/// would answer their connections with RST.
pub async fn detach_everything(layout: &Layout, state: &Path) -> Result<Vec<String>> {
    let changed = HostChanges::path(state).exists();
    let warnings = if changed {
        let netlink = Netlink::connect()?;
        HostChanges::open(state)?.undo(&netlink).await?
    } else {
        Vec::new()
    };
    let there = detach(layout).with_context(|| format!("removing {}", layout.dir().display()))?;
    if !there && !changed {
        return Ok(vec![format!("nothing was attached ({} does not exist)", layout.dir().display())]);
    }
    Ok(warnings)
}

/// `lb detach` where no agent answers at `socket`. Refuses under a live one.
pub async fn detach_without_agent(
    instance: &str,
    bpffs: &Path,
    state_dir: &Path,
    socket: &Path,
) -> Result<Vec<String>> {
    let state = state_dir.join(instance);
    let layout = Layout::new(bpffs, instance);
    let _lock = if state.exists() { Some(lock(&state, instance)?) } else { None };
    let warnings = detach_everything(&layout, &state).await?;
    // An agent that was killed leaves its socket.
    if fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(socket).with_context(|| format!("removing {}", socket.display()))?;
    }
    Ok(warnings)
}
