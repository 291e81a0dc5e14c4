//! `lb realserver`: makes a host a backend of Direct Routing, and takes it back.
//!
//! A backend accepts packets for the VIP, so it has the VIP on its loopback; but only the director may
//! answer ARP for the VIP, so the backend must neither answer (`arp_ignore`) nor name the VIP as sender in
//! its own requests (`arp_announce`), see `Documentation/networking/ip-sysctl.rst`. What the kernel
//! applies is the larger of `conf/all` and `conf/INTERFACE`, so `all` is enough; `lo` is set too, as every
//! LVS manual does it.
//!
//! IPv6 needs no sysctl: Linux answers a neighbour solicitation only for an address of the interface that
//! the solicitation came in on (`net/ipv6/ndisc.c`, `ndisc_recv_ns`), and takes only such an address as the
//! source of its own (`ndisc_solicit`). `tests/net/realserver.rs` proves both on the running kernel. The
//! VIP goes on the loopback without duplicate address detection.
//!
//! What an operator can rely on:
//! * `start` changes only what is not right yet: `arp_ignore` 2 (stricter than 1) stays, and a VIP that
//!   is on the loopback already stays the operator's. It writes down what it changes before it changes it.
//! * `stop` undoes what `start` did, for the VIPs that are given, and nothing else. A VIP that was on the
//!   loopback before `start` stays there, and the report says so and how to remove it; with
//!   [`Removal::Any`] it goes too. The sysctls go back to their values before the first `start`, when the
//!   last IPv4 VIP is stopped, unless somebody has changed them meanwhile.
//! * The loopback interface is set up if it is down, and stays up.

mod error;
mod facts;
mod judge;
mod plan;
mod report;
mod state;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

pub use self::{
    error::Error,
    plan::Removal,
    report::{Change, Item, Report, Verdict},
};
use self::{
    facts::Facts,
    state::{State, StateFile},
};
use crate::net::Netlink;

/// Where `lb realserver` keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What `start` changed and what was there before. One per network namespace; a `.lock` file is made
    /// beside it.
    pub state: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { state: "/run/lb/realserver.json".into() }
    }
}

/// Puts the VIPs on the loopback and silences ARP for them. Doing it again changes nothing.
pub async fn start(vips: &[IpAddr], paths: &Paths) -> Result<Report, Error> {
    let vips = checked(vips)?;
    let file = StateFile::lock(&paths.state).await?;
    let net = Netlink::connect()?;
    let facts = Facts::gather(&net).await?;
    let plan = plan::start(&facts, file.load()?, &vips)?;
    // Before the changes: a start that is cut short can still be stopped.
    file.save(&plan.state)?;
    apply(&net, &facts, &plan.changes).await?;
    let items = judge::judge(&Facts::gather(&net).await?, &vips);
    Ok(Report::new(plan.changes, items))
}

/// Undoes [`start`] for these VIPs.
pub async fn stop(vips: &[IpAddr], removal: Removal, paths: &Paths) -> Result<Report, Error> {
    let vips = checked(vips)?;
    let file = StateFile::lock(&paths.state).await?;
    let net = Netlink::connect()?;
    let facts = Facts::gather(&net).await?;
    let plan = plan::stop(&facts, file.load()?, &vips, removal);
    apply(&net, &facts, &plan.changes).await?;
    // After the changes: a stop that is cut short can be repeated.
    file.save(&plan.state)?;
    Ok(Report::new(plan.changes, plan.notes))
}

/// Says what is right and what is wrong; for all started VIPs if none is given. Changes nothing and needs
/// no privilege.
pub async fn status(vips: &[IpAddr], paths: &Paths) -> Result<Report, Error> {
    let mut vips = checked(vips)?;
    if vips.is_empty() {
        vips = State::read(&paths.state)?.vips.keys().copied().collect();
    }
    let facts = Facts::gather(&Netlink::connect()?).await?;
    Ok(Report::new(Vec::new(), judge::judge(&facts, &vips)))
}

/// Addresses that can be a VIP, each once.
fn checked(vips: &[IpAddr]) -> Result<BTreeSet<IpAddr>, Error> {
    for &address in vips {
        let why = match address {
            a if a.is_unspecified() => "it is the unspecified address",
            a if a.is_loopback() => "it is a loopback address, which no client can reach",
            a if a.is_multicast() => "it is a multicast address",
            IpAddr::V4(a) if a.is_broadcast() => "it is the broadcast address",
            IpAddr::V6(a) if a.is_unicast_link_local() => {
                "it is a link-local address, which belongs to one link"
            }
            IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
                "it is an IPv4-mapped address; give the IPv4 address"
            }
            _ => continue,
        };
        return Err(Error::NotAVip { address, why });
    }
    Ok(vips.iter().copied().collect())
}

async fn apply(net: &Netlink, facts: &Facts, changes: &[Change]) -> Result<(), Error> {
    use crate::net::NewAddress;
    let lo = facts.loopback.index;
    for change in changes {
        match change {
            Change::LoopbackUp => net.set_up(lo).await?,
            Change::Set { key, to, .. } | Change::Restored { key, to, .. } => key.write(to)?,
            Change::Added { address, .. } => drop(net.add_address(NewAddress::vip(lo, *address))?),
            Change::Removed { address, prefix } => drop(net.delete_address(lo, *address, *prefix).await?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_vip() {
        for text in [
            "0.0.0.0",
            "::",
            "127.0.0.2",
            "::1",
            "224.0.0.18",
            "255.255.255.255",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            let address: IpAddr = text.parse().expect("an address");
            assert!(matches!(checked(&[address]), Err(Error::NotAVip { .. })), "{text}");
        }
        let good = ["172.18.14.100", "fd00::100", "172.18.14.100"].map(|t| t.parse().expect("an address"));
        assert_eq!(checked(&good).expect("good").len(), 2);
    }
}
