//! What the director's own stack is told: rp_filter, and rules of nftables and iptables that drop.

mod legacy;
pub mod nftables;

use std::{collections::BTreeMap, net::SocketAddr};

use super::network::Network;
use crate::{
    config::Config,
    doctor::{
        held::{Held, Next, Way},
        judge::stack::{Facts, Peer},
    },
    model::check::CheckKind,
    net::sysctl::Sysctl,
};

/// `config`: the agent's, if it answers.
pub fn gather(held: &Held, network: &Network, config: Option<&Config>, unknown: &mut Vec<String>) -> Facts {
    let is_local = |way: &&Way| way.next == Next::Local;
    let local = held.ways.iter().filter(is_local);
    Facts {
        vips: held.vips.clone(),
        peers: peers(held, config),
        served: local.map(|way| (way.vip, way.protocol)).collect(),
        rp_filter: rp_filter(network),
        chains: nftables::gather(unknown).into_iter().chain(legacy::gather(unknown)).collect(),
        tracked: tracked(),
    }
}

/// The backends on other hosts, at the ports that are served, or that they are checked at by their own address.
fn peers(held: &Held, config: Option<&Config>) -> Vec<Peer> {
    let mut peers: BTreeMap<_, bool> = BTreeMap::new();
    let others = held.ways.iter().filter(|way| way.next != Next::Local);
    let others: Vec<_> = others.map(|way| (way.backend, way.protocol)).collect();
    let services = config.iter().flat_map(|config| &config.model.services);
    let backends =
        services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
    for (service, backend) in backends {
        for (check, vip) in service.attempts(backend) {
            let target = check.target(backend);
            let elsewhere = others.iter().any(|(other, _)| other.ip() == target.ip());
            // By the checks through the VIP nothing comes to the stack.
            let own = vip.is_none() && !matches!(check.kind, CheckKind::File(_) | CheckKind::Exec(_));
            if let Some(protocol) = check.kind.protocol().filter(|_| own && elsewhere) {
                peers.insert((target, protocol), true);
            }
        }
    }
    for (backend, protocol) in others {
        let is_checked = |(target, _): &(SocketAddr, _)| target.ip() == backend.ip();
        if !peers.keys().any(is_checked) {
            peers.insert((backend, protocol), false);
        }
    }
    peers.into_iter().map(|((at, protocol), checked)| Peer { at, protocol, checked }).collect()
}

/// None: nothing is tracked, or the module is not there.
fn tracked() -> Option<(i64, i64)> {
    let read = |key| Sysctl::net(&["netfilter", key]).and_then(|it| it.read_number()).ok();
    Some((read("nf_conntrack_count")?, read("nf_conntrack_max")?))
}

/// The larger of the interface's own and that of `all` (IN_DEV_MAXCONF).
fn rp_filter(network: &Network) -> Vec<(String, i64)> {
    let value = |name: &str| Sysctl::ipv4_conf(name, "rp_filter").and_then(|it| it.read_number()).ok();
    let with_ipv4 = network.links.iter().filter(|link| {
        !link.loopback && network.addresses.iter().any(|it| it.ifindex == link.index && it.address.is_ipv4())
    });
    with_ipv4.filter_map(|link| Some((link.name.clone(), value("all")?.max(value(&link.name)?)))).collect()
}
