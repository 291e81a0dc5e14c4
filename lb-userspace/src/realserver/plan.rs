//! From what is so to what is to be done. PURE.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Change, Error, Item,
    facts::{ARP_ANNOUNCE, ARP_IGNORE, Facts},
    judge::{announces_right, ignores_right},
    state::{Saved, Started, State},
};
use crate::net::{host_prefix, sysctl::Sysctl};

/// Which addresses `stop` takes off the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// The VIPs that `start` put there.
    #[default]
    Ours,
    /// Also VIPs that were there before, for example from lvs_realserver.sh.
    Any,
}

/// What `start` will do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StartPlan {
    /// To be saved before the changes.
    pub state: State,
    /// In this order: ARP is silenced before the VIP is there.
    pub changes: Vec<Change>,
}

/// What `stop` will do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StopPlan {
    /// To be saved after the changes.
    pub state: State,
    /// In this order: the VIP is gone before ARP is answered again.
    pub changes: Vec<Change>,
    /// What is left, and why.
    pub notes: Vec<Item>,
}

pub(super) fn start(facts: &Facts, mut state: State, vips: &BTreeSet<IpAddr>) -> Result<StartPlan, Error> {
    let mut changes = Vec::new();
    if !facts.loopback.up {
        changes.push(Change::LoopbackUp);
    }
    if vips.iter().any(IpAddr::is_ipv4) {
        silence_arp(facts, &mut state, &mut changes)?;
    }
    for &address in vips {
        let prefix = host_prefix(address);
        if address.is_ipv6() && facts.ipv6_off {
            return Err(Error::Ipv6Off { address });
        }
        let there = facts.places(address).any(|placed| placed.interface == "lo" && placed.prefix == prefix);
        if !there {
            changes.push(Change::Added { address, prefix });
            state.vips.insert(address, Started { added: true });
        } else {
            // Started before, or the operator's own.
            state.vips.entry(address).or_insert(Started { added: false });
        }
    }
    Ok(StartPlan { state, changes })
}

fn silence_arp(facts: &Facts, state: &mut State, changes: &mut Vec<Change>) -> Result<(), Error> {
    type Test = fn(i64) -> bool;
    let wanted: [(&'static str, i64, Test); 2] =
        [(ARP_IGNORE, 1, ignores_right), (ARP_ANNOUNCE, 2, announces_right)];
    for interface in ["all", "lo"] {
        for (name, to, is_right) in wanted {
            let from = facts.ipv4(interface, name);
            if is_right(from) {
                continue;
            }
            let key = Sysctl::ipv4_conf(interface, name)?;
            // The original of an earlier start stays.
            state.sysctls.entry(key.clone()).or_insert(Saved { before: from, set: to });
            changes.push(Change::Set { key, from, to });
        }
    }
    Ok(())
}

pub(super) fn stop(facts: &Facts, mut state: State, vips: &BTreeSet<IpAddr>, removal: Removal) -> StopPlan {
    let mut changes = Vec::new();
    let mut notes = Vec::new();
    for &address in vips {
        let started = state.vips.remove(&address);
        let ours = started.is_some_and(|started| started.added);
        let prefix = host_prefix(address);
        let Some(placed) = facts
            .places(address)
            .filter(|placed| placed.interface == "lo")
            .min_by_key(|placed| placed.prefix != prefix)
        else {
            if started.is_none() {
                notes.push(not_started(address));
            }
            continue;
        };
        if (ours && placed.prefix == prefix) || removal == Removal::Any {
            changes.push(Change::Removed { address, prefix: placed.prefix });
        } else {
            notes.push(left_alone(address, placed.prefix));
        }
    }
    if !state.vips.keys().any(IpAddr::is_ipv4) {
        restore_arp(facts, &mut state, &mut changes, &mut notes);
    }
    StopPlan { state, changes, notes }
}

fn restore_arp(facts: &Facts, state: &mut State, changes: &mut Vec<Change>, notes: &mut Vec<Item>) {
    for (key, Saved { before, set }) in std::mem::take(&mut state.sysctls) {
        let current = facts.ipv4.iter().find_map(|((interface, name), value)| {
            (Sysctl::ipv4_conf(interface, name).ok()? == key).then_some(*value)
        });
        match current {
            Some(current) if current == set => {
                changes.push(Change::Restored { key, from: current, to: before });
            }
            Some(current) if current != before => notes.push(changed_meanwhile(&key, current, before, set)),
            // It has its old value already, or its interface is gone.
            _ => {}
        }
    }
}

fn not_started(address: IpAddr) -> Item {
    Item::note(
        address,
        "is not on lo and was not started",
        "nothing to stop",
        format!("lb realserver status {address}"),
    )
}

fn left_alone(address: IpAddr, prefix: u8) -> Item {
    Item::note(
        format!("{address} on lo"),
        format!("/{prefix}, left there: not `lb realserver start` put it there"),
        "this host still accepts connections to it, and answers ARP for it unless arp_ignore says otherwise",
        format!("ip address del {address}/{prefix} dev lo"),
    )
}

fn changed_meanwhile(key: &Sysctl, current: i64, before: i64, set: i64) -> Item {
    Item::note(
        key,
        format!("{current}, left so: `start` had set {set}, somebody changed it since"),
        format!("it was {before} before `start`"),
        format!("sysctl -w {key}={before}"),
    )
}

#[cfg(test)]
mod tests;
