//! What is right and what is wrong for a backend. PURE.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{
    Item, Verdict,
    facts::{ARP_ANNOUNCE, ARP_IGNORE, Facts, Interface, Placed, RP_FILTER},
};
use crate::net::{host_prefix, listeners, sysctl::Sysctl};

/// Ports of servers that are named.
const SHOWN: usize = 10;

/// With this `arp_ignore` a host does not answer ARP for an address on its loopback (`arp_ignore()` in
/// `net/ipv4/arp.c`): 1 and 2 only for addresses of the interface, 8 for none. 3 only spares addresses
/// of host scope, and the others are not defined.
pub(super) fn ignores_right(value: i64) -> bool {
    matches!(value, 1 | 2 | 8)
}

/// Only 2 always takes the sender address of an ARP request from the interface (`arp_solicit()`).
pub(super) fn announces_right(value: i64) -> bool {
    value == 2
}

pub(super) fn judge(facts: &Facts, vips: &BTreeSet<IpAddr>) -> Vec<Item> {
    let mut items = Vec::new();
    if vips.is_empty() {
        items.push(Item::note(
            "VIPs",
            "none is started here (nor since the host booted)",
            "if this host is to be a backend, it takes no packets for its VIPs",
            "lb realserver start VIP; to look at one that is not started: lb realserver status VIP",
        ));
    }
    if !facts.loopback.up {
        items.push(Item::wrong(
            "lo",
            "down",
            "addresses on it are not local: packets for a VIP are not accepted",
            "ip link set lo up",
        ));
    }
    for &vip in vips {
        items.push(on_loopback(facts, vip));
        items.extend(facts.places(vip).filter_map(|placed| elsewhere(facts, placed)));
        items.push(servers(facts, vip));
    }
    if vips.iter().any(IpAddr::is_ipv4) {
        items.extend(arp(facts));
        items.extend(facts.interfaces.iter().filter_map(|i| reverse_path(facts, i)));
    }
    items
}

fn on_loopback(facts: &Facts, vip: IpAddr) -> Item {
    let subject = format!("{vip} on lo");
    let prefix = host_prefix(vip);
    let there: Vec<&Placed> = facts.places(vip).filter(|placed| placed.interface == "lo").collect();
    if let Some(wrong) = there.iter().find(|placed| placed.prefix != prefix) {
        return Item::wrong(
            subject,
            format!("with prefix /{} instead of /{prefix}", wrong.prefix),
            format!(
                "the whole of {vip}/{} counts as local: this host cannot reach its neighbours in it",
                wrong.prefix
            ),
            format!("ip address del {vip}/{} dev lo && lb realserver start {vip}", wrong.prefix),
        );
    }
    match there.first() {
        None => Item::wrong(
            subject,
            "missing",
            "packets that the director sends here for this VIP are not accepted",
            format!("lb realserver start {vip}"),
        ),
        Some(placed) if placed.tentative => Item::wrong(
            subject,
            "duplicate address detection is running or has failed",
            "the address is not usable; on lo it needs none, because other hosts have it rightly",
            format!("ip address replace {vip}/{prefix} dev lo nodad"),
        ),
        Some(_) => Item::right(subject, format!("/{prefix}")),
    }
}

/// A VIP on a NIC is answered for by ARP or ND there, `arp_ignore` or not.
fn elsewhere(facts: &Facts, placed: &Placed) -> Option<Item> {
    let Placed { interface, address, prefix, .. } = placed;
    if interface == "lo" {
        return None;
    }
    let subject = format!("{address} on {interface}");
    let found = format!("/{prefix}, on an interface that answers for it");
    let fix = format!("ip address del {address}/{prefix} dev {interface}");
    // A director that is its own backend has it there rightly while it is master.
    if facts.interfaces.iter().any(|i| i.name == *interface && i.has_xdp) {
        let effect = "right only on the director itself (an XDP program is attached here); else clients may come past it";
        return Some(Item::note(subject, found, effect, fix));
    }
    let effect = "clients and routers may take this host's MAC for the VIP and come past the director";
    Some(Item::wrong(subject, found, effect, fix))
}

/// Which ports are a service's nobody knows here.
fn servers(facts: &Facts, vip: IpAddr) -> Item {
    let subject = format!("TCP servers at {vip}");
    let at = |listener: &SocketAddr| SocketAddr::new(vip, listener.port());
    let serves = |listener: &&SocketAddr| listeners::takes(**listener, at(listener));
    let ports: BTreeSet<u16> = facts.listeners.iter().filter(serves).map(SocketAddr::port).collect();
    let own = |address: IpAddr| facts.places(address).any(|placed| placed.interface != "lo");
    let alone = facts.listeners.iter().find(|listener| {
        let ip = listener.ip();
        ip.is_ipv4() == vip.is_ipv4() && own(ip) && !ports.contains(&listener.port())
    });
    let listen = format!("let it listen on {vip} too, or on every address (MariaDB: `bind-address`)");
    if let Some(alone) = alone {
        let found = format!("port {} is served on {} alone", alone.port(), alone.ip());
        return Item::note(subject, found, format!("connections to {} are refused", at(alone)), listen);
    }
    if ports.is_empty() {
        let effect = "every TCP connection to it is refused (servers of UDP are not looked for)";
        return Item::note(subject, "none", effect, format!("start the server; {listen}"));
    }
    let mut found: Vec<_> = ports.iter().take(SHOWN).map(u16::to_string).collect();
    found.extend((ports.len() > SHOWN).then(|| format!("{} more", ports.len() - SHOWN)));
    Item::right(subject, format!("ports {}", found.join(", ")))
}

fn arp(facts: &Facts) -> Vec<Item> {
    let mut items = Vec::new();
    for (key, is_right, wanted, effect) in [
        (
            ARP_IGNORE,
            ignores_right as fn(i64) -> bool,
            1,
            "this host answers ARP requests for the VIP: clients and routers come past the director",
        ),
        (
            ARP_ANNOUNCE,
            announces_right,
            2,
            "this host names the VIP as sender in its own ARP requests, and neighbours take its MAC for the VIP",
        ),
    ] {
        let all = facts.ipv4("all", key);
        let interfaces_right = !facts.interfaces.is_empty()
            && facts.interfaces.iter().all(|i| is_right(facts.effective(&i.name, key)));
        let all_is_wrong = !is_right(all) && !interfaces_right;
        items.push(if is_right(all) {
            Item::right(name("all", key), all)
        } else if interfaces_right {
            let effect = "every interface has it of its own now; one that comes later would not";
            Item::note(name("all", key), all, effect, set("all", key, wanted))
        } else {
            Item::wrong(name("all", key), all, effect, set("all", key, wanted))
        });
        for interface in std::iter::once("lo").chain(facts.interfaces.iter().map(|i| i.name.as_str())) {
            let item = arp_on(facts, interface, key, is_right, wanted, effect);
            // What `all` mends is said once, of `all`.
            let mended = |item: &Item| {
                all_is_wrong && item.verdict == Verdict::Wrong && item.fix == Some(set("all", key, wanted))
            };
            items.extend(item.filter(|item| !mended(item)));
        }
    }
    items
}

fn arp_on(
    facts: &Facts,
    interface: &str,
    key: &'static str,
    is_right: fn(i64) -> bool,
    wanted: i64,
    effect: &str,
) -> Option<Item> {
    let value = facts.effective(interface, key);
    let found = format!("{value} in effect (the larger of all and {interface})");
    if is_right(value) {
        return Some(Item::right(name(interface, key), found));
    }
    // No ARP request ever comes in on lo.
    if interface == "lo" {
        return None;
    }
    // What is too large of its own is not mended by `all`.
    let own_is_bad = !is_right(facts.ipv4(interface, key)) && facts.ipv4(interface, key) > wanted;
    let fix = set(if own_is_bad { interface } else { "all" }, key, wanted);
    Some(Item::wrong(name(interface, key), found, effect, fix))
}

fn reverse_path(facts: &Facts, interface: &Interface) -> Option<Item> {
    let strict = facts.effective(&interface.name, RP_FILTER) == 1;
    (strict && facts.interfaces.len() > 1).then(|| {
        Item::note(
            name(&interface.name, RP_FILTER),
            "1 (strict) in effect",
            format!(
                "a packet for the VIP that comes in on {} is dropped if the way back to its client leads out of another interface",
                interface.name
            ),
            set(&interface.name, RP_FILTER, 2),
        )
    })
}

fn name(interface: &str, key: &str) -> String {
    match Sysctl::ipv4_conf(interface, key) {
        Ok(sysctl) => sysctl.to_string(),
        Err(_) => format!("{key} of {interface}"),
    }
}

fn set(interface: &str, key: &str, value: i64) -> String {
    format!("sysctl -w {}={value}", name(interface, key))
}

#[cfg(test)]
mod tests;
