//! The pinned maps in words, for the report of a failure: they are there when no agent is.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use lb::{
    clock::{kernel_hz, monotonic},
    dataplane::{FlowEntry, Layout, Maps},
    plan::{Snapshot, address_from, dest_address, name_of},
};
use lb_common::{
    dest, host,
    host::{Path, Route},
    tick::{self, Reading, Tick},
};

/// Words of a generation, and flows, that are shown.
const WORDS: usize = 32;
const FLOWS: usize = 40;

/// Everything that says where packets go.
pub fn describe(layout: &Layout) -> Result<String> {
    let maps = Maps::pinned(layout)?;
    let snapshot = maps.snapshot()?;
    let mut text = String::new();
    configuration(&snapshot, &mut text);
    for (id, dest) in &snapshot.dests {
        let (counts, counters) = (maps.conn_counts(*id), maps.dest_counters(*id)?);
        let address = dest_address(dest);
        let port = u16::from_be_bytes(dest.port);
        let flags =
            flags(dest.flags, &[(dest::flag::RETIRED, "retired"), (dest::flag::ORPHANED, "orphaned")]);
        writeln!(
            text,
            "DESTS {id}: {address} port {port} of service {}, host {}, weight {}, thresholds {}..{}{flags}; {counts:?}; \
             {counters:?}",
            dest.service, dest.host, dest.weight, dest.lower, dest.upper
        )?;
    }
    for verdict in maps.verdicts()?.iter().filter(|verdict| verdict.packets != 0) {
        writeln!(text, "VERDICTS {}: {}", verdict.name, verdict.packets)?;
    }
    let mut flows = Vec::new();
    let now = now(layout)?;
    maps.flows(now, |flow| flows.push(flow));
    writeln!(text, "{} live flows", flows.len())?;
    for flow in flows.iter().take(FLOWS) {
        let FlowEntry { client, client_port, port, endpoint, value, .. } = flow;
        // Not told apart: an IPv6 address whose last 12 bytes are 0 is nobody's.
        let client = address_from(*client, client[4..] != [0; 12]);
        let (dest, state, expiry) = (value.dest(), value.state(), value.expiry().until(now));
        let owner = endpoint.map_or_else(|| "its service".to_owned(), |id| format!("endpoint {id}"));
        writeln!(
            text,
            "client {client} port {client_port} to port {port} of {owner}: destination {dest}, {state:?}, \
             expires in {expiry} ticks"
        )?;
    }
    Ok(text)
}

fn configuration(snapshot: &Snapshot, text: &mut String) {
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (key, endpoint) in &snapshot.endpoints {
        let (id, service, flags) = (endpoint.id(), endpoint.service(), endpoint.flags());
        line(format!("ENDPOINTS {key:?}: id {id}, service {service}, flags {flags:#x}"));
    }
    for (key, endpoint) in &snapshot.ranges {
        let (id, service, flags) = (endpoint.id(), endpoint.service(), endpoint.flags());
        line(format!("RANGES {key:?}: id {id}, service {service}, flags {flags:#x}"));
    }
    for (id, service) in &snapshot.services {
        let rotation = snapshot.rotations.get(id);
        line(format!(
            "SERVICES {id}: {}, generation {:#x}, rotation {rotation:?}",
            name_of(&service.name),
            service.generation
        ));
        let words = snapshot.regions.get(id).map(Vec::as_slice).unwrap_or_default();
        line(format!(
            "ARENA of service {id}, {} words: {:x?}",
            words.len(),
            &words[..words.len().min(WORDS)]
        ));
    }
    for (index, host) in &snapshot.hosts {
        let address = address_from(host.address, host.flags & host::flag::IPV6 != 0);
        let (route, path) = (Route(host.route), Path(host.path));
        let (mac, link) = (route.mac(), route.link());
        line(format!(
            "HOSTS {index}: {address} at {mac:02x?} on link {link}, {:?}, mtu {}",
            path.tags(),
            path.mtu()
        ));
    }
    for (index, link) in &snapshot.links {
        line(format!("LINKS {index}: {}, ifindex {}, {:#x}", name_of(&link.name), link.ifindex, link.mac));
    }
    line(format!("TAGS {:x?}, MACS {:x?}, FILTER {:x?}", snapshot.tags, snapshot.macs, snapshot.filter));
}

/// The flow table's clock, from the reading that the last agent took.
fn now(layout: &Layout) -> Result<Tick> {
    let map = Map::from_map_data(MapData::from_pin(layout.map("CLOCK"))?)?;
    let reading = Array::<_, Reading>::try_from(map)?.get(&0, 0).context("CLOCK is empty")?;
    let hz = kernel_hz();
    let since = monotonic().as_nanos().saturating_sub(u128::from(reading.monotonic_ns));
    let jiffies = u64::try_from(since * u128::from(hz) / 1_000_000_000)?;
    Ok(Tick::from_jiffies(reading.jiffies.wrapping_add(jiffies), tick::shift(hz)))
}

fn flags(set: u16, names: &[(u16, &str)]) -> String {
    names.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| format!(", {name}")).collect()
}
